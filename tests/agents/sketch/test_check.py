"""The checker: each rule of the language broken once, with the line and the reason."""

from __future__ import annotations

import pytest
from sketch_programs import program

from akg_dynamo.agents.sketch import check, parse
from akg_dynamo.agents.sketch.ast import DType, For, IntConst, Name, Sketch, Store, TensorDecl, TensorRef
from akg_dynamo.core.errors import SketchError

HEAD = """sketch s {
  symbols: M, N
  tensors: x[M, N]: f32 in, n[M]: i32 in, h[N]: f16 in, y[M, N]: f32 out, tmp[M]: f32 tmp
  constexpr: BN = 8 in [8, 16], BM = 4
"""
# Line 5 is the outer loop, 6 the inner one, 7 the first statement.
NEST = HEAD + '  @llm_hint("parallel")\n  for i in range(0, M):\n    for j in range(0, N, BN):\n'


def rejects(text: str, line: int, reason: str) -> None:
    sketch = parse(text)
    with pytest.raises(SketchError, match=rf"^line {line}: .*{reason}") as caught:
        check(sketch)
    assert caught.value.line == line


def inside(*statements: str) -> str:
    """Statements in the two loops: the first is on line 8."""
    return NEST + "".join(f"      {s}\n" for s in statements) + "}\n"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("t = u", "'u' is not defined"),
        ("t = x * 2.0", "'x' is a tensor: read it with load"),
        ("t = 1.0", "needs a dtype, such as f32"),
        ("t = 1.0 + 2.0", "are literals"),
        ("t = a + k", "mixes f16 and f32"),
        ("t = a + 1", None),
        ("t = p + 1.5", "literal 1.5 does not fit i32"),
        ("t = p + 3000000000", "literal 3000000000 does not fit i32"),
        ("t = a + True", "literal True does not fit f32"),
        ("t = exp(p)", "'exp' does not take i32"),
        ("t = a & a", "'and' does not take f32"),
        ("t = b + b", "'add' does not take bool"),
        ("t = truncdiv(a, a)", "'truncdiv' does not take f32"),
        ("t = isnan(p)", "'isnan' does not take i32"),
        ("t = where(a, a, a)", "the condition of 'where' must be bool, not f32"),
        ("t = where(b, a, p)", "mixes f32 and i32"),
        ("t = where(b, 1.0, 0.0)", "are literals"),
        ("t = bool(2)", "literal 2 does not fit bool"),
        ("t = u8(256)", "does not fit u8"),
        ("t = reduce_sum(s, j)", "does not vary over axis 'j'"),
        ("t = reduce_sum(a, i)", "'i' is a loop, not an axis"),
        ("t = reduce_sum(a, M)", "'M' is a symbol, not an axis"),
        ("t = reduce_sum(a, k0)", "no axis 'k0' in scope"),
        ("t = reduce_sum(b, j)", "does not take bool"),
        ("t = reduce_any(a, j)", "does not take f32"),
        ("t = reduce_argmax(b, j)", "does not take bool"),
        ("t = scan_sum(b, j)", "does not take bool"),
        ("t = lanes(i)", "'i' is a loop, not an axis"),
        ("t = index(a)", "'a' is a tile"),
        ("t = index(Q)", "no integer 'Q'"),
        ("t = index(M // 0)", "division by zero"),
        ("t = dot(a, k, j)", "mixes f32 and f16"),
        ("t = dot(p, p, j)", "does not vary over axis 'j'"),
        ("t = dot(lanes(j), lanes(j), j)", "'dot' does not take i64"),
        ('t = dot(a, a, j, precision="fp8")', "no precision 'fp8'"),
        ("t = load(z[i])", "no tensor 'z'"),
        ("t = load(x[i])", "has 2 dimensions, indexed with 1"),
        ("t = load(x[i, j])", "'j' is an axis: index with the slice j:j"),
        ("t = load(x[i, a])", "must be i64 or i32, not f32"),
        ("t = load(x[i, c])", "'c' is not defined"),
        ("t = load(x[i, a + 1])", "'a' is a tile"),
        ("t = load(x[i, p])", None),
        ("t = load(x[i, j:j+BN], where=a)", "must be bool, not f32"),
        ("t = load(x[i, j:j+BN], other=True)", "other=True does not fit f32"),
        ("t = load(n[i], other=0.5)", "other=0.5 does not fit i32"),
        ("t = load(n[i], other=1.0)", None),
        ("t = load(tmp[i])", "'tmp' is read before anything is stored to it"),
        ("t = load(y[i, j:j+BN])", None),
        ("x = a", "'x' already names a tensor"),
        ("j = a", "'j' already names a axis|'j' already names an axis"),
        ("M = a", "'M' already names a symbol"),
        ("f32 = a", "cannot be the name of a tile"),
        ("store(a -> x[i, j:j+BN])", "'x' is an input"),
        ("store(k -> y[i, j:j+BN])", "'y' is f32, the value is f16: cast it"),
        ("store(1 -> y[i, j:j+BN])", None),
        ("store(True -> y[i, j:j+BN])", "literal True does not fit f32"),
        ("store(a -> y[i, 0])", "varies over axis 'j'"),
        ("store(a -> y[0, j:j+BN])", "every iteration of the parallel loop 'i' stores to the same"),
        ("store(s -> y[M - 1, N - 1])", "every iteration of the parallel loop 'i'"),
        ("t = alloc([q], f32)", "no axis 'q'"),
        ("t = alloc([j, j], f32)", "occurs twice"),
        ("t = alloc([i], f32)", "'i' is a loop, not an axis"),
        ("t = alloc([j], i32, init=inf)", "init inf does not fit i32"),
        ("t = alloc([j], f32, llm_hint=[quick])", "no alloc hint 'quick'"),
        ("axis q = range(0, 9, BN)", "has 9 lanes, more than its size 8"),
        ("axis q = range(0, N, M)", "'M' is neither"),
        ("axis q = range(0, N, 0)", "must be positive, not 0"),
        ("axis q = range(0, Z, 4)", "no integer 'Z'"),
        ("axis x = range(0, N, 4)", "'x' already names a tensor"),
    ],
)
def test_each_rule_in_a_statement(statement: str, reason: str | None) -> None:
    given = ("a = load(x[i, j:j+BN])", "k = load(h[j:j+BN])", "p = load(n[i])", "b = a > 0.0", "s = reduce_sum(a, j)")
    text = inside(*given, statement, "store(a -> y[i, j:j+BN])")
    if reason is None:
        check(parse(text))
    else:
        rejects(text, 8 + len(given), reason)


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        ("  for i in range(0, M, 0):\n    t = f32(1)\n", 5, "must be positive"),
        ("  for i in range(0, M, N):\n    t = f32(1)\n", 5, "'N' is neither"),
        ("  for i in range(0, Q):\n    t = f32(1)\n", 5, "no integer 'Q'"),
        ("  for y in range(0, M):\n    t = f32(1)\n", 5, "already names a tensor"),
        ("  @llm_hint(\"fast\")\n  for i in range(0, M):\n    t = f32(1)\n", 6, "no loop hint 'fast'"),
        ("  for i in range(0, M):\n    t = f32(1)\n  u = t\n", 7, "'t' is defined only inside loop 'i'"),
        ("  for j in range(0, N, BN):\n    t = lanes(j)\n  t = lanes(j)\n", 7, "no axis 'j' in scope"),
        (
            "  t = f32(0)\n  @llm_hint(\"parallel\")\n  for i in range(0, M):\n"
            "    for k in range(0, 2):\n      t = t + 1\n",
            9, "defined outside the parallel loop 'i'",
        ),
        (
            "  @llm_hint(\"parallel\")\n  for i in range(0, M):\n    t = f32(0)\n"
            "    for k in range(0, 2):\n      t = cast(t, f64)\n",
            9, "must stay f32 over .*becomes f64",
        ),
        ("  t = f32(0)\n  for j in range(0, N, BN):\n    t = t + load(h[j:j+BN])\n", 7, "mixes f16 and f32"),
        ("  t = f16(0)\n  for j in range(0, N, BN):\n    t = t + load(h[j:j+BN])\n", 7, "becomes f16 over .j."),
        ("  t = f32(0)\n  for t in range(0, M):\n    u = f32(1)\n", 6, "'t' already names a tile"),
        ("  t = load(tmp[0])\n  store(t -> tmp[0])\n", 5, "'tmp' is read before"),
    ],
)  # fmt: skip
def test_each_rule_of_loops_and_scopes(body: str, line: int, reason: str) -> None:
    rejects(HEAD + body + "}\n", line, reason)


@pytest.mark.parametrize(
    ("declarations", "line", "reason"),
    [
        ("  constexpr: A = 0\n", 2, "must be positive, not 0"),
        ("  constexpr: A = 4 in [8, 16]\n", 2, "not in its own search space"),
        ("  tensors: a[3]: f32 in\n  constexpr: a = 4\n", 3, "declared twice|already names"),
        ("  tensors: a[3]: f32 in,\n    a[4]: f32 out\n", 3, "'a' is declared twice"),
        ("  tensors: a[Q]: f32 in\n", 2, "no integer 'Q'"),
        ("  tensors: a[1 - 3]: f32 in\n", 2, "negative size -2"),
        ("  tensors: a[3, 4]: f32 in strides(1)\n", 2, "2 dimensions but 1 strides"),
        ("  tensors: a[3]: f32 out strides(0)\n", 2, "cannot be 0"),
        ("  tensors: bool[3]: f32 out\n", 2, "cannot be the name"),
    ],
)
def test_each_rule_of_declarations(declarations: str, line: int, reason: str) -> None:
    text = "sketch s {\n" + declarations + "}\n"
    if "already names" in reason:  # tensors are declared after constexprs, whatever the order of the text
        line = 2
    rejects(text, line, reason)


def test_what_is_allowed() -> None:
    """Nested parallel loops, names rebound with another dtype where nothing carries them, sibling loops of one name."""
    check(
        parse(
            HEAD
            + """
  total = alloc([], f32)
  @llm_hint("parallel")
  for i in range(0, M, BM):
    @llm_hint("parallel")
    for j in range(0, N, BN):
      t = load(x[i:i+BM, j:j+BN])
      t = cast(t, f64)
      store(cast(t, f32) -> y[i:i+BM, j:j+BN])
  @llm_hint("parallel")
  for p in range(0, 1):
    store(1 -> tmp[0])
  for j in range(0, N, BN):
    total = total + reduce_sum(cast(load(h[j:j+BN]), f32), j)
    store(load(tmp[0]) -> tmp[0])
}
"""
        )
    )


def test_fast_memory() -> None:
    sketch = program("matmul_bias_gelu")
    need = 2 * 16 * 32 * 4  # acc and t
    check(sketch, fast_memory_bytes=need)
    with pytest.raises(SketchError, match=rf"line 14: the tiles in scope take {need} bytes, more than the {need - 1}"):
        check(sketch, fast_memory_bytes=need - 1)


def test_an_error_in_memory_names_the_statement() -> None:
    y = TensorDecl("y", (IntConst(3),), DType.F32, "out")
    store = Store(Name("t"), TensorRef("y", ()))
    loop = For("i", IntConst(0), IntConst(3), None, (store,))
    with pytest.raises(SketchError, match=r"^'t' is not defined \(in a store to 'y'\)"):
        check(Sketch("s", (), (y,), (), (loop,)))
