"""The printer: `ast` to text that parses back to an equal sketch."""

from __future__ import annotations

from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    At,
    AxisDecl,
    Cast,
    ConstExpr,
    Dot,
    For,
    Gather,
    Index,
    IndexValue,
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
    Stmt,
    Store,
    TensorDecl,
    TensorRef,
    TileExpr,
)
from akg_dynamo.agents.sketch.ops import OPS, PRECEDENCE
from akg_dynamo.core.errors import SketchError

_INDENT = "  "
_TIGHTEST = len(PRECEDENCE) + 1
_UNARY = len(PRECEDENCE)
_LEVEL = {infix: level for level, row in enumerate(PRECEDENCE) for infix in row}
_PREFIX = {"neg": "-", "not": "~"}
_INT_LEVEL = {"+": 0, "-": 0, "*": 1, "//": 1, "%": 1}


def to_text(sketch: Sketch) -> str:
    """The sketch's text. `SketchError` if it spans an axis that is not in scope: such a slice has no spelling."""
    return "\n".join(_Printer().lines(sketch)) + "\n"


def int_text(expr: IntExpr, level: int = 0) -> str:
    """An integer expression's text, in brackets if it binds looser than `level`."""
    if isinstance(expr, IntConst):
        return str(int(expr.value))
    if isinstance(expr, IntVar):
        return expr.name
    if expr.op in ("min", "max"):
        return f"{expr.op}({int_text(expr.a)}, {int_text(expr.b)})"
    own = _INT_LEVEL[expr.op]
    text = f"{int_text(expr.a, own)} {expr.op} {int_text(expr.b, own + 1)}"
    return f"({text})" if own < level else text


def number_text(value: float | int | bool) -> str:
    """A literal's text, sign included."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return str(int(value))
    return repr(float(value))


def _tensor(t: TensorDecl) -> str:
    text = f"{t.name}[{', '.join(int_text(d) for d in t.shape)}]: {t.dtype.value} {t.kind}"
    return text if t.strides is None else f"{text} strides({', '.join(int_text(s) for s in t.strides)})"


def _constexpr(c: ConstExpr) -> str:
    return f"{c.name} = {c.value}" + (f" in [{', '.join(str(v) for v in c.space)}]" if c.space else "")


class _Printer:
    """Keeps the size of each axis in scope: a slice's text needs it."""

    def __init__(self) -> None:
        self.axes: dict[str, str | int] = {}

    def lines(self, sketch: Sketch) -> list[str]:
        lines = [f"sketch {sketch.name} {{"]
        if sketch.symbols:
            lines.append(f"{_INDENT}symbols: {', '.join(sketch.symbols)}")
        if sketch.tensors:
            lines.append(f"{_INDENT}tensors: " + f",\n{_INDENT * 2}".join(_tensor(t) for t in sketch.tensors))
        if sketch.constexprs:
            lines.append(f"{_INDENT}constexpr: {', '.join(_constexpr(c) for c in sketch.constexprs)}")
        if sketch.body:
            if len(lines) > 1:
                lines.append("")
            lines += self.block(sketch.body, _INDENT)
        return [*lines, "}"]

    def block(self, body: tuple[Stmt, ...], margin: str) -> list[str]:
        outer = dict(self.axes)
        lines: list[str] = []
        for statement in body:
            lines += self.statement(statement, margin)
        self.axes = outer
        return lines

    def statement(self, s: Stmt, margin: str) -> list[str]:
        if isinstance(s, Assign):
            return [f"{margin}{s.name} = {self.expr(s.value)}"]
        if isinstance(s, Alloc):
            hints = f", llm_hint=[{', '.join(_quoted(h) for h in s.hints)}]" if s.hints else ""
            return [
                f"{margin}{s.name} = alloc([{', '.join(s.axes)}], {s.dtype.value}, init={number_text(s.init)}{hints})"
            ]
        if isinstance(s, Store):
            return [f"{margin}store({self.expr(s.value)} -> {self.ref(s.ref)})"]
        if isinstance(s, AxisDecl):
            self.axes[s.var] = s.size
            return [f"{margin}axis {s.var} = range({int_text(s.start)}, {int_text(s.stop)}, {s.size})"]
        return self.loop(s, margin)

    def loop(self, s: For, margin: str) -> list[str]:
        lines = [f"{margin}@llm_hint({', '.join(_quoted(h) for h in s.hints)})"] if s.hints else []
        step = "" if s.step is None else f", {s.step}"
        lines.append(f"{margin}for {s.var} in range({int_text(s.start)}, {int_text(s.stop)}{step}):")
        outer = dict(self.axes)
        if s.step is not None:
            self.axes[s.var] = s.step
        lines += self.block(s.body, margin + _INDENT)
        self.axes = outer
        return lines

    def ref(self, ref: TensorRef) -> str:
        return f"{ref.name}[{', '.join(self.index(i) for i in ref.indices)}]"

    def index(self, index: Index) -> str:
        if isinstance(index, At):
            return int_text(index.index)
        if isinstance(index, Gather):
            return index.tile
        if index.axis not in self.axes:
            raise SketchError(f"axis '{index.axis}' is not in scope")
        low = index.axis
        if isinstance(index.shift, IntConst) and index.shift.value < 0:
            low += str(index.shift.value)
        elif index.shift != IntConst(0):
            low += f"+{int_text(index.shift, 1)}"
        return f"{low}:{low}+{self.axes[index.axis]}"

    def expr(self, e: TileExpr, level: int = 0) -> str:
        if isinstance(e, Op):
            return self.op(e, level)
        if isinstance(e, Name):
            return e.name
        if isinstance(e, Literal):
            return number_text(e.value) if e.dtype is None else f"{e.dtype.value}({number_text(e.value)})"
        if isinstance(e, IndexValue):
            return f"index({int_text(e.expr)})"
        if isinstance(e, Lanes):
            return f"lanes({e.axis})"
        if isinstance(e, Cast):
            return f"cast({self.expr(e.x)}, {e.dtype.value})"
        if isinstance(e, Reduce):
            return f"reduce_{e.op}({self.expr(e.x)}, {e.axis})"
        if isinstance(e, Scan):
            return f"scan_{e.op}({self.expr(e.x)}, {e.axis})"
        if isinstance(e, Dot):
            precision = "" if e.precision == "ieee" else f", precision={_quoted(e.precision)}"
            return f"dot({self.expr(e.a)}, {self.expr(e.b)}, {e.axis}{precision})"
        return self.load(e)

    def load(self, e: Load) -> str:
        other = "" if type(e.other) is int and e.other == 0 else f", other={number_text(e.other)}"
        where = "" if e.where is None else f", where={self.expr(e.where)}"
        return f"load({self.ref(e.ref)}{other}{where})"

    def op(self, e: Op, level: int) -> str:
        infix = OPS[e.name].infix if e.name in OPS else ""
        if infix and len(e.args) == 2:
            own = _LEVEL[infix]
            # Comparisons do not chain, so both their sides are bracketed when they are comparisons themselves.
            left = self.expr(e.args[0], own + 1 if own == 0 else own)
            text = f"{left} {infix} {self.expr(e.args[1], own + 1)}"
            return f"({text})" if own < level else text
        if e.name in _PREFIX and len(e.args) == 1 and not isinstance(e.args[0], Literal):
            text = f"{_PREFIX[e.name]}{self.expr(e.args[0], _UNARY)}"
            return f"({text})" if level >= _TIGHTEST else text
        return f"{e.name}({', '.join(self.expr(a) for a in e.args)})"


def _quoted(word: str) -> str:
    return f'"{word}"'
