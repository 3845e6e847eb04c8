"""Judges candidates: right or wrong, faster or not. `judge` says how to use it, `referee` and `values` how it works."""

from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.judge import Judge, foresee, shut_down

__all__ = ["Job", "Judge", "foresee", "shut_down"]
