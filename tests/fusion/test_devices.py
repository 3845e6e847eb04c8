"""Graphs of a CUDA device, traced without one: what is taken, what is left, and how devices are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from akg_dynamo.core.types import SplitReasonType, Subgraph, Target
from akg_dynamo.fusion.extract import extract
from akg_dynamo.fusion.ops import main_device
from akg_dynamo.fusion.partition import FusionPlan, plan
from akg_dynamo.fusion.reference import body
from akg_dynamo.options import Options

H200 = Target("cuda", "triton_cuda", "sm_90", "sm_90")
ALL, PROFIT = Options(gate="correct"), Options()


def graph(f: Callable[..., object], *shapes: tuple[int, ...], device: str = "cuda:1") -> fx.GraphModule:
    """f's graph on a device that need not be there."""
    with FakeTensorMode():
        inputs = [torch.empty(shape, device=device) for shape in shapes]
        return make_fx(f)(*inputs)


def planned(
    f: Callable[..., object], *shapes: tuple[int, ...], options: Options = ALL
) -> tuple[FusionPlan, list[Subgraph]]:
    gm = graph(f, *shapes)
    found = plan(gm, target=H200, options=options)
    return found, [cut.subgraph for cut in extract(gm, found)]


def test_the_main_device_is_where_most_is_computed() -> None:
    assert main_device(graph(lambda x: x.exp() + 1, (4,)).graph) == "cuda"
    assert main_device(graph(lambda x: x.exp() + 1, (4,), device="cpu").graph) == "cpu"
    assert main_device(graph(lambda x: x, (4,)).graph) == "cpu", "nothing is computed"


def test_a_graph_on_cuda_is_taken_for_cuda_only() -> None:
    gm = graph(lambda x: x.exp() * 2, (64, 64))
    assert plan(gm, target=H200, options=ALL).count == 1
    on_cpu = plan(gm, target=Target(), options=ALL)
    assert on_cpu.count == 0
    assert {r.kind for n, r in on_cpu.reasons.items() if n.op == "call_function"} == {SplitReasonType.DEVICE}


def test_which_of_several_devices_is_no_part_of_a_subgraph() -> None:
    def f(x: Tensor) -> Tensor:
        return x * torch.arange(8, device=x.device) + torch.ones(8, device=x.device)

    texts = set()
    for device in ("cuda:0", "cuda:1"):
        gm = graph(f, (8,), device=device)
        (cut,) = extract(gm, plan(gm, target=H200, options=ALL))
        texts.add(cut.subgraph.text)
        assert cut.subgraph.device == "cuda"
    (text,) = texts
    assert "cuda:" not in text


def test_constants_are_made_on_the_device() -> None:
    _, (sub,) = planned(lambda x: x * torch.full((8,), 2.0, device=x.device), (8,))
    (full,) = [line for line in body(sub) if "full(" in line]
    assert "device=device('cuda')" in full


def test_nodes_on_the_host_stay_with_torch() -> None:
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.exp() * 2, torch.linspace(0, 1, 8).exp() * 2

    found, (sub,) = planned(f, (8, 8))
    assert [n.target for n in sub.nodes] == ["aten.exp.default", "aten.mul.Tensor"]
    kinds = {str(n.target): r.kind for n, r in found.reasons.items()}
    assert kinds["aten.exp.default"] is SplitReasonType.DEVICE


def test_a_number_on_the_host_is_a_constant() -> None:
    _, (sub,) = planned(lambda x: x.exp() * torch.full((), 2.0), (8, 8))
    assert [n.target for n in sub.nodes] == ["aten.exp.default", "aten.full.default", "aten.mul.Tensor"]
    assert sub.device == "cuda"


def test_a_tensor_on_the_host_is_not_read() -> None:
    with FakeTensorMode():
        x, scale = torch.empty(8, 8, device="cuda"), torch.empty(())
        gm = make_fx(lambda x, scale: x.exp() * scale + 1)(x, scale)
    found = plan(gm, target=H200, options=ALL)
    (product,) = [n for n in gm.graph.nodes if n.target is torch.ops.aten.mul.Tensor]
    assert found.reasons[product].kind is SplitReasonType.DEVICE
    for cut in extract(gm, found):
        assert all(spec.device == "cuda" for spec in cut.subgraph.inputs)


@pytest.mark.parametrize("rows", [8, 4096])
def test_a_call_less_pays_at_any_size(rows: int) -> None:
    found, _ = planned(lambda x: x * 2 + 1, (rows, 8), options=PROFIT)
    assert found.count == 1
    for device, target in (("cpu", Target()), ("cuda", H200)):
        softmax = graph(lambda x: torch.ops.aten._softmax(x, -1, False), (rows, 8), device=device)
        assert plan(softmax, target=target, options=PROFIT).count == 1
        counter = plan(graph(lambda x: x * 2 + 1, (1,), device=device), target=target, options=PROFIT)
        assert counter.count == 0


def test_sums_of_columns_read_what_is_written_anyway() -> None:
    """The gradient of a bias: the sums are a phase of their own, and would read both operands again."""

    def backward(grad: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        inner = torch.ops.aten.gelu_backward(grad, x)
        return torch.mm(inner, w), inner.sum(0)

    def of_one_operand(grad: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        inner = grad.tanh()
        return torch.mm(inner, w), inner.sum(0)

    def read_by_nobody_else(grad: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return torch.ops.aten.gelu_backward(grad, x).sum(0)

    shapes = (256, 64), (256, 64), (64, 64)
    for f, kernels in ((backward, 2), (of_one_operand, 1), (read_by_nobody_else, 1)):
        assert planned(f, *shapes)[0].count == kernels
        assert plan(graph(f, *shapes, device="cpu"), target=Target(), options=ALL).count == 1
