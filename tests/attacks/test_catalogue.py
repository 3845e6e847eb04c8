"""The catalogue is well formed, and the document is made of it."""

from __future__ import annotations

from collections import Counter

from akg_dynamo.core.types import Outcome, Trick

from . import matrix
from .catalogue import ROWS, attacks, controls


def test_every_entry_can_be_read_and_names_what_exists() -> None:
    known = {t.name for t in Trick} | {Outcome.RIGHT.name, Outcome.DEGENERATE.name}
    for entry in attacks():
        assert entry.expects <= known, f"{entry.name}: {sorted(entry.expects - known)}"
        assert len(entry.expects) <= 3, f"{entry.name}: whatever is said of it would do"
        assert "RIGHT" not in entry.expects or entry.timing, f"{entry.name}: only a clock tells who is right and slow"


def test_every_row_has_three_attacks_and_there_are_ten_of_our_own_and_ten_controls() -> None:
    counts = Counter(entry.row for entry in attacks())
    few = {row: counts[row] for row in ROWS if counts[row] < (10 if row == "own" else 3)}
    assert not few
    assert len(controls()) >= 10


def test_the_document_is_made_of_the_catalogue_and_its_results() -> None:
    """If not: python -m tests.attacks.matrix --render, or make judge-matrix where something new is to be tried."""
    assert matrix.DOCUMENT.read_text() == matrix.render()


def test_the_document_counts_every_attack() -> None:
    for entry in attacks():
        assert f"| {entry.name} |" in matrix.DOCUMENT.read_text()
