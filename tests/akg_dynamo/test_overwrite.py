"""Torch's operators that write over an operand: the same bits, no allocation, and the layout that kernels are told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from akg_dynamo.executor import write_forward
from akg_dynamo.overwrite import overwriting
from akg_dynamo.reuse import plan_reuse
from akg_dynamo.schedule import Region, schedule

aten = torch.ops.aten
_UNARY = "abs cos erf exp gelu hardsigmoid log1p mish neg reciprocal relu round rsqrt sigmoid silu softplus sqrt tanh".split()  # noqa: E501, SIM905 -- a table is read as words
_BINARY = "add atan2 div gelu_backward hypot maximum mul pow remainder sigmoid_backward silu_backward sub tanh_backward".split()  # noqa: E501, SIM905


def _operator(name: str) -> Any:
    packet = getattr(aten, name)
    return next(getattr(packet, o) for o in ("Tensor", "Tensor_Tensor", "default") if o in packet.overloads())


def _refuse(region: Region, error: Exception, arguments: tuple[Any, ...]) -> Any:
    raise AssertionError("no kernel should raise here") from error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "position"), [(n, 0) for n in (*_UNARY, *_BINARY)] + [(n, 1) for n in _BINARY])
def test_the_bits_are_those_of_the_operator(name: str, position: int, dtype: torch.dtype) -> None:
    operator = _operator(name)

    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        product = torch.mm(x, w)
        operands = (product,) if name in _UNARY else (product, w) if position == 0 else (w, product)
        return torch.mm(operator(*operands), w)

    x, w = ((torch.rand(67, 67) + 0.5).to(dtype) / 8 for _ in range(2))  # where all of them are finite
    gm = make_fx(f)(x, w)
    made = write_forward(gm, [], on_raise=_refuse)
    line = next(line for line in made.source.splitlines() if "mm" in line and "torch.mm" not in line)
    assert "=mm)" in line or "_into(mm" in line, made.source
    expected = f(x, w)
    for _ in range(2):
        assert torch.equal(made.forward([x, w]), expected), made.source


@pytest.mark.parametrize("name", _UNARY)
def test_one_tensor_less_is_allocated(name: str) -> None:
    operator = _operator(name)
    gm = make_fx(lambda x, w: torch.mm(operator(torch.mm(x, w)), w))(torch.rand(4, 4), torch.rand(4, 4))
    (node,) = (n for n in gm.graph.nodes if n.target is operator)
    steps, _ = schedule(gm.graph, [])
    output = next(n for n in gm.graph.nodes if n.op == "output")
    assert plan_reuse(steps, output, {}).operators == {node: node.args[0]}


def _node(f: Any, *inputs: torch.Tensor) -> fx.Node:
    return next(n for n in reversed(make_fx(f)(*inputs).graph.nodes) if n.op == "call_function")


def test_operators_that_allocate_all_the_same_are_left_alone() -> None:
    x = torch.rand(4)
    assert overwriting(_node(lambda x: aten.mul.Scalar(x, 2.0), x)) is None  # torch makes its own result and copies it
    assert overwriting(_node(aten.clone.default, x)) is None
    assert overwriting(_node(lambda x: aten.softmax.int(x, 0), x)) is None  # not elementwise
    assert overwriting(_node(lambda x: aten.mul_.Tensor(x, x), x)) is None  # writes as it is
    assert overwriting(_node(lambda x: aten.rrelu_with_noise(x, x), x)) is None


def test_kernels_read_what_operators_return_as_it_is_laid_out() -> None:
    """An elementwise operator's strides follow its operands': where they are not what the trace said, it is checked."""

    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.convolution(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1).tanh().sin()

    x, w = torch.randn(2, 8, 5, 5), torch.randn(8, 8, 1, 1)
    gm = make_fx(f)(x, w)
    sin = next(n for n in gm.graph.nodes if n.target is aten.sin.default)
    seen: list[tuple[int, ...]] = []

    def run(x: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append(x.stride())
        return (x.sin(),)

    region = Region("sine", frozenset({sin}), (sin.args[0],), (), (sin,), run)
    forward = write_forward(gm, [region], on_raise=_refuse).forward
    torch.testing.assert_close(forward([x, w]), f(x, w))
    last = x.to(memory_format=torch.channels_last)  # the convolution returns this layout then
    assert f(last, w).stride() != f(x, w).stride()
    torch.testing.assert_close(forward([last, w]), f(x, w))
    assert seen == [f(x, w).stride()] * 2
