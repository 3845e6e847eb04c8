"""Every elementwise operation and cast on every dtype: CUDA C, run on the CPU, gives the interpreter's values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cuda_lowered import execute
from lowered import Array
from test_operations import OPS, applicable, assert_close, elementwise, values

from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch import interpret
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype


def run(sketch: sk.Sketch, tensors: dict[str, Array], size: int) -> dict[str, Array]:
    """What the interpreter makes of it, having filled `tensors` by the kernel."""
    for t in sketch.tensors:
        if t.name not in tensors:
            tensors[t.name] = np.zeros(size, numpy_dtype(t.dtype))
    want = {n: t.copy() for n, t in tensors.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, {"N": size})
    assert execute(sketch, tensors, {"N": size}, {}, descending=False)
    return want


@pytest.mark.parametrize(
    ("dtype", "in_tiles"), list(itertools.product(DType, [True, False])), ids=lambda p: getattr(p, "value", p)
)
def test_every_operation(dtype: DType, in_tiles: bool) -> None:
    rng = np.random.default_rng(1)
    names = applicable(dtype)
    sketch = elementwise(dtype, names, in_tiles)
    size = 1027 if in_tiles else 40
    tensors = {n: values(dtype, rng, size) for n in "abc"}
    if dtype.is_int:
        tensors["b"][tensors["b"] == 0] = 3  # dividing by zero is an error in the interpreter
    tensors["m"] = values(DType.BOOL, rng, size)
    want = run(sketch, tensors, size)
    problems = []
    for name in names:
        operands = [tensors[n] for n in "abc"[: OPS[name].arity]]
        try:
            assert_close(name, dtype, tensors[f"y_{name}"], want[f"y_{name}"], operands)
        except AssertionError as e:
            problems.append(str(e)[:400])
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("source", list(DType), ids=lambda d: d.value)
def test_every_cast(source: DType) -> None:
    size, index = sk.IntVar("N"), sk.Span("i")
    tensors = [sk.TensorDecl("x", (size,), source, "in")]
    body: list[sk.Stmt] = [sk.Assign("t", sk.Load(sk.TensorRef("x", (index,))))]
    for target in DType:
        tensors.append(sk.TensorDecl(f"y_{target.value}", (size,), target, "out"))
        body.append(sk.Store(sk.Cast(sk.Name("t"), target), sk.TensorRef(f"y_{target.value}", (index,))))
    loop = sk.For("i", sk.IntConst(0), size, 64, tuple(body), ("parallel",))
    sketch = sk.Sketch("casts", ("N",), tuple(tensors), (), (loop,))
    arrays = {"x": values(source, np.random.default_rng(4), 500)}
    want = run(sketch, arrays, 500)
    for target in DType:
        got, right = (x[f"y_{target.value}"] for x in (arrays, want))
        if target.is_float:
            got, right = got.astype(np.float64), right.astype(np.float64)
        np.testing.assert_array_equal(got, right, err_msg=target.value)


def test_a_checked_index_out_of_range_stops_the_launch() -> None:
    size, index = sk.IntVar("N"), sk.Span("i")
    position = sk.Op("checked", (sk.Load(sk.TensorRef("at", (index,))), sk.IndexValue(size)))
    tensors = (sk.TensorDecl("at", (size,), DType.I64, "in"), sk.TensorDecl("y", (size,), DType.I64, "out"))
    body = (sk.Store(position, sk.TensorRef("y", (index,))),)
    sketch = sk.Sketch("positions", ("N",), tensors, (), (sk.For("i", sk.IntConst(0), size, 64, body, ("parallel",)),))
    at = np.arange(70)
    assert execute(sketch, {"at": at, "y": np.zeros(70, np.int64)}, {"N": 70}, {}, descending=False)
    for wrong in (-1, 70):
        at[66] = wrong
        assert not execute(sketch, {"at": at, "y": np.zeros(70, np.int64)}, {"N": 70}, {}, descending=False)
