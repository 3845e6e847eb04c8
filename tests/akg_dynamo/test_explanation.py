"""What explain() prints of a graph."""

from __future__ import annotations

import io

from rich.console import Console

from akg_dynamo.explanation import GraphReport


def printed(report: GraphReport) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report)
    return console.export_text()


def test_rewrites_are_printed_as_they_are() -> None:
    said = ("attention masks (2) [that] are causal", "12 convolutions run with channels last")
    text = printed(GraphReport("forward", 3, 40, rewrites=said))
    for sentence in said:
        assert text.count(f"  rewritten: {sentence}\n") == 1


def test_nothing_rewritten_prints_nothing() -> None:
    assert "rewritten" not in printed(GraphReport("forward", 0, 1))
