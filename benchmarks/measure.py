"""The timing that the benchmark scripts share with `akg bench`: see akg_dynamo/bench/clock.py."""

from __future__ import annotations

from akg_dynamo.bench.clock import Call, Ratio, Rounds, geometric_mean, interleave
from akg_dynamo.bench.table import environment as _environment

__all__ = ["Call", "Ratio", "Rounds", "environment", "geometric_mean", "interleave"]


def environment(device: str = "cpu") -> dict[str, object]:
    """What a result must be read with."""
    return _environment(device)
