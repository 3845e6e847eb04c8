"""The worker's side of the stopwatch: one call after another, each on a data set of its own.

What every call returns is left in the judge's memory before the answer is sent, so that the judge may look at any of
them: a call that was skipped, put off or answered from memory is a wrong output at the end of the clock.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from akg_dynamo.agents.verifier.arena import typed

Run = Callable[..., Any]
Inputs = Callable[[torch.Tensor, Mapping[str, Any]], list[Any]]

_copy = torch.Tensor.copy_  # as it is before a candidate can put another in its place


@dataclass(frozen=True)
class DataSets:
    """What each call is given, and where its outputs go."""

    arguments: list[list[Any]]
    places: list[list[torch.Tensor]]


def data_sets(memory: torch.Tensor, layout: Mapping[str, Any], inputs: Inputs) -> DataSets:
    """The sets that the judge has laid out in that memory, all alike. `inputs`: what the case at an offset is given."""
    arguments, places = [], []
    memory[:: mmap.PAGESIZE].sum()  # mapped from now on: what that takes is no call's
    for i in range(layout["sets"]):
        at = layout["first"] + i * layout["step"]
        given = [{**spec, "offset": spec.get("at", at + spec["offset"])} for spec in layout["inputs"]]
        arguments.append(inputs(memory, {**layout["case"], "inputs": given}))
        places.append([_place(memory, spec, at) for spec in layout["outputs"]])
    return DataSets(arguments, places)


def _place(memory: torch.Tensor, spec: Mapping[str, Any], at: int) -> torch.Tensor:
    flat = typed(memory, at + spec["offset"], spec["elements"], getattr(torch, spec["dtype"]))
    return flat.as_strided(spec["shape"], spec["stride"], flat.storage_offset())


def timed(run: Run, sets: DataSets, first: int, count: int) -> Any:
    """Call it so many times, from the data set `first` on; what the last call returned.

    Each output is copied at once: a kernel may return the same buffer every time.
    """
    outputs: Any = ()
    pairs = zip(sets.arguments[first : first + count], sets.places[first : first + count], strict=True)
    for arguments, places in pairs:
        outputs = run(*arguments)
        for place, output in zip(places, outputs, strict=True):
            _copy(place, output)
    return outputs


def copies(run: Run, sets: DataSets) -> Run:
    """A function that returns what `run` once returned: timed like it, it shows what leaving outputs behind takes."""
    outputs = run(*sets.arguments[0])

    def returns(*arguments: Sequence[Any]) -> Any:
        return outputs

    return returns
