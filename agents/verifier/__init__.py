"""Judges candidates: right or wrong, faster or not. See `judge` for how to use it, `referee` for how it works."""

from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.judge import Judge, shut_down

__all__ = ["Job", "Judge", "shut_down"]
