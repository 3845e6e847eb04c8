"""Text: printing and parsing are inverse, the spellings people use are read, mistakes name their line."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akg_dynamo.agents.sketch import parse, to_text
from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    At,
    AxisDecl,
    Cast,
    ConstExpr,
    Dot,
    DType,
    For,
    Gather,
    Index,
    IndexValue,
    IntBin,
    IntConst,
    IntExpr,
    IntVar,
    Lanes,
    Literal,
    Load,
    Name,
    Op,
    Reduce,
    Scan,
    Sketch,
    Span,
    Stmt,
    Store,
    TensorDecl,
    TensorRef,
    TileExpr,
)
from akg_dynamo.agents.sketch.ops import OPS, REDUCTIONS, SCANS
from akg_dynamo.core.errors import SketchError

# --------------------------------------------------------------------------------------------------------------------
# The round trip, over any tree whose names are in scope (well typed or not)

HINTS = st.lists(st.sampled_from(["parallel", "simd", "fast"]), max_size=2).map(tuple)
DTYPES = st.sampled_from(list(DType))
NUMBERS = st.one_of(
    st.integers(-(2**40), 2**40), st.booleans(), st.just(math.nan), st.floats(allow_nan=False, allow_infinity=True)
)
TENSORS = st.sampled_from(["x", "y"])
TILES = st.sampled_from(["t", "u", "acc", "exp", "load"])


def int_exprs(names: tuple[str, ...]) -> st.SearchStrategy[IntExpr]:
    leaves = st.one_of(st.integers(-99, 99).map(IntConst), st.sampled_from(names).map(IntVar))
    ops = st.sampled_from(["+", "-", "*", "//", "%", "min", "max"])
    return st.recursive(leaves, lambda inner: st.builds(IntBin, ops, inner, inner), max_leaves=5)


def indices(ints: tuple[str, ...], axes: tuple[str, ...]) -> st.SearchStrategy[Index]:
    choices: list[st.SearchStrategy[Index]] = [int_exprs(ints).map(At), TILES.map(Gather)]
    if axes:
        others = tuple(n for n in ints if n not in axes)
        choices.append(st.builds(Span, st.sampled_from(axes), int_exprs(others)))
    return st.one_of(*choices)


def refs(ints: tuple[str, ...], axes: tuple[str, ...]) -> st.SearchStrategy[TensorRef]:
    return st.builds(TensorRef, TENSORS, st.lists(indices(ints, axes), max_size=3).map(tuple))


def exprs(ints: tuple[str, ...], axes: tuple[str, ...]) -> st.SearchStrategy[TileExpr]:
    axis = st.sampled_from(axes or ("j",))
    leaves = st.one_of(
        TILES.map(Name),
        st.builds(Literal, NUMBERS, st.none() | DTYPES),
        int_exprs(ints).map(IndexValue),
        axis.map(Lanes),
        st.builds(Load, refs(ints, axes), NUMBERS),
    )

    def deeper(inner: st.SearchStrategy[TileExpr]) -> st.SearchStrategy[TileExpr]:
        ops = st.sampled_from(list(OPS.values())).flatmap(
            lambda info: st.tuples(*[inner] * info.arity).map(lambda args: Op(info.name, args))
        )
        return st.one_of(
            ops,
            ops,
            st.builds(Cast, inner, DTYPES),
            st.builds(Reduce, st.sampled_from(REDUCTIONS), inner, axis),
            st.builds(Scan, st.sampled_from(SCANS), inner, axis),
            st.builds(Dot, inner, inner, axis, st.sampled_from(["ieee", "tf32"])),
            st.builds(Load, refs(ints, axes), NUMBERS, inner),
        )

    return st.recursive(leaves, deeper, max_leaves=8)


@st.composite
def bodies(draw: st.DrawFn, ints: tuple[str, ...], axes: tuple[str, ...], depth: int) -> tuple[Stmt, ...]:
    body: list[Stmt] = []
    for n in range(draw(st.integers(1, 3))):
        kind = draw(st.integers(0, 5 if depth else 3))
        if kind == 0:
            body.append(Assign(draw(TILES), draw(exprs(ints, axes))))
        elif kind == 1:
            chosen = tuple(draw(st.lists(st.sampled_from(axes), unique=True))) if axes else ()
            body.append(Alloc(draw(TILES), chosen, draw(DTYPES), draw(NUMBERS), draw(HINTS)))
        elif kind == 2:
            body.append(Store(draw(exprs(ints, axes)), draw(refs(ints, axes))))
        elif kind == 3:
            var, size = f"d{depth}{n}", draw(st.sampled_from(["BN", 8]))
            body.append(AxisDecl(var, draw(int_exprs(ints)), draw(int_exprs(ints)), size))
            ints, axes = (*ints, var), (*axes, var)
        else:
            var, step = f"i{depth}{n}", draw(st.sampled_from([None, "BN", "BM", 4]))
            inside = draw(bodies((*ints, var), (*axes, var) if step is not None else axes, depth - 1))
            body.append(For(var, draw(int_exprs(ints)), draw(int_exprs(ints)), step, inside, draw(HINTS)))
    return tuple(body)


@st.composite
def sketches(draw: st.DrawFn) -> Sketch:
    sizes = st.lists(int_exprs(("M", "N", "BN")), max_size=3).map(tuple)
    tensors = tuple(
        TensorDecl(
            name, draw(sizes), draw(DTYPES), draw(st.sampled_from(["in", "out", "tmp"])), draw(st.none() | sizes)
        )
        for name in draw(st.lists(TENSORS, unique=True))
    )
    space = tuple(draw(st.lists(st.integers(1, 4096), max_size=3)))
    constexprs = (ConstExpr("BN", draw(st.integers(1, 4096)), space), ConstExpr("BM", 4))
    return Sketch("any", ("M", "N"), tensors, constexprs, draw(bodies(("M", "N", "BN", "BM"), (), 2)))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(sketches())
def test_printed_text_parses_back(sketch: Sketch) -> None:
    text = to_text(sketch)
    again = parse(text)
    assert shape(again) == shape(sketch), text
    assert to_text(again) == text


def shape(node: object) -> object:
    """The tree as nested tuples: without lines, but with 1, 1.0 and True told apart, and NaN equal to itself."""
    if isinstance(node, tuple):
        return tuple(shape(n) for n in node)
    if hasattr(node, "__dataclass_fields__"):
        fields = [f for f in node.__dataclass_fields__ if f != "line"]
        return (type(node).__name__, *(shape(getattr(node, f)) for f in fields))
    return (type(node).__name__, repr(node))


# --------------------------------------------------------------------------------------------------------------------
# Spellings

HEAD = """sketch s {
  symbols: M, N
  tensors: x[M, N]: f32 in, y[M, N]: f32 out
  constexpr: BN = 8 in [8, 16]
"""


def in_loop(statement: str) -> Stmt:
    """`statement` inside a scalar loop i and a tiled loop j, which starts on line 7."""
    text = HEAD + "  for i in range(M):\n    for j in range(0, N, BN):\n      " + statement + "\n}\n"
    outer = parse(text).body[0]
    assert isinstance(outer, For)
    inner = outer.body[0]
    assert isinstance(inner, For)
    return inner.body[0]


def expression(text: str) -> TileExpr:
    statement = in_loop(f"t = {text}")
    assert isinstance(statement, Assign)
    return statement.value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("load(x[i, j:j+BN] -> t)", "t = load(x[i, j:j+BN])"),
        ("add(a, b -> c)", "c = a + b"),
        ("reduce_sum(a, j -> c)", "c = reduce_sum(a, j)"),
        ("acc += a * 2", "acc = acc + a * 2"),
        ("t = f32(a)", "t = cast(a, f32)"),
        ("t = a * i", "t = a * index(i)"),
        ("t = load(x[i, j + 4 : j + 4 + BN])", "t = load(x[i, j+4:4+j+BN])"),
        ("t = load(x[i, j+M-1 : j+BN+M-1])", "t = load(x[i, j+(M-1):j+(M-1)+BN])"),
        ("t = alloc([j], f32, llm_hint=[fast, slow])", 't = alloc([j], f32, init=0, llm_hint=["fast", "slow"])'),
        ("t = (a +  # a comment\n\n  b)", "t = a + b"),
        ("t = a | b ^ c & d << 1 + 2 * 3", "t = a | (b ^ (c & (d << (1 + (2 * 3)))))"),
        ("t = a - b - c < d", "t = ((a - b) - c) < d"),
    ],
)  # fmt: skip
def test_spellings_that_mean_the_same(one: str, other: str) -> None:
    assert in_loop(one) == in_loop(other)


def test_signs_belong_to_literals_and_operators_to_the_rest() -> None:
    assert expression("-0.5") == Literal(-0.5)
    assert expression("-(0.5)") == Op("neg", (Literal(0.5),))
    assert expression("-a * b") == Op("mul", (Op("neg", (Name("a"),)), Name("b")))
    assert expression("-inf") == Literal(-math.inf)
    assert math.copysign(1, expression("-0.0").value) == -1  # type: ignore[union-attr]


def test_a_bare_index_is_a_gather_unless_an_integer_has_that_name() -> None:
    load = expression("load(x[i, row])")
    assert isinstance(load, Load)
    assert load.ref.indices == (At(IntVar("i")), Gather("row"))


def test_lines_are_those_of_the_text() -> None:
    sketch = parse(HEAD + "\n  # a comment\n\n  for i in range(M):\n    t = f32(1)\n}\n")
    loop = sketch.body[0]
    assert (loop.line, sketch.tensors[1].line, sketch.constexprs[0].line) == (8, 3, 4)
    assert isinstance(loop, For)
    assert loop.body[0].line == 9


# --------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "an empty text"),
        ("kernel s {\n}", 1, "expected 'sketch'"),
        ("sketch s\n}", 1, "expected '{'"),
        ("sketch s {\n  symbols: M\n", 2, "not closed"),
        ("sketch s {\n}\nx = 1\n", 3, "text after"),
        ("sketch s {\n} }", 2, "unexpected '}'"),
        ("sketch s {\n  symbols: M, M\n}", 2, "'M' is declared twice"),
        ("sketch s {\n  symbols: M N\n}", 2, "unexpected 'N'"),
        ("sketch s {\n  constexpr: BN\n}", 2, "it needs a value"),
        ("sketch s {\n  constexpr: BN = 1.5\n}", 2, "expected an integer"),
        ("sketch s {\n  tensors: x[2]: f33 in\n}", 2, "no dtype 'f33'"),
        ("sketch s {\n  tensors: x[2]: f32\n}", 2, "expected 'in', 'out' or 'tmp'"),
        ("sketch s {\n  tensors: x[2]: f32 inout\n}", 2, "not a kind of tensor"),
        ("sketch s {\n  tensors: x[4/2]: f32 in\n}", 2, "divide by '//'"),
        ("sketch s {\n  tensors: x[2: f32 in\n}", 2, "expected ']'|never closed"),
        ("sketch s {\n\tx = 1\n}", 2, "a tab"),
        ("sketch s {\n  t = $\n}", 2, "a character that sketches do not use"),
        ("sketch s {\n  t = 1.5x\n}", 2, "a malformed number"),
        ('sketch s {\n  @llm_hint("parallel)\n}', 2, "a string that is never closed"),
        ("sketch s {\n  t = (f32(1)]\n}", 2, "is closed by"),
        ("sketch s {\n  t = f32(1))\n}", 2, "closes nothing"),
        ("sketch s {\n  t = f32(1)\n    u = t\n}", 3, "unexpected indentation"),
        ("sketch s {\n  for i in range(3):\n      t = f32(1)\n    u = t\n}", 4, "matches no enclosing block"),
        ("sketch s {\n    t = f32(1)\n  u = t\n}", 3, "matches no enclosing block"),
        ("sketch s {\n  for i in range(3):\n  t = f32(1)\n}", 2, "has no body"),
        ("sketch s {\n  for i in range(3)\n    t = f32(1)\n}", 2, "expected ':'"),
        ("sketch s {\n  for i in 3:\n    t = f32(1)\n}", 2, "expected 'range'"),
        ('sketch s {\n  @llm_hint("parallel")\n  t = f32(1)\n}', 2, "followed by a 'for'"),
        ('sketch s {\n  @llm_hint("parallel")\n}', 2, "followed by a 'for'"),
        ("sketch s {\n  @parallel\n  for i in range(3):\n    t = f32(1)\n}", 2, "expected 'llm_hint'"),
        ("sketch s {\n  axis d = range(0, 3)\n}", 2, "needs a size"),
        ("sketch s {\n  for i in range(3):\n    for i in range(3):\n      t = f32(1)\n}", 3, "already names"),
        ("sketch s {\n  t = f32(1)\n  symbols: M\n}", 3, "before the first statement"),
    ],
)
def test_mistakes_in_the_structure_name_their_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(SketchError, match=rf"^line {line}: .*({reason})"):
        parse(text)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("t", "expected '='"),
        ("t = ", "expected an expression, found the end of the line"),
        ("3 = t", "expected a statement"),
        ("t = a b", "unexpected 'b'"),
        ("t = a < b < c", "do not chain"),
        ("t = j", r"'j' is an axis: write lanes\(j\)"),
        ("t = x[i]", r"read by load\(x\[…\]\)"),
        ("t = softplus(a)", "no operation 'softplus'"),
        ("t = reduce_mean(a, j)", "no operation 'reduce_mean': did you mean"),
        ("t = maximum(a)", "takes 2 operands, found 1"),
        ("t = exp(a, b)", "takes 1 operand, found 2"),
        ("t = cast(a)", "expected ','"),
        ("t = load(x[i, j])", ""),
        ("t = load(x[i, j:])", "expected an integer expression"),
        ("t = load(x[i, :])", "needs both its bounds"),
        ("t = load(x[i, 0:BN])", "must start at an axis"),
        ("t = load(x[i, j:j+16])", "has BN lanes"),
        ("t = load(x[i, j+1:j+BN])", "has BN lanes"),
        ("t = load(x[i, 2*j:2*j+BN])", "must start at an axis"),
        ("t = load(x[i, j:j+BN], mask=a)", "load takes other and where"),
        ("t = load(x[i, exp(j)])", "integer expressions have"),
        ("t = dot(a, b, j, precision=3)", "expected a precision"),
        ("t = alloc([8], f32)", "given by its axes' names"),
        ("t = alloc([j], f32, start=0)", "alloc takes init and llm_hint"),
        ("t = alloc([j], f32, init=a)", "expected a number"),
        ("store(a, y[i, j:j+BN])", "expected '->'"),
        ("store(a -> y)", r"expected '\['"),
        ("exp(a)", "the value is not used"),
        ("t = " + "(" * 200 + "a" + ")" * 200, "nested too deeply"),
        ("t = " + "-" * 200 + "a", "nested too deeply"),
    ],
)
def test_mistakes_in_a_statement_name_its_line(statement: str, reason: str) -> None:
    if not reason:  # a bare axis parses: it is the checker's to reject
        in_loop(statement)
        return
    with pytest.raises(SketchError, match=rf"^line 7: .*{reason}"):
        in_loop(statement)


def test_a_slice_of_an_axis_that_is_not_in_scope_cannot_be_printed() -> None:
    store = Store(Literal(0.0), TensorRef("y", (Span("k"),)))
    sketch = Sketch("s", (), (TensorDecl("y", (IntConst(3),), DType.F32, "out"),), (), (store,))
    with pytest.raises(SketchError, match="axis 'k' is not in scope"):
        to_text(sketch)
