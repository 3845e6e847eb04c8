"""AKG makes a PyTorch model faster without changing what it computes.

model = torch.compile(model, backend="akg")
print(*akg_dynamo.explain())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from akg_dynamo.explanation import GraphReport

__all__ = ["explain"]


def explain() -> list[GraphReport]:
    """What became of each graph compiled in this process: kernels, what stays with torch and why, fallbacks."""
    from akg_dynamo.explanation import records  # torch finds the backend by importing this package: keep that cheap

    return records.all()
