"""The catalogue is well formed: headers, rows, and names of what is expected."""

from __future__ import annotations

from akg_dynamo.core.types import Outcome, Trick

from . import catalogue


def test_every_entry_can_be_read_and_names_what_exists() -> None:
    known = {t.name for t in Trick} | {o.name for o in Outcome}
    for entry in catalogue.attacks():
        assert entry.expects <= known, f"{entry.name}: {sorted(entry.expects - known)}"
    assert catalogue.controls()
