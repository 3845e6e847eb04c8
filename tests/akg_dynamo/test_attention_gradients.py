"""Gradients given to cuDNN's attention: what they were, laid out as the result is, under a plan of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from akg_dynamo.attention_gradients import lay_out_gradients
from akg_dynamo.capture import compile_graph
from akg_dynamo.explanation import GraphReport
from akg_dynamo.options import parse

aten = torch.ops.aten
BACKWARD = aten._scaled_dot_product_cudnn_attention_backward.default
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "heads outermost": lambda x: x.contiguous(),
    "steps outermost": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "heads innermost": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "everywhere the same": lambda x: x[..., :1, :1].expand(x.shape),
}


def drawn(layout: str, *shape: int) -> Tensor:
    return LAYOUTS[layout](torch.randn(shape))


def backward(gradient: Tensor, x: Tensor, dropout_p: float = 0.0) -> Tensor:
    """As autograd calls it; x: query, key, value and result, which lie alike."""
    seed = gradient.new_empty((), dtype=torch.int64)
    scores = gradient.new_empty((*x.shape[:3], 1))
    return BACKWARD(gradient, x, x, x, x, scores, seed, seed, None, None, None, 5, 5, dropout_p, False)[0]


def traced(gradient: Tensor, x: Tensor, *, mode: str = "fake", dropout_p: float = 0.0) -> fx.GraphModule:
    return make_fx(lambda g, y: backward(g, y, dropout_p), tracing_mode=mode)(gradient, x)


class GivenGradient(fx.Interpreter):
    """Runs a graph, and returns what the attention in it is given: there is none without a device."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is BACKWARD:
            self.dropout_p = args[13]
            return args[0], args[1], args[2]
        return super().call_function(target, args, kwargs)


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
@pytest.mark.parametrize("result", ["heads outermost", "steps outermost", "heads innermost"])
@pytest.mark.parametrize("gradient", LAYOUTS)
def test_gradients_lie_as_the_result(gradient: str, result: str, mode: str) -> None:
    g, x = drawn(gradient, 2, 3, 5, 4), drawn(result, 2, 3, 5, 4)
    gm = traced(g, x, mode=mode)
    nodes = len(gm.graph.nodes)
    assert lay_out_gradients(gm) == 1
    gm.graph.lint()
    run = GivenGradient(gm)
    given = run.run(g, x)
    assert torch.equal(given, g)
    assert given.stride() == x.stride()
    assert math.copysign(1, run.dropout_p) == -1
    assert run.dropout_p == 0
    assert (len(gm.graph.nodes) == nodes) == (gradient == result)  # what lies so is not copied


@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (2, 1, 5, 4), (2, 3, 1, 4)])
def test_dims_without_a_step_lie_anyhow(shape: tuple[int, ...]) -> None:
    g, x = drawn("heads outermost", *shape), drawn("steps outermost", *shape)
    gm = traced(g, x)
    assert lay_out_gradients(gm) == 1
    given = GivenGradient(gm).run(g, x)
    steps = [dim for dim, size in enumerate(shape) if size > 1]
    assert torch.equal(given, g)
    assert [given.stride(dim) for dim in steps] == [x.stride(dim) for dim in steps]


def test_dropout_is_left_alone() -> None:
    gm = traced(drawn("heads outermost", 2, 3, 5, 4), drawn("steps outermost", 2, 3, 5, 4), dropout_p=0.1)
    before = str(gm.graph)
    assert lay_out_gradients(gm) == 0
    assert str(gm.graph) == before


def test_results_with_gaps_are_left_alone() -> None:
    gm = traced(drawn("heads outermost", 2, 3, 5, 4), torch.randn(2, 3, 5, 8)[..., :4])
    before = str(gm.graph)
    assert lay_out_gradients(gm) == 0
    assert str(gm.graph) == before


def test_backward_graphs_are_written_so() -> None:
    gm = traced(drawn("steps outermost", 2, 3, 5, 4), drawn("heads outermost", 2, 3, 5, 4))
    reports: list[GraphReport] = []
    compile_graph(gm, "backward", parse({"generation": "cached"}), reports)
    (call,) = (line for line in reports[0].source.splitlines() if "cudnn_attention_backward(" in line)
    assert "-0.0" in call
    assert "clone(memory_format=torch.contiguous_format)" in reports[0].source
