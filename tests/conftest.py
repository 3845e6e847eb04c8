"""What all tests share: a cache folder of their own, so that no run sees another's kernels or the user's; and no luck:
whatever is drawn is drawn alike in every run, whichever tests run before.

`--hypothesis-profile=exploring` draws other examples every time.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
import torch

# At import, before any test module can start a process or read the settings.
_FOLDER = tempfile.mkdtemp(prefix="akg-tests-")
os.environ["AKG_CACHE_DIR"] = _FOLDER

with contextlib.suppress(ModuleNotFoundError):  # the tests for GPUs do without
    from hypothesis import HealthCheck, settings

    # How long an example takes says nothing of what is tested, and much of what else runs.
    settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("repeatable", settings.get_profile("exploring"), derandomize=True)
    settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _cache_folder() -> Iterator[None]:
    yield
    shutil.rmtree(_FOLDER, ignore_errors=True)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Before a module is imported, which may draw what its tests are parametrized with."""
    if isinstance(collector, pytest.Module):
        _seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before the fixtures of a test."""
    _seed(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Before the test itself: fixtures that others share have drawn only for the first of them."""
    _seed(2)
