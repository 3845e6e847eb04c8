"""Tasks with gradients: a forward and a backward pass as one subgraph, which ModelNew's are held to.

A task has gradients if an input that it gives requires them, or if its file says `GRADIENTS = True` (its parameters
have them, then). What comes from above is an input of the subgraph, drawn like any other; its outputs are those of
`forward` that have gradients, and then the gradients of the inputs and parameters that get one, laid out plainly.

    y = forward(x); y.backward(g)   becomes   (state…, x, g) -> (y, gradient of x, gradients of parameters…)

Sizes are those of the task: one subgraph for each of its first sets of inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch._functorch.aot_autograd import aot_export_joint_simple

from akg_dynamo.agents.verifier.job import Backward
from akg_dynamo.agents.verifier.model_call import FIRST_SEED, Gradients, ModelCall
from akg_dynamo.agents.verifier.model_inputs import alike
from akg_dynamo.core.errors import TaskError
from akg_dynamo.fusion.extract import whole
from akg_dynamo.fusion.reference import reference
from akg_dynamo.fusion.task import Task

_MOST_SETS = 3


def passes(task: Task, call: ModelCall, device: str) -> tuple[Backward, ...]:
    """The passes that a task is judged on; none if it has no gradients.

    Raises:
        TaskError: it says that it has, and its backward pass cannot be traced.
    """
    if not task.gradients:
        return ()
    return tuple(_Pass(task, call, case, device).traced() for case in task.cases[:_MOST_SETS])


class _Pass:
    """Model as a function of its tensors: its state by name, then the arguments that are tensors."""

    def __init__(self, task: Task, call: ModelCall, case: tuple[Any, ...], device: str) -> None:
        torch.manual_seed(FIRST_SEED)
        self.task, self.call, self.case = task, call, case
        self.model = task.model().to(device)
        own = {**self.model.state_dict(keep_vars=True), **dict(self.model.named_buffers())}
        self.names = [name for name, _ in (*call.state, *call.made)]
        given = [t.detach().requires_grad_(t.requires_grad) for t in case if isinstance(t, torch.Tensor)]
        self.tensors: list[torch.Tensor] = [*(own[name] for name in self.names), *given]
        self.buffers = set(dict(self.model.named_buffers()))
        self.differentiable = [i for i, t in enumerate(self._returned(self.tensors)) if t.requires_grad]

    def _returned(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        pairs = zip(self.names, tensors, strict=False)
        state = {n: t.clone() if n in self.buffers else t for n, t in pairs}  # which a call may update
        left = iter(tensors[len(self.names) :])
        arguments = tuple(next(left) if isinstance(a, torch.Tensor) else a for a in self.case)
        with torch.enable_grad():
            found = torch.func.functional_call(self.model, state, arguments)
        return [found] if isinstance(found, torch.Tensor) else list(found)

    def _with_gradients(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self._returned(tensors)
        return tuple(found[i] for i in self.differentiable)

    def traced(self) -> Backward:
        """Both directions in one."""
        where = str(self.task.path or self.task.name)
        if not self.differentiable:
            raise TaskError(f"{where}: GRADIENTS = True, but nothing that Model returns has one")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                joint = aot_export_joint_simple(self._with_gradients, tuple(self.tensors), trace_joint=True)
        except Exception as error:  # whatever a user's code raises, and whatever tracing does
            first = str(error).strip().partition("\n")[0]
            raise TaskError(f"{where}: the backward pass of Model cannot be traced: {first}") from error
        assert isinstance(joint, fx.GraphModule)
        return self._cut(joint, where)

    def _cut(self, joint: fx.GraphModule, where: str) -> Backward:
        graph = joint.graph
        constants = _lifted(joint)
        (output,) = (n for n in graph.nodes if n.op == "output")
        results = list(output.args[0])
        outputs, gradients = results[: len(self.differentiable)], results[len(self.differentiable) :]
        wanted = [i for i, (t, g) in enumerate(zip(self.tensors, gradients, strict=True)) if g is not None]
        with graph.inserting_before(output):
            plain = [_copied_plainly(graph, gradients[i]) for i in wanted]
        subgraph, inputs = whole(graph, [*outputs, *plain])
        first_upstream, n_state = len(self.tensors), len(self.names)
        state = tuple((name, i) for i, name in enumerate(self.names))
        left = iter(range(n_state, first_upstream))
        call = replace(
            self.call,
            state=state[: len(self.call.state)],
            made=state[len(self.call.state) :],
            constants=tuple((inputs.index(node), value) for node, value in constants),
            arguments=tuple((next(left), None) if isinstance(a, torch.Tensor) else (None, a) for a in self.case),
            updates=(),
            gradients=Gradients(
                tuple((o, first_upstream + k) for k, o in enumerate(self.differentiable)), tuple(wanted)
            ),
        )
        self._check(reference(subgraph), [value for _, value in constants], wanted, where)
        return Backward(subgraph, call)

    def _check(self, traced: Any, constants: list[torch.Tensor], wanted: list[int], where: str) -> None:
        """Whether the subgraph gives what Model does."""
        outputs = self._with_gradients(*self.tensors)
        upstream = [torch.randn_like(t) for t in outputs]
        leaves = [self.tensors[i] for i in wanted]
        gradients = torch.autograd.grad(outputs, leaves, upstream)
        with torch.no_grad():
            found = traced(*(t.detach() for t in self.tensors), *upstream, *constants)
        if not all(alike(a.detach(), b) for a, b in zip((*outputs, *gradients), found, strict=True)):
            raise TaskError(f"{where}: the backward pass of Model gives other gradients when it is traced")


def _lifted(joint: fx.GraphModule) -> list[tuple[fx.Node, torch.Tensor]]:
    """Tensors that the source makes, as inputs of the graph: the nodes, and their values."""
    graph = joint.graph
    found: list[tuple[fx.Node, torch.Tensor]] = []
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        with graph.inserting_after(last):
            last = graph.placeholder(f"constant_{len(found)}")
        last.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(last)
        graph.erase_node(node)
        found.append((last, getattr(joint, str(node.target)).detach().clone()))
    return found


def _copied_plainly(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A gradient in memory of its own: eager's may be a view, or what came from above itself."""
    copy = graph.call_function(torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
    copy.meta["val"] = node.meta["val"].clone(memory_format=torch.contiguous_format)
    return copy
