"""Smaller relatives: the same operators, sizes that hold together, whatever names a size."""

from __future__ import annotations

import pytest
import torch

from akg_dynamo.agents.verifier.shapes import elements
from akg_dynamo.agents.verifier.smaller import relatives, resized
from akg_dynamo.core.types import OpNode, Ref, Subgraph, TensorSpec, TorchConst
from akg_dynamo.fusion.reference import reference

from .kernels import add_relu, contiguous, dynamic_softmax, op, single

ROWS = 131_072


def _merged() -> Subgraph:
    """(8, 512, 1024) seen as (4096, 1024), scaled, and back."""
    x, merged = contiguous("float32", 8, 512, 1024), contiguous("float32", 4096, 1024)
    nodes = (
        op("aten.view.default", merged, Ref(0), (4096, 1024)),
        op("aten.mul.Tensor", merged, Ref(1), 2.0),
        op("aten.view.default", x, Ref(2), (8, 512, 1024)),
        op("aten.exp.default", x, Ref(3)),
    )
    return Subgraph((x,), (), nodes, (4,))


def _halves() -> Subgraph:
    """The two halves of each row, multiplied: slices at 1024 of 2048."""
    x = contiguous("float32", 1024, 2048)
    half = TensorSpec("float32", (1024, 1024), (2048, 1))
    nodes = (
        op("aten.slice.Tensor", half, Ref(0), 1, 0, 1024),
        op("aten.slice.Tensor", half, Ref(0), 1, 1024, 9223372036854775807),
        op("aten.mul.Tensor", contiguous("float32", 1024, 1024), Ref(1), Ref(2)),
    )
    return Subgraph((x,), (), nodes, (3,))


def _padded() -> Subgraph:
    """An input that was cut from rows of twice its length, and a constant made in the graph."""
    cut = TensorSpec("float32", (2048, 1000), (2000, 1))
    out, one = contiguous("float32", 2048, 1000), contiguous("float32", 1000)
    nodes = (
        OpNode("aten.full.default", ((1000,), 3.0), (("device", TorchConst("device('cpu')")),), one),
        op("aten.add.Tensor", out, Ref(0), Ref(1)),
    )
    return Subgraph((cut,), (), nodes, (2,))


def _counted() -> Subgraph:
    """The rows of a table that 256 counted positions name, for rows of another table."""
    table, index = contiguous("float32", 512, 512), contiguous("int64", 8, 256)
    counted = contiguous("int64", 256)
    nodes = (
        op("aten.embedding.default", contiguous("float32", 8, 256, 512), Ref(0), Ref(1)),
        op("aten.arange.default", counted, 256, device=TorchConst("device('cpu')")),
        op("aten.embedding.default", contiguous("float32", 256, 512), Ref(0), Ref(3)),
        op("aten.add.Tensor", contiguous("float32", 8, 256, 512), Ref(2), Ref(4)),
    )
    return Subgraph((table, index), (), nodes, (5,))


def _transposed() -> Subgraph:
    x = TensorSpec("float32", (2048, 1024), (1, 2048))
    return single("aten.exp.default", x, x)


SUBS = {
    "pointwise": add_relu(1 << 22),
    "merged dims": _merged(),
    "halves": _halves(),
    "padded": _padded(),
    "transposed": _transposed(),
    "counted positions": _counted(),
    "sum": single("aten.sum.dim_IntList", contiguous("float32", 4096), contiguous("float32", 4096, 512), extra=((1,),)),
}


@pytest.mark.parametrize("name", SUBS)
def test_relatives_run_and_give_what_they_say(name: str) -> None:
    sub = SUBS[name]
    found = list(relatives(sub, ROWS))
    assert found
    for small in found:
        assert elements(small, {}) <= ROWS
        assert [n.target for n in small.nodes] == [n.target for n in sub.nodes]
        inputs = [torch.zeros(_span(s), dtype=getattr(torch, s.dtype)) for s in small.inputs]
        views = [t.as_strided(_ints(s.shape), _ints(s.stride)) for t, s in zip(inputs, small.inputs, strict=True)]
        for value, spec in zip(reference(small)(*views), small.output_specs, strict=True):
            assert (tuple(value.shape), value.stride()) == (spec.shape, spec.stride)


def _ints(dims: object) -> tuple[int, ...]:
    assert isinstance(dims, tuple)
    return tuple(int(d) for d in dims)


def _span(spec: TensorSpec) -> int:
    shape, stride = _ints(spec.shape), _ints(spec.stride)
    return 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))


def test_the_first_has_tails() -> None:
    (x, _) = next(relatives(add_relu(1 << 22), ROWS)).inputs
    assert _ints(x.shape)[0] % 16


def test_layouts_are_kept() -> None:
    small = next(relatives(_padded(), ROWS))
    (cut,) = small.inputs
    _, columns = _ints(cut.shape)
    assert cut.stride == (2 * columns, 1)
    assert small.nodes[0].args == ((columns,), 3.0)


def test_a_class_has_members_instead() -> None:
    assert list(relatives(dynamic_softmax(), ROWS)) == []


def test_what_does_not_hold_together_is_no_relative() -> None:
    """A bias of 64 x 64 values for rows of 4096, by way of a view that no other size of one dim would allow."""
    x, square, flat = contiguous("float32", 64, 4096), contiguous("float32", 64, 64), contiguous("float32", 4096)
    nodes = (op("aten.view.default", flat, Ref(1), (4096,)), op("aten.add.Tensor", x, Ref(0), Ref(2)))
    sub = Subgraph((x, square), (), nodes, (3,))
    for small in relatives(sub, 20_000):
        assert small.inputs[0].shape[1] == _ints(small.inputs[1].shape)[0] * _ints(small.inputs[1].shape)[1]
    broken = resized(sub, {4096: 1000, 64: 64})
    assert broken.inputs[0].shape == (64, 1000)
