"""The Unified Sketch: `ast` fixes its meaning, `parse` and `to_text` its spelling, `check` what is well formed,
`interpret` what it computes."""

from akg_dynamo.agents.sketch.check import check
from akg_dynamo.agents.sketch.interpret import interpret
from akg_dynamo.agents.sketch.parse import parse
from akg_dynamo.agents.sketch.printer import to_text

__all__ = ["check", "interpret", "parse", "to_text"]
