"""A convolution's bias apart: where a kernel reads the result, with the values and layouts as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from akg_dynamo.conv_bias import bias_apart

X, W, B = torch.randn(2, 8, 9, 9), torch.randn(16, 8, 3, 3), torch.randn(16)


def traced(f: Callable[..., Any], *inputs: Tensor, mode: str = "fake") -> fx.GraphModule:
    return make_fx(f, tracing_mode=mode)(*inputs)


def conv_relu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.relu(F.conv2d(x, w, b))


def conv_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(F.conv2d(x, w, b).permute(0, 2, 3, 1), (16,))


def conv_only(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.conv2d(x, w, b)


def conv_conv(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(x, w, b), w.transpose(0, 1).contiguous())


@pytest.mark.parametrize("f", [conv_relu, conv_norm])
@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_the_sum_is_of_its_own(f: Callable[..., Tensor], mode: str) -> None:
    gm = traced(f, X, W, B, mode=mode)
    assert bias_apart(gm, device="cpu") == 1
    gm.graph.lint()
    gm.recompile()
    (conv,) = (n for n in gm.graph.nodes if n.target is torch.ops.aten.convolution.default)
    assert conv.args[2] is None
    torch.testing.assert_close(gm(X, W, B), f(X, W, B))
    assert gm(X, W, B).stride() == f(X, W, B).stride()


@pytest.mark.parametrize("f", [conv_only, conv_conv])
def test_not_for_what_no_kernel_reads(f: Callable[..., Tensor]) -> None:
    gm = traced(f, X, W, B)
    before = str(gm.graph)
    assert bias_apart(gm, device="cpu") == 0
    assert str(gm.graph) == before


def test_not_on_other_devices() -> None:
    assert bias_apart(traced(conv_relu, X, W, B)) == 0


def test_without_a_bias_there_is_nothing_to_do() -> None:
    assert bias_apart(traced(lambda x, w: F.relu(F.conv2d(x, w)), X, W), device="cpu") == 0
