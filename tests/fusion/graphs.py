"""AOT graphs of small models, as the backend sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import fx
from torch._dynamo.backends.common import aot_autograd

from akg_dynamo.core.types import Target
from akg_dynamo.fusion.extract import Cut
from akg_dynamo.fusion.partition import FusionPlan
from akg_dynamo.fusion.reference import reference
from akg_dynamo.fusion.task import evaluate
from akg_dynamo.schedule import Region, schedule


@dataclass(frozen=True)
class Gate:
    gate: str = "correct"


CPU = Target()
CORRECT = Gate("correct")
PROFIT = Gate("profit")


def capture(
    function: Callable[..., Any], *args: Any, dynamic: bool = False, backward: bool = False
) -> list[fx.GraphModule]:
    """The forward graph (and the backward one) of a function."""
    return [gm for gm, _ in capture_with_inputs(function, *args, dynamic=dynamic, backward=backward)]


def capture_with_inputs(
    function: Callable[..., Any], *args: Any, dynamic: bool = False, backward: bool = False
) -> list[tuple[fx.GraphModule, list[Any]]]:
    """The same, with what each graph was really called with (copies, taken before it ran)."""
    torch._dynamo.reset()
    graphs: list[tuple[fx.GraphModule, list[Any]]] = []

    def keep(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        seen: list[Any] = []
        graphs.append((gm, seen))

        def run(*inputs: Any) -> Any:
            if not seen:
                seen.extend(i.detach().clone() if isinstance(i, torch.Tensor) else i for i in inputs)
            return gm(*inputs)

        return make_boxed_func(run)

    backend = aot_autograd(
        fw_compiler=keep,
        bw_compiler=keep,
        inference_compiler=keep,
        decompositions={},
        partition_fn=min_cut_rematerialization_partition,
        keep_inference_input_mutations=True,
    )
    compiled = torch.compile(function, backend=backend, dynamic=dynamic)
    if not backward:
        with torch.no_grad():
            compiled(*args)
        return graphs
    out = compiled(*args)
    out = out[0] if isinstance(out, tuple) else out
    out = getattr(out, "loss", out)
    out.sum().backward()
    return graphs


def run_plan(gm: fx.GraphModule, plan: FusionPlan, cuts: list[Cut], args: Sequence[Any]) -> tuple[Any, ...]:
    """Runs a partitioned graph as an executor would, every subgraph by its reference."""
    values = dict(zip((n for n in gm.graph.nodes if n.op == "placeholder"), args, strict=True))

    def value(a: Any) -> Any:
        return fx.map_arg(a, lambda n: values[n])

    assert not set(plan.tags) & set(plan.reasons)
    of_region = {
        Region(str(c.tag), frozenset(c.nodes), c.inputs, c.symbols, c.outputs, reference(c.subgraph)): c for c in cuts
    }
    steps, given_up = schedule(gm.graph, list(of_region))
    assert not given_up
    for step in steps:
        item = of_region[step] if isinstance(step, Region) else step
        if isinstance(item, Cut):
            sizes = {s: eval(s.text("v"), {"v": values[s.node]}) for s in item.symbols}
            inputs = [values[n] for n in item.inputs]
            outputs = reference(item.subgraph)(*inputs, *sizes.values())
            for node, out, spec in zip(item.outputs, outputs, item.subgraph.output_specs, strict=True):
                symbols = {s.name: v for s, v in zip(item.subgraph.symbols, sizes.values(), strict=True)}
                assert tuple(out.shape) == tuple(evaluate(d, symbols) for d in spec.shape), node
                assert str(out.dtype) == f"torch.{spec.dtype}", node
                wanted = tuple(evaluate(d, symbols) for d in spec.stride)
                assert all(n == 1 or a == b for n, a, b in zip(out.shape, out.stride(), wanted, strict=True)), node
                assert out.untyped_storage().data_ptr() not in {t.untyped_storage().data_ptr() for t in inputs}, node
                values[node] = out
        elif item.op == "get_attr":
            values[item] = getattr(gm, str(item.target))
        else:
            assert item.op == "call_function"
            values[item] = item.target(*value(item.args), **value(item.kwargs))
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    return tuple(value(output.args[0]))
