"""The parser: sketch text to `ast`. Every mistake is a `SketchError` with the line and what was expected.

Besides the spelling that `printer` writes it accepts what sketches written by hand use: ``load(x[i, j:j+BN] -> t)``,
``add(a, b -> c)``, ``acc += t``, ``range(n)``, hints without quotes, a bare loop variable for ``index(i)``.

Names decide two things here, so the parser keeps the scope of integer names: a bare index ``x[n]`` is a scalar index
when n is an integer and a gather when it is a tile; a slice ``lo:hi`` is the span of the axis that `lo` mentions.
"""

from __future__ import annotations

import difflib
import math

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
from akg_dynamo.agents.sketch.intexpr import linear
from akg_dynamo.agents.sketch.lexer import LogicalLine, Token, lex
from akg_dynamo.agents.sketch.ops import INFIX, OPS, PRECEDENCE, REDUCTIONS, SCANS
from akg_dynamo.core.errors import SketchError

_DTYPES = {d.value: d for d in DType}
_NUMBERS = {"inf": math.inf, "nan": math.nan, "True": True, "False": False}
_KINDS = ("in", "out", "tmp")
_INT_LEVELS = (("+", "-"), ("*", "//", "%"))
_MAX_DEPTH = 60  # of brackets inside one expression: deeper ones would exhaust Python's stack
_SECTIONS = ("symbols", "tensors", "constexpr")


def parse(text: str) -> Sketch:
    """The sketch that `text` spells; `SketchError` (with the line) where it does not spell one."""
    return _Parser(lex(text)).sketch()


class _Cursor:
    """A position in one logical line."""

    def __init__(self, line: LogicalLine) -> None:
        self.tokens = line.tokens
        self.at = 0
        self.depth = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    @property
    def ahead(self) -> Token:
        return self.tokens[min(self.at + 1, len(self.tokens) - 1)]

    def next(self) -> Token:
        token = self.token
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def is_op(self, *texts: str) -> bool:
        return self.token.kind == "op" and self.token.text in texts

    def is_name(self, *texts: str) -> bool:
        return self.token.kind == "name" and (not texts or self.token.text in texts)

    def accept(self, *texts: str) -> Token | None:
        return self.next() if self.is_op(*texts) else None

    def expect(self, text: str, where: str) -> Token:
        if not (self.token.kind in ("op", "name") and self.token.text == text):
            raise self.error(f"expected '{text}' {where}, found {self.token}")
        return self.next()

    def name(self, what: str) -> str:
        if self.token.kind != "name":
            raise self.error(f"expected {what}, found {self.token}")
        return self.next().text

    def end(self, where: str) -> None:
        if self.token.kind != "end":
            raise self.error(f"unexpected {self.token} {where}")

    def error(self, reason: str) -> SketchError:
        return SketchError(reason, self.token.line)


class _Parser:
    def __init__(self, lines: list[LogicalLine]) -> None:
        self.lines = lines
        self.at = 0
        self.ints: set[str] = set()
        self.axes: dict[str, str | int] = {}

    # ---------------------------------------------------------------------------------------------------- the whole

    def sketch(self) -> Sketch:
        if not self.lines:
            raise SketchError("an empty text: a sketch starts with 'sketch name {'", 1)
        c = _Cursor(self.lines[0])
        c.expect("sketch", "at the start")
        name = c.name("the sketch's name")
        c.expect("{", "after the sketch's name")
        c.end("after '{'")
        self.at = 1
        symbols: list[str] = []
        tensors: list[TensorDecl] = []
        constexprs: list[ConstExpr] = []
        while (section := self._section()) is not None:
            c = _Cursor(section)
            kind = c.next().text
            c.next()
            if kind == "symbols":
                symbols += self._symbols(c)
            elif kind == "tensors":
                tensors += self._tensors(c)
            else:
                constexprs += self._constexprs(c)
        body: tuple[Stmt, ...] = ()
        line = self._line()
        if line is not None and not self._closes(line):
            body = self._block(line.indent)
        line = self._line()
        if line is None:
            raise SketchError("the sketch is not closed: expected '}'", self.lines[-1].line)
        if not self._closes(line):
            raise SketchError("the indentation matches no enclosing block", line.line)
        if self.at + 1 < len(self.lines):
            raise SketchError("text after the sketch's '}'", self.lines[self.at + 1].line)
        return Sketch(name, tuple(symbols), tuple(tensors), tuple(constexprs), body)

    def _line(self) -> LogicalLine | None:
        return self.lines[self.at] if self.at < len(self.lines) else None

    @staticmethod
    def _closes(line: LogicalLine) -> bool:
        if line.tokens[0].text != "}":
            return False
        if line.tokens[1].kind != "end":
            raise SketchError(f"unexpected {line.tokens[1]} after '}}'", line.line)
        return True

    @staticmethod
    def _is_section(line: LogicalLine) -> bool:
        first, second = line.tokens[0], line.tokens[1]
        return first.kind == "name" and first.text in _SECTIONS and second.text == ":"

    def _section(self) -> LogicalLine | None:
        line = self._line()
        if line is None or not self._is_section(line):
            return None
        self.at += 1
        return line

    def _define(self, name: str, c: _Cursor) -> None:
        if name in self.ints:
            raise c.error(f"'{name}' is declared twice")
        self.ints.add(name)

    def _symbols(self, c: _Cursor) -> list[str]:
        names: list[str] = []
        while c.token.kind != "end":
            names.append(c.name("a symbol's name"))
            self._define(names[-1], c)
            if not c.accept(","):
                break
        c.end("in the list of symbols")
        return names

    def _constexprs(self, c: _Cursor) -> list[ConstExpr]:
        found: list[ConstExpr] = []
        while c.token.kind != "end":
            line = c.token.line
            name = c.name("a constexpr's name")
            self._define(name, c)
            c.expect("=", f"after constexpr '{name}' (it needs a value)")
            value = self._integer(c)
            space: list[int] = []
            if c.is_name("in"):
                c.next()
                c.expect("[", "before the search space")
                while not c.is_op("]"):
                    space.append(self._integer(c))
                    if not c.accept(","):
                        break
                c.expect("]", "after the search space")
            found.append(ConstExpr(name, value, tuple(space), line))
            if not c.accept(","):
                break
        c.end("in the list of constexprs")
        return found

    def _integer(self, c: _Cursor) -> int:
        sign = -1 if c.accept("-") else 1
        if c.token.kind != "number" or not c.token.text.isdigit():
            raise c.error(f"expected an integer, found {c.token}")
        return sign * int(c.next().text)

    def _tensors(self, c: _Cursor) -> list[TensorDecl]:
        found: list[TensorDecl] = []
        while c.token.kind != "end":
            line = c.token.line
            name = c.name("a tensor's name")
            shape = self._ints(c, "[", "]")
            c.expect(":", f"and a dtype after the shape of '{name}'")
            dtype = self._dtype(c)
            kind = c.name("'in', 'out' or 'tmp'")
            if kind not in _KINDS:
                raise SketchError(f"'{kind}' is not a kind of tensor: expected in, out or tmp", line)
            strides: tuple[IntExpr, ...] | None = None
            if c.is_name("strides"):
                c.next()
                strides = self._ints(c, "(", ")")
            found.append(TensorDecl(name, shape, dtype, kind, strides, line))
            if not c.accept(","):
                break
        c.end("in the list of tensors")
        return found

    def _ints(self, c: _Cursor, opener: str, closer: str) -> tuple[IntExpr, ...]:
        c.expect(opener, "here")
        found: list[IntExpr] = []
        while not c.is_op(closer):
            found.append(self._int_expr(c))
            if not c.accept(","):
                break
        c.expect(closer, "here")
        return tuple(found)

    def _dtype(self, c: _Cursor) -> DType:
        text = c.name("a dtype")
        if text not in _DTYPES:
            raise c.error(f"no dtype '{text}': expected one of {', '.join(_DTYPES)}")
        return _DTYPES[text]

    # --------------------------------------------------------------------------------------------------- statements

    def _block(self, indent: int) -> tuple[Stmt, ...]:
        """Statements at exactly `indent`, up to a line that is indented less or the closing brace."""
        body: list[Stmt] = []
        declared: list[str] = []
        while (line := self._line()) is not None and not self._closes(line) and line.indent >= indent:
            if line.indent > indent:
                raise SketchError("unexpected indentation", line.line)
            if self._is_section(line):
                raise SketchError(f"'{line.tokens[0].text}:' must stand before the first statement", line.line)
            statement = self._statement(indent)
            if isinstance(statement, AxisDecl):
                declared.append(statement.var)
            body.append(statement)
        for name in declared:
            del self.axes[name]
            self.ints.discard(name)
        return tuple(body)

    def _statement(self, indent: int) -> Stmt:
        hints: tuple[str, ...] = ()
        hint_line = 0
        while True:
            line = self._line()
            if line is None or self._closes(line) or line.indent != indent:
                raise SketchError("a hint must be followed by a 'for' of the same indentation", hint_line)
            c = _Cursor(line)
            self.at += 1
            if not c.is_op("@"):
                break
            hint_line = line.line
            hints += self._hint(c)
        if c.is_name("for"):
            return self._for(c, hints, line)
        if hint_line:
            raise SketchError("a hint must be followed by a 'for' of the same indentation", hint_line)
        if c.is_name("axis") and c.ahead.kind == "name":
            return self._axis(c, line.line)
        if c.is_name("store") and c.ahead.text == "(":
            return self._store(c, line.line)
        if c.token.kind != "name":
            raise c.error(f"expected a statement, found {c.token}")
        if c.ahead.text == "(":
            return self._destination_last(c, line.line)
        return self._assign(c, line.line)

    def _hint(self, c: _Cursor) -> tuple[str, ...]:
        c.next()
        c.expect("llm_hint", "after '@'")
        c.expect("(", "after '@llm_hint'")
        hints = self._words(c, ")")
        c.expect(")", "after the hints")
        c.end("after the hints")
        return hints

    @staticmethod
    def _words(c: _Cursor, closer: str) -> tuple[str, ...]:
        words: list[str] = []
        while not c.is_op(closer):
            if c.token.kind not in ("string", "name"):
                raise c.error(f'expected a hint such as "parallel", found {c.token}')
            words.append(c.next().text.strip("\"'"))
            if not c.accept(","):
                break
        return tuple(words)

    def _range(self, c: _Cursor) -> tuple[IntExpr, IntExpr, str | int | None]:
        c.expect("range", "and its bounds")
        c.expect("(", "after 'range'")
        start: IntExpr = IntConst(0)
        stop = self._int_expr(c)
        step: str | int | None = None
        if c.accept(","):
            start, stop = stop, self._int_expr(c)
            if c.accept(","):
                step = c.next().text if c.is_name() else self._integer(c)
        c.expect(")", "after the bounds (a step is a constexpr's name or an integer)")
        return start, stop, step

    def _for(self, c: _Cursor, hints: tuple[str, ...], line: LogicalLine) -> For:
        c.next()
        var = c.name("the loop's variable")
        c.expect("in", f"after 'for {var}'")
        start, stop, step = self._range(c)
        c.expect(":", "at the end of 'for'")
        c.end("after ':' (the body stands on its own lines)")
        inner = self._line()
        if inner is None or inner.indent <= line.indent or self._closes(inner):
            raise SketchError(f"loop '{var}' has no body: expected an indented statement", line.line)
        self._open(var, step, c)
        body = self._block(inner.indent)
        self.ints.discard(var)
        self.axes.pop(var, None)
        after = self._line()
        if after is not None and not self._closes(after) and after.indent > line.indent:
            raise SketchError("the indentation matches no enclosing block", after.line)
        return For(var, start, stop, step, body, hints, line.line)

    def _axis(self, c: _Cursor, line: int) -> AxisDecl:
        c.next()
        var = c.name("the axis's name")
        c.expect("=", f"after 'axis {var}'")
        start, stop, size = self._range(c)
        c.end("after the axis")
        if size is None:
            raise SketchError(f"axis '{var}' needs a size: range(start, stop, size)", line)
        self._open(var, size, c)
        return AxisDecl(var, start, stop, size, line)

    def _open(self, var: str, step: str | int | None, c: _Cursor) -> None:
        if var in self.ints:
            raise c.error(f"'{var}' already names a symbol, a constexpr, a loop or an axis here")
        self.ints.add(var)
        if step is not None:
            self.axes[var] = step

    def _store(self, c: _Cursor, line: int) -> Store:
        c.next()
        c.next()
        value = self._expr(c)
        c.expect("->", "and where to store")
        ref = self._ref(c)
        c.expect(")", "at the end of 'store'")
        c.end("after 'store'")
        return Store(value, ref, line)

    def _destination_last(self, c: _Cursor, line: int) -> Stmt:
        value, target = self._call(c, arrow=True)
        if target is None:
            raise SketchError("the value is not used: write 'name = …' or '… -> name)'", line)
        c.end("after the statement")
        return Assign(target, value, line)

    def _assign(self, c: _Cursor, line: int) -> Assign | Alloc:
        name = c.name("a name")
        if c.is_op("+=", "-=", "*=", "/=", "//="):
            op = INFIX[c.next().text[:-1]]
            value: TileExpr = Op(op, (Name(name), self._expr(c)))
            c.end("after the expression")
            return Assign(name, value, line)
        if not c.is_op("="):
            raise c.error(f"expected '=' after '{name}', found {c.token}")
        c.next()
        if c.is_name("alloc") and c.ahead.text == "(":
            return self._alloc(c, name, line)
        value = self._expr(c)
        c.end("after the expression")
        return Assign(name, value, line)

    def _alloc(self, c: _Cursor, name: str, line: int) -> Alloc:
        c.next()
        c.next()
        c.expect("[", "and the axes")
        axes: list[str] = []
        while not c.is_op("]"):
            if c.token.kind == "number":
                raise c.error("the shape of a tile is given by its axes' names, not by sizes")
            axes.append(c.name("an axis's name"))
            if not c.accept(","):
                break
        c.expect("]", "after the axes")
        c.expect(",", "and a dtype after the axes")
        dtype = self._dtype(c)
        init: float | int | bool = 0
        hints: tuple[str, ...] = ()
        while c.accept(","):
            key = c.name("'init' or 'llm_hint'")
            c.expect("=", f"after '{key}'")
            if key == "init":
                init = self._number(c)
            elif key == "llm_hint":
                c.expect("[", "before the hints")
                hints = self._words(c, "]")
                c.expect("]", "after the hints")
            else:
                raise c.error(f"alloc takes init and llm_hint, not '{key}'")
        c.expect(")", "at the end of 'alloc'")
        c.end("after 'alloc'")
        return Alloc(name, tuple(axes), dtype, init, hints, line)

    # --------------------------------------------------------------------------------------------- tile expressions

    def _expr(self, c: _Cursor, level: int = 0) -> TileExpr:
        if level == len(PRECEDENCE):
            return self._unary(c)
        left = self._expr(c, level + 1)
        while c.is_op(*PRECEDENCE[level]):
            op = c.next()
            left = Op(INFIX[op.text], (left, self._expr(c, level + 1)))
            if level == 0 and c.is_op(*PRECEDENCE[0]):
                raise c.error("comparisons do not chain: write (a < b) & (b < c)")
        return left

    def _unary(self, c: _Cursor) -> TileExpr:
        if c.is_op("-", "~"):
            op = c.next().text
            if op == "-" and (c.token.kind == "number" or c.is_name("inf", "nan")):
                return Literal(-self._number(c))
            self._enter(c)
            operand = self._unary(c)
            c.depth -= 1
            return Op("neg" if op == "-" else "not", (operand,))
        return self._primary(c)

    @staticmethod
    def _enter(c: _Cursor) -> None:
        c.depth += 1
        if c.depth > _MAX_DEPTH:
            raise c.error("an expression nested too deeply: give its parts names")

    def _primary(self, c: _Cursor) -> TileExpr:
        if c.token.kind == "number" or c.is_name(*_NUMBERS):
            return Literal(self._number(c))
        if c.accept("("):
            self._enter(c)
            inner = self._expr(c)
            c.expect(")", "to close the bracket")
            c.depth -= 1
            return inner
        if c.token.kind != "name":
            raise c.error(f"expected an expression, found {c.token}")
        if c.ahead.text == "(":
            value, _ = self._call(c, arrow=False)
            return value
        name = c.next().text
        if c.is_op("["):
            raise c.error(f"a tensor is read by load({name}[…])")
        if name in self.axes:
            raise c.error(f"'{name}' is an axis: write lanes({name}) for its indices, index({name}) for its first")
        return IndexValue(IntVar(name)) if name in self.ints else Name(name)

    def _number(self, c: _Cursor) -> float | int | bool:
        """A literal with its sign."""
        negative = c.accept("-") is not None
        text = c.token.text
        value: float | int | bool
        if c.token.kind == "number":
            value = int(text) if text.isdigit() else float(text)
        elif c.is_name(*_NUMBERS):
            value = _NUMBERS[text]
        else:
            raise c.error(f"expected a number, found {c.token}")
        if negative and isinstance(value, bool):
            raise c.error("a bool has no sign")
        c.next()
        return -value if negative else value

    def _call(self, c: _Cursor, *, arrow: bool) -> tuple[TileExpr, str | None]:
        """``function(…)``; with `arrow`, also ``function(… -> name)``, whose name comes second."""
        function = c.next()
        self._enter(c)
        c.next()
        value = self._called(c, function.text)
        target: str | None = None
        if arrow and c.accept("->"):
            target = c.name("the name to assign")
        c.expect(")", f"at the end of '{function.text}(…'")
        c.depth -= 1
        return value, target

    def _called(self, c: _Cursor, function: str) -> TileExpr:
        if function == "load":
            return self._load(c)
        if function == "cast":
            x = self._expr(c)
            c.expect(",", "and a dtype")
            return Cast(x, self._dtype(c))
        if function == "index":
            return IndexValue(self._int_expr(c))
        if function == "lanes":
            return Lanes(c.name("an axis"))
        if function == "dot":
            return self._dot(c)
        if function in _DTYPES:
            return self._typed(c, _DTYPES[function])
        prefix, _, op = function.partition("_")
        if prefix in ("reduce", "scan") and op in (REDUCTIONS if prefix == "reduce" else SCANS):
            x = self._expr(c)
            c.expect(",", f"and the axis of '{function}'")
            axis = c.name("an axis")
            return Reduce(op, x, axis) if prefix == "reduce" else Scan(op, x, axis)
        if function not in OPS:
            raise c.error(f"no operation '{function}'{_suggest(function)}")
        args: list[TileExpr] = []
        while not c.is_op(")", "->"):
            args.append(self._expr(c))
            if not c.accept(","):
                break
        info = OPS[function]
        if len(args) != info.arity:
            raise c.error(f"'{function}' takes {info.arity} operand{'s' * (info.arity > 1)}, found {len(args)}")
        return Op(function, tuple(args))

    def _typed(self, c: _Cursor, dtype: DType) -> TileExpr:
        """``f32(0.5)``: a literal with a dtype; of any other expression, a cast."""
        inner = self._expr(c)
        if isinstance(inner, Literal) and inner.dtype is None:
            return Literal(inner.value, dtype)
        return Cast(inner, dtype)

    def _load(self, c: _Cursor) -> Load:
        ref = self._ref(c)
        other: float | int | bool = 0
        where: TileExpr | None = None
        while c.accept(","):
            key = c.name("'other' or 'where'")
            c.expect("=", f"after '{key}'")
            if key == "other":
                other = self._number(c)
            elif key == "where":
                where = self._expr(c)
            else:
                raise c.error(f"load takes other and where, not '{key}'")
        return Load(ref, other, where)

    def _dot(self, c: _Cursor) -> Dot:
        a = self._expr(c)
        c.expect(",", "and the second operand of 'dot'")
        b = self._expr(c)
        c.expect(",", "and the axis that 'dot' sums over")
        axis = c.name("an axis")
        precision = "ieee"
        if c.accept(","):
            c.expect("precision", "as the last argument of 'dot'")
            c.expect("=", "after 'precision'")
            if c.token.kind not in ("string", "name"):
                raise c.error(f'expected a precision such as "ieee", found {c.token}')
            precision = c.next().text.strip("\"'")
        return Dot(a, b, axis, precision)

    # ------------------------------------------------------------------------------------------------------ accesses

    def _ref(self, c: _Cursor) -> TensorRef:
        name = c.name("a tensor's name")
        c.expect("[", f"and indices after tensor '{name}'")
        indices: list[Index] = []
        while not c.is_op("]"):
            indices.append(self._index(c))
            if not c.accept(","):
                break
        c.expect("]", "after the indices")
        return TensorRef(name, tuple(indices))

    def _index(self, c: _Cursor) -> Index:
        if c.is_name() and c.ahead.text in (",", "]") and c.token.text not in self.ints:
            return Gather(c.next().text)
        if c.is_op(":"):
            raise c.error("a slice needs both its bounds: j:j+BN")
        low = self._int_expr(c)
        if not c.accept(":"):
            return At(low)
        high = self._int_expr(c)
        return self._span(low, high, c)

    def _span(self, low: IntExpr, high: IntExpr, c: _Cursor) -> Span:
        for axis, size in self.axes.items():
            shift = _without(axis, low)
            if shift is None:
                continue
            width: IntExpr = IntVar(size) if isinstance(size, str) else IntConst(size)
            if linear(IntBin("-", high, low)) != linear(width):
                raise c.error(
                    f"a slice along axis '{axis}' has {size} lanes: write {axis}:{axis}+{size}, both shifted alike"
                )
            return Span(axis, shift)
        raise c.error("a slice must start at an axis in scope (a loop with a step, or an 'axis'), such as j:j+BN")

    def _int_expr(self, c: _Cursor, level: int = 0) -> IntExpr:
        if level == len(_INT_LEVELS):
            return self._int_unary(c)
        left = self._int_expr(c, level + 1)
        while c.is_op(*_INT_LEVELS[level]):
            op = c.next().text
            left = IntBin(op, left, self._int_expr(c, level + 1))
        if c.is_op("/"):
            raise c.error("integer expressions divide by '//'")
        return left

    def _int_unary(self, c: _Cursor) -> IntExpr:
        if c.accept("-"):
            if c.token.kind == "number" and c.token.text.isdigit():
                return IntConst(-int(c.next().text))
            self._enter(c)
            operand = self._int_unary(c)
            c.depth -= 1
            return IntBin("-", IntConst(0), operand)
        if c.token.kind == "number":
            return IntConst(self._integer(c))
        if c.accept("("):
            self._enter(c)
            inner = self._int_expr(c)
            c.expect(")", "to close the bracket")
            c.depth -= 1
            return inner
        name = c.name("an integer expression")
        if not c.is_op("("):
            return IntVar(name)
        if name not in ("min", "max"):
            raise c.error(f"integer expressions have + - * // % min max, not '{name}'")
        self._enter(c)
        c.next()
        a = self._int_expr(c)
        c.expect(",", f"between the two operands of '{name}'")
        b = self._int_expr(c)
        c.expect(")", f"after the two operands of '{name}'")
        c.depth -= 1
        return IntBin(name, a, b)


def _without(axis: str, expr: IntExpr) -> IntExpr | None:
    """expr - axis, when the axis is one of the terms that `expr` adds up; None otherwise."""
    if expr == IntVar(axis):
        return IntConst(0)
    if not isinstance(expr, IntBin) or expr.op not in ("+", "-"):
        return None
    rest = _without(axis, expr.a)
    if rest is not None:
        if rest != IntConst(0):
            return IntBin(expr.op, rest, expr.b)
        if expr.op == "+":
            return expr.b
        return IntConst(-expr.b.value) if isinstance(expr.b, IntConst) else IntBin("-", IntConst(0), expr.b)
    rest = _without(axis, expr.b) if expr.op == "+" else None
    if rest is None:
        return None
    return expr.a if rest == IntConst(0) else IntBin("+", expr.a, rest)


def _suggest(word: str) -> str:
    known = [
        *OPS,
        *(f"reduce_{r}" for r in REDUCTIONS),
        *(f"scan_{s}" for s in SCANS),
        "load",
        "cast",
        "dot",
        "lanes",
        "index",
    ]
    close = difflib.get_close_matches(word, known, n=2)
    return f": did you mean {' or '.join(close)}?" if close else ""
