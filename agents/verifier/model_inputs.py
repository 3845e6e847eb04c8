"""The judge's side of a task that is a model: its parameters, by seed, and inputs as the task itself draws them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from akg_dynamo.agents.verifier.model_call import FIRST_SEED, ModelCall
from akg_dynamo.agents.verifier.shapes import storage_elements, values
from akg_dynamo.core.types import SymInt, TensorSpec

GIVEN = "given"
"""The kind of inputs that the task draws."""
_SETS = 2  # of parameters


class ModelInputs:
    """What is not the judge's to draw."""

    def __init__(self, call: ModelCall) -> None:
        self.call = call
        self.state = frozenset(i for _, i in (*call.state, *call.made)) | {i for i, _ in call.constants}
        self._states: dict[int, dict[int, torch.Tensor]] = {}
        self._model: torch.nn.Module | None = None

    @cached_property
    def varies(self) -> bool:
        """Whether the task draws other inputs when it is asked again: some seed themselves."""
        first, second = self._drawn(1), self._drawn(2)
        return any(not torch.equal(t, second[i]) for i, t in first.items())

    def fixed(self, kind: str, number: int, seed: int) -> dict[int, torch.Tensor]:
        """By input: the parameters and constants of a case, and for the task's own kind its other inputs, too."""
        found = self._state(number % _SETS)
        return {**found, **self._drawn(seed)} if kind == GIVEN else found

    def model_returns(self, inputs: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> list[torch.Tensor] | Exception:
        """What the task's own Model returns for these inputs of the subgraph, or what it raises."""
        call = self.call
        if self._model is None:
            self._model = call.task.model()
        arguments = [
            inputs[i] if i is not None else sizes[value.expr] if isinstance(value, SymInt) else value
            for i, value in call.arguments
        ]
        state = {name: inputs[i].clone() for name, i in (*call.state, *call.made)}  # which a call may update
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                model = self._model.to(inputs[0].device) if inputs else self._model
                returned = torch.func.functional_call(model, state, tuple(arguments))
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # it says nothing of the inputs
        except Exception as refusal:  # noqa: BLE001 - whatever a user's code raises
            return refusal
        return [returned] if call.single else list(returned)

    def _state(self, which: int) -> dict[int, torch.Tensor]:
        if which not in self._states:
            torch.manual_seed(FIRST_SEED + which)
            model = self.call.task.model()
            own = {**model.state_dict(), **dict(model.named_buffers())}
            names = (*self.call.state, *self.call.made)
            self._states[which] = {i: own[name].detach() for name, i in names} | dict(self.call.constants)
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


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether no random numbers made the difference: sums on a device may have another order each time."""
    if a.shape != b.shape:
        return False
    a, b = (t.nan_to_num(0.0, 0.0, 0.0).to(torch.complex128 if t.is_complex() else torch.float64) for t in (a, b))
    return bool((a - b).abs().amax() <= 1e-2 * b.abs().amax()) if a.numel() else True
