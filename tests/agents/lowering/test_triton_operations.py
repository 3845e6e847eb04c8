"""Every elementwise operation, cast, reduction and scan on every dtype: Triton gives the interpreter's values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from lowered import Array
from test_operations import OPS, applicable, assert_close, elementwise, values
from triton_lowered import execute

from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch import interpret
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype
from akg_dynamo.agents.sketch.ops import REDUCTIONS, SCANS


def run(sketch: sk.Sketch, tensors: dict[str, Array], size: int, *, static: bool) -> dict[str, Array]:
    """What the interpreter makes of it, having filled `tensors` by the kernel."""
    for t in sketch.tensors:
        if t.name not in tensors:
            tensors[t.name] = np.zeros(size, numpy_dtype(t.dtype))
    want = {n: t.copy() for n, t in tensors.items()}
    symbols = {"N": size}
    with np.errstate(all="ignore"):
        interpret(sketch, want, symbols)
    execute(sketch, tensors, symbols, symbols if static else {})
    return want


@pytest.mark.parametrize(
    ("dtype", "in_vectors"), list(itertools.product(DType, [True, False])), ids=lambda p: getattr(p, "value", p)
)
def test_every_operation(dtype: DType, in_vectors: bool) -> None:
    rng = np.random.default_rng(1)
    names = [name for name in applicable(dtype) if name != "checked"]
    sketch = elementwise(dtype, names, in_vectors)
    size = 1027 if in_vectors else 40
    tensors = {n: values(dtype, rng, size) for n in "abc"}
    if dtype.is_int:
        tensors["b"][tensors["b"] == 0] = 3  # dividing by zero is an error in the interpreter
    tensors["m"] = values(DType.BOOL, rng, size)
    want = run(sketch, tensors, size, static=in_vectors)
    problems = []
    for name in names:
        operands = [tensors[n] for n in "abc"[: OPS[name].arity]]
        try:
            assert_close(name, dtype, tensors[f"y_{name}"], want[f"y_{name}"], operands)
        except AssertionError as e:
            problems.append(str(e)[:400])
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.value)
def test_literals(dtype: DType) -> None:
    """Operands that are numbers, on either side, and a result that is one."""
    size, index = sk.IntVar("N"), sk.Span("i")
    names = [n for n in applicable(dtype) if OPS[n].arity == 2 and n not in ("checked", "pow")]
    number = sk.Literal({DType.BOOL: True}.get(dtype, 3 if dtype.is_int else 0.1))
    small = sk.Literal(1e-310 if dtype is DType.F64 else 1e-40) if dtype.is_float else number
    tensors = [sk.TensorDecl("a", (size,), dtype, "in")]
    body: list[sk.Stmt] = [sk.Assign("t", sk.Load(sk.TensorRef("a", (index,))))]
    for name in names:
        out = DType.BOOL if OPS[name].rule.name == "COMPARE" else dtype
        for side, args in enumerate([(sk.Name("t"), number), (number, sk.Name("t")), (small, sk.Name("t"))]):
            tensors.append(sk.TensorDecl(f"y_{name}{side}", (size,), out, "out"))
            body.append(sk.Store(sk.Op(name, args), sk.TensorRef(f"y_{name}{side}", (index,))))
    tensors.append(sk.TensorDecl("y_number", (size,), dtype, "out"))
    body.append(sk.Store(number, sk.TensorRef("y_number", (index,))))
    loop = sk.For("i", sk.IntConst(0), size, 128, tuple(body), ("parallel",))
    sketch = sk.Sketch("literals", ("N",), tuple(tensors), (), (loop,))
    a = values(dtype, np.random.default_rng(2), 200)
    if dtype.is_int:
        a[a == 0] = 5
    arrays = {"a": a}
    want = run(sketch, arrays, 200, static=False)
    for name in names:
        for side in range(3):
            assert_close(name, dtype, arrays[f"y_{name}{side}"], want[f"y_{name}{side}"], [a])
    np.testing.assert_array_equal(arrays["y_number"], want["y_number"])


@pytest.mark.parametrize("dtype", [d for d in DType if d.is_int], ids=lambda d: d.value)
def test_by_constants(dtype: DType) -> None:
    """Shifts, powers and divisions whose right side is a literal have forms of their own."""
    size, bits = sk.IntVar("N"), 8 * dtype.size_bytes
    index = sk.Span("i")
    cases = [(name, b) for name in ("shl", "shr") for b in (0, 1, bits - 1, bits, -1)]
    cases += [(name, b) for name in ("floordiv", "mod", "truncdiv", "fmod") for b in (1, 2, 64, 3, -1, -4)]
    cases += [("pow", b) for b in (0, 1, 2, 3, 5, -1, -2)]
    if dtype is DType.U8:
        cases = [(name, b) for name, b in cases if b >= 0]
    tensors = [sk.TensorDecl("a", (size,), dtype, "in")]
    body: list[sk.Stmt] = [sk.Assign("t", sk.Load(sk.TensorRef("a", (index,))))]
    for at, (name, b) in enumerate(cases):
        tensors.append(sk.TensorDecl(f"y{at}", (size,), dtype, "out"))
        body.append(sk.Store(sk.Op(name, (sk.Name("t"), sk.Literal(b))), sk.TensorRef(f"y{at}", (index,))))
    loop = sk.For("i", sk.IntConst(0), size, 128, tuple(body), ("parallel",))
    sketch = sk.Sketch("by_constants", ("N",), tuple(tensors), (), (loop,))
    arrays = {"a": values(dtype, np.random.default_rng(3), 333)}
    want = run(sketch, arrays, 333, static=True)
    for at, (name, b) in enumerate(cases):
        assert_close(f"{name} by {b}", dtype, arrays[f"y{at}"], want[f"y{at}"], [arrays["a"]])


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
    want = run(sketch, arrays, 500, static=False)
    for target in DType:
        got, right = (x[f"y_{target.value}"] for x in (arrays, want))
        if target.is_float:
            got, right = got.astype(np.float64), right.astype(np.float64)
        np.testing.assert_array_equal(got, right, err_msg=target.value)


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.value)
def test_reductions_and_scans(dtype: DType) -> None:
    """Over each axis of a tile that is not full, with ties, and with values that every identity could hide."""
    rows, columns = sk.IntVar("M"), sk.IntVar("N")
    x = sk.Load(sk.TensorRef("x", (sk.Span("i"), sk.Span("j"))))
    tensors = [sk.TensorDecl("x", (rows, columns), dtype, "in")]
    body: list[sk.Stmt] = [
        sk.AxisDecl("i", sk.IntConst(0), rows, 8),
        sk.AxisDecl("j", sk.IntConst(0), columns, 64),
        sk.Assign("t", x),
    ]
    for name in REDUCTIONS:
        if (name in ("any", "all")) is not (dtype is DType.BOOL) and name not in ("max", "min"):
            continue
        out = DType.I64 if name.startswith("arg") else dtype
        for axis, left, length in (("i", "j", columns), ("j", "i", rows)):
            tensors.append(sk.TensorDecl(f"{name}_{axis}", (length,), out, "out"))
            reduced = sk.Reduce(name, sk.Name("t"), axis)
            body.append(sk.Store(reduced, sk.TensorRef(f"{name}_{axis}", (sk.Span(left),))))
    for name in SCANS:
        if dtype is DType.BOOL and name in ("sum", "prod"):
            continue
        for axis in "ij":
            tensors.append(sk.TensorDecl(f"scan_{name}_{axis}", (rows, columns), dtype, "out"))
            place = sk.TensorRef(f"scan_{name}_{axis}", (sk.Span("i"), sk.Span("j")))
            body.append(sk.Store(sk.Scan(name, sk.Name("t"), axis), place))
    once = sk.For("n", sk.IntConst(0), sk.IntConst(1), None, tuple(body), ("parallel",))
    sketch = sk.Sketch("reductions", ("M", "N"), tuple(tensors), (), (once,))
    rng = np.random.default_rng(6)
    shapes = [(5, 41), (8, 64), (1, 1)]
    for m, n in shapes:
        for special in (False, True) if dtype.is_float else (False,):
            data = rng.integers(0, 2, (m, n)) if dtype is DType.BOOL else -rng.integers(-4, 1, (m, n)) - 5
            data = np.abs(data) if dtype is DType.U8 else data
            x_array = (data / (2 if dtype.is_float else 1)).astype(numpy_dtype(dtype))
            if special and x_array.size > 3:
                x_array[0, :3] = np.nan
                x_array[-1, -3:] = [-np.inf, np.nan, np.inf]
            arrays = {"x": x_array}
            symbols = {"M": m, "N": n}
            for t in sketch.tensors[1:]:
                shape = tuple(symbols[d.name] for d in t.shape if isinstance(d, sk.IntVar))
                arrays[t.name] = np.zeros(shape, numpy_dtype(t.dtype))
            want = {k: v.copy() for k, v in arrays.items()}
            with np.errstate(all="ignore"):
                interpret(sketch, want, symbols)
            execute(sketch, arrays, symbols, {} if special else symbols)
            for t in sketch.tensors[1:]:
                tolerance = {DType.F16: 1e-3, DType.BF16: 8e-3, DType.F32: 1e-6}.get(t.dtype, 1e-13)
                np.testing.assert_allclose(
                    arrays[t.name].astype(np.float64),
                    want[t.name].astype(np.float64),
                    rtol=tolerance if t.dtype.is_float else 0,
                    err_msg=t.name,
                )
