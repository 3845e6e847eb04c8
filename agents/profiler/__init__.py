"""Measures whether a kernel is worth it: see `abba`, and `device` for what a call costs where work is queued."""

from akg_dynamo.agents.profiler.abba import THRESHOLD, compare, interval, sample

__all__ = ["THRESHOLD", "compare", "interval", "sample"]
