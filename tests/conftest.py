"""What all tests share: a cache folder of their own, so that no run sees another's kernels or the user's."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

# At import, before any test module can start a process or read the settings.
_FOLDER = tempfile.mkdtemp(prefix="akg-tests-")
os.environ["AKG_CACHE_DIR"] = _FOLDER


@pytest.fixture(scope="session", autouse=True)
def _cache_folder() -> Iterator[None]:
    yield
    shutil.rmtree(_FOLDER, ignore_errors=True)
