"""One judge for all tests here, and subgraphs and candidates written by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from akg_dynamo.agents.verifier import Judge, shut_down


@pytest.fixture(scope="session")
def judge() -> Iterator[Judge]:
    with Judge() as one:
        one.wait_ready()
        yield one
    shut_down()
