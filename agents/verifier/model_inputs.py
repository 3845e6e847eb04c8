"""The judge's side of a task that is a model: its parameters, by seed, and inputs as the task itself draws them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch

from akg_dynamo.agents.verifier.model_call import FIRST_SEED, ModelCall
from akg_dynamo.agents.verifier.shapes import storage_elements, values
from akg_dynamo.core.types import TensorSpec

GIVEN = "given"
"""The kind of inputs that the task draws."""
_SETS = 2  # of parameters


class ModelInputs:
    """What is not the judge's to draw."""

    def __init__(self, call: ModelCall) -> None:
        self.call = call
        self._states: dict[int, dict[int, torch.Tensor]] = {}

    @cached_property
    def varies(self) -> bool:
        """Whether the task draws other inputs when it is asked again: some seed themselves."""
        first, second = self._drawn(1), self._drawn(2)
        return any(not torch.equal(t, second[i]) for i, t in first.items())

    def fixed(self, kind: str, number: int, seed: int) -> dict[int, torch.Tensor]:
        """By input: the parameters and constants of a case, and for the task's own kind its other inputs, too."""
        found = self._state(number % _SETS)
        return {**found, **self._drawn(seed)} if kind == GIVEN else found

    def _state(self, which: int) -> dict[int, torch.Tensor]:
        if which not in self._states:
            torch.manual_seed(FIRST_SEED + which)
            own = self.call.task.model().state_dict()
            self._states[which] = {i: own[name].detach() for name, i in self.call.state} | dict(self.call.constants)
        return self._states[which]

    def _drawn(self, seed: int) -> dict[int, torch.Tensor]:
        torch.manual_seed(seed)
        first = self.call.task.draw()[0]
        pairs = zip(self.call.arguments, first, strict=True)
        return {i: value for (i, _), value in pairs if i is not None and isinstance(value, torch.Tensor)}


def storage_of(
    tensor: torch.Tensor, spec: TensorSpec, sizes: Mapping[str, int], device: torch.device
) -> torch.Tensor | None:
    """Its values as they lie in memory by the spec, or None if it is not of that shape and dtype."""
    shape, stride = values(spec.shape, sizes), values(spec.stride, sizes)
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        return None
    flat = torch.empty(storage_elements(shape, stride), dtype=dtype, device=device)
    flat.as_strided(shape, stride).copy_(tensor)
    return flat
