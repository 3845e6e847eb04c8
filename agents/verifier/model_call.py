"""Kernels that come as a `ModelNew`: how the subgraph that a task became calls them.

A task's `Model` is traced into a subgraph whose inputs are the model's tensors and the call's. A candidate is an object
with parameters of its own; it is built as the model was, under the same seed, is given the case's parameters, and is
called with the rest. One object serves all calls with the same parameters, as it would in a program: workspaces, and
weights that it has laid out anew, may be kept.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from akg_dynamo.core.types import SymInt
from akg_dynamo.fusion.task import Task

FIRST_SEED = 20_012
"""Of the parameters; the further sets have the seeds after it."""


@dataclass(frozen=True)
class Gradients:
    """A backward pass after `forward`.

    upstream: for each output of `forward` that has gradients: its number, and the input that comes from above.
    wanted: the inputs (arguments and parameters) whose gradients are returned after those outputs.
    """

    upstream: tuple[tuple[int, int], ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class ModelCall:
    """How a candidate's `ModelNew` is built and called.

    task: what the kernel claims to compute, without its example inputs.
    state: for each parameter and buffer of the model that is an input of the subgraph, its name and the input.
    made: the same of buffers that its constructor makes and no state_dict holds.
    constants: inputs that are tensors written in the model's source.
    arguments: for each argument of `forward`, in order: the input that it is, or the value it always has, or (a SymInt)
        the symbol whose value it has.
    updates: for each output beyond those that are returned: the buffer that the call leaves it in.
    single: whether `forward` returns a tensor, not a list of them.
    interpreted: whether Triton kernels are to be interpreted.
    gradients: what is called after `forward`; None: nothing.
    """

    task: Task
    state: tuple[tuple[str, int], ...]
    constants: tuple[tuple[int, torch.Tensor], ...]
    arguments: tuple[tuple[int | None, Any], ...]
    updates: tuple[str, ...]
    single: bool
    interpreted: bool
    made: tuple[tuple[str, int], ...] = ()
    gradients: Gradients | None = None


class BadModel(Exception):
    """ModelNew cannot be built, or does not return what Model returns; the text says why."""


class Bound(types.ModuleType):
    """A candidate's ModelNew in the process that runs it, in the place of its module."""

    def __init__(self, module: types.ModuleType, call: ModelCall) -> None:
        super().__init__(module.__name__)
        self.call = call
        self.new = getattr(module, "ModelNew", None)
        if not isinstance(self.new, type):
            raise BadModel("the file defines no class ModelNew")
        self.module = module
        self.spare: torch.nn.Module | None = None
        self.tensors: Sequence[Any] = ()
        self.built: list[tuple[list[torch.Tensor], torch.nn.Module]] = []
        self.given_to: dict[int, list[torch.Tensor]] = {}
        self.spare = self._construct(FIRST_SEED)  # whatever it raises is of its construction

    def arguments(self, tensors: Sequence[Any], symbols: Sequence[int]) -> list[Any]:
        """What `run` is called with: the object that has these parameters, and the arguments."""
        self.tensors = tensors
        state = [tensors[i] for _, i in (*self.call.state, *self.call.made)]
        sizes = {f"s{k}": n for k, n in enumerate(symbols)}
        given = [
            self._leaf(i) if i is not None else sizes[value.expr] if isinstance(value, SymInt) else value
            for i, value in self.call.arguments
        ]
        upstream = [tensors[i] for _, i in self.call.gradients.upstream] if self.call.gradients is not None else []
        return [self._with(state), *given, *upstream]

    def _leaf(self, i: int) -> Any:
        gradients = self.call.gradients
        wanted = gradients is not None and i in gradients.wanted
        return self.tensors[i].detach().requires_grad_() if wanted else self.tensors[i]

    def run(self, model: torch.nn.Module, *arguments: Any) -> Any:
        """One call; a tuple of what it returns and the buffers it updates, or the gradients."""
        if self.call.gradients is not None:
            return self._back(self.call.gradients, model, arguments)
        returned = model(*arguments)
        outputs = self._listed(returned)
        if self.call.updates:
            buffers = model.state_dict()
            outputs += [buffers[name].clone() for name in self.call.updates]
            self._give(model, self.given_to[id(model)])  # each call starts from the same
        return tuple(outputs)

    def _listed(self, returned: Any) -> list[Any]:
        if self.call.single:
            return [returned]
        return list(returned) if isinstance(returned, list | tuple) else [returned, None]  # no tensors, or too many

    def _back(self, asked: Gradients, model: torch.nn.Module, arguments: Sequence[Any]) -> tuple[Any, ...]:
        given, upstream = arguments[: len(self.call.arguments)], arguments[len(self.call.arguments) :]
        with torch.enable_grad():
            outputs = self._listed(model(*given))
        parameters = dict(model.named_parameters())
        leaves = {i: a for (i, _), a in zip(self.call.arguments, given, strict=True) if i is not None}
        names = {i: name for name, i in self.call.state}
        for i in asked.wanted:
            if i in names and names[i] not in parameters:
                raise BadModel(f"Model has a gradient for its parameter {names[i]}, which ModelNew does not have")
        wanted = [parameters[names[i]] if i in names else leaves[i] for i in asked.wanted]
        found = []
        for number, _ in asked.upstream:
            out = outputs[number] if number < len(outputs) else None
            if not isinstance(out, torch.Tensor) or not out.requires_grad:
                raise BadModel(f"output {number} has no gradients: it is detached from what it was made of")
            found.append(out)
        gradients = torch.autograd.grad(found, wanted, upstream, allow_unused=True)
        for i, gradient in zip(asked.wanted, gradients, strict=True):
            if gradient is None:
                raise BadModel(f"no gradient reaches {f'parameter {names[i]}' if i in names else f'input {i}'}")
        self._give(model, self.given_to[id(model)])
        plain = [g.detach().clone(memory_format=torch.contiguous_format) for g in gradients]
        return (*(t.detach() for t in found), *plain)

    def _with(self, state: list[torch.Tensor]) -> torch.nn.Module:
        for known, model in self.built:
            if all(map(torch.equal, known, state)):
                return model
        known = [t.detach().clone() for t in state]
        seed = FIRST_SEED + len(self.built)
        model = self._build(known, seed)
        self.built.append((known, model))
        self.given_to[id(model)] = known
        return model

    def _build(self, state: list[torch.Tensor], seed: int) -> torch.nn.Module:
        model, self.spare = self.spare or self._construct(seed), None
        if state and state[0].device.type != "cpu":
            model.to(state[0].device)
        self._give(model, state)
        return model

    def _construct(self, seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        assert self.new is not None
        model = self.new(*self.call.task.init_args, **dict(self.call.task.init_kwargs))
        if not isinstance(model, torch.nn.Module):
            raise BadModel("ModelNew is not a torch.nn.Module")
        return model

    def _give(self, model: torch.nn.Module, state: list[torch.Tensor]) -> None:
        """The parameters, where it has those of Model under the same names; else the seed gave it the same."""
        own = model.state_dict(keep_vars=True)
        first_made = len(self.call.state)
        kept = list(zip((name for name, _ in self.call.state), state[:first_made], strict=True))
        made = list(zip((name for name, _ in self.call.made), state[first_made:], strict=True))
        buffers = dict(model.named_buffers())
        given = [(own[n], t) for n, t in kept if n in own and _fits(own[n], t)]
        if len(given) < len(kept):
            given = []
        given += [(buffers[n], t) for n, t in made if n in buffers and _fits(buffers[n], t)]
        with torch.no_grad():
            for mine, tensor in given:
                mine.copy_(tensor)

    def show_state(self, model: torch.nn.Module) -> None:
        """Let the judge see, in the last case's own memory, what the calls left of the parameters."""
        own = model.state_dict()
        for name, i in self.call.state:
            now, then = own.get(name), self.tensors[i]
            if now is None or name in self.call.updates or (now.shape, now.dtype) != (then.shape, then.dtype):
                continue
            if not torch.equal(now, then):
                then.copy_(now)


def _fits(mine: torch.Tensor, given: torch.Tensor) -> bool:
    return (mine.shape, mine.dtype) == (given.shape, given.dtype)
