"""The parser: sketch text to `ast`. Every mistake is a `SketchError` with the line and what was expected.

Besides the spelling that `printer` writes it accepts what sketches written by hand use: ``load(x[i, j:j+BN] -> t)``,
``add(a, b -> c)``, ``acc += t``, ``range(n)``, hints without quotes, a bare loop variable for ``index(i)``.

Names decide two things here, so the parser keeps the scope of integer names: a bare index ``x[n]`` is a scalar index
when n is an integer and a gather when it is a tile; a slice ``lo:hi`` is the span of the axis that `lo` mentions.
"""

from __future__ import annotations

from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    AxisDecl,
    ConstExpr,
    For,
    IntConst,
    IntExpr,
    Name,
    Op,
    Sketch,
    Stmt,
    Store,
    TensorDecl,
    TileExpr,
)
from akg_dynamo.agents.sketch.expressions import ExpressionParser
from akg_dynamo.agents.sketch.lexer import Cursor, LogicalLine, lex
from akg_dynamo.agents.sketch.ops import INFIX
from akg_dynamo.core.errors import SketchError

_KINDS = ("in", "out", "tmp")
_SECTIONS = ("symbols", "tensors", "constexpr")


def parse(text: str) -> Sketch:
    """The sketch that `text` spells; `SketchError` (with the line) where it does not spell one."""
    return _Parser(lex(text)).sketch()


class _Parser(ExpressionParser):
    def __init__(self, lines: list[LogicalLine]) -> None:
        super().__init__()
        self.lines = lines
        self.at = 0

    # ---------------------------------------------------------------------------------------------------- the whole

    def sketch(self) -> Sketch:
        if not self.lines:
            raise SketchError("an empty text: a sketch starts with 'sketch name {'", 1)
        c = Cursor(self.lines[0])
        c.expect("sketch", "at the start")
        name = c.name("the sketch's name")
        c.expect("{", "after the sketch's name")
        c.end("after '{'")
        self.at = 1
        symbols: list[str] = []
        tensors: list[TensorDecl] = []
        constexprs: list[ConstExpr] = []
        while (section := self._section()) is not None:
            c = Cursor(section)
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

    def _define(self, name: str, c: Cursor) -> None:
        if name in self.ints:
            raise c.error(f"'{name}' is declared twice")
        self.ints.add(name)

    def _symbols(self, c: Cursor) -> list[str]:
        names: list[str] = []
        while c.token.kind != "end":
            names.append(c.name("a symbol's name"))
            self._define(names[-1], c)
            if not c.accept(","):
                break
        c.end("in the list of symbols")
        return names

    def _constexprs(self, c: Cursor) -> list[ConstExpr]:
        found: list[ConstExpr] = []
        while c.token.kind != "end":
            line = c.token.line
            name = c.name("a constexpr's name")
            self._define(name, c)
            c.expect("=", f"after constexpr '{name}' (it needs a value)")
            value = self.integer(c)
            space: list[int] = []
            if c.is_name("in"):
                c.next()
                c.expect("[", "before the search space")
                while not c.is_op("]"):
                    space.append(self.integer(c))
                    if not c.accept(","):
                        break
                c.expect("]", "after the search space")
            found.append(ConstExpr(name, value, tuple(space), line))
            if not c.accept(","):
                break
        c.end("in the list of constexprs")
        return found

    def _tensors(self, c: Cursor) -> list[TensorDecl]:
        found: list[TensorDecl] = []
        while c.token.kind != "end":
            line = c.token.line
            name = c.name("a tensor's name")
            shape = self._ints(c, "[", "]")
            c.expect(":", f"and a dtype after the shape of '{name}'")
            dtype = self.dtype(c)
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

    def _ints(self, c: Cursor, opener: str, closer: str) -> tuple[IntExpr, ...]:
        c.expect(opener, "here")
        found: list[IntExpr] = []
        while not c.is_op(closer):
            found.append(self.int_expr(c))
            if not c.accept(","):
                break
        c.expect(closer, "here")
        return tuple(found)

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
            c = Cursor(line)
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

    def _hint(self, c: Cursor) -> tuple[str, ...]:
        c.next()
        c.expect("llm_hint", "after '@'")
        c.expect("(", "after '@llm_hint'")
        hints = self._words(c, ")")
        c.expect(")", "after the hints")
        c.end("after the hints")
        return hints

    @staticmethod
    def _words(c: Cursor, closer: str) -> tuple[str, ...]:
        words: list[str] = []
        while not c.is_op(closer):
            if c.token.kind not in ("string", "name"):
                raise c.error(f'expected a hint such as "parallel", found {c.token}')
            words.append(c.next().text.strip("\"'"))
            if not c.accept(","):
                break
        return tuple(words)

    def _range(self, c: Cursor) -> tuple[IntExpr, IntExpr, str | int | None]:
        c.expect("range", "and its bounds")
        c.expect("(", "after 'range'")
        start: IntExpr = IntConst(0)
        stop = self.int_expr(c)
        step: str | int | None = None
        if c.accept(","):
            start, stop = stop, self.int_expr(c)
            if c.accept(","):
                step = c.next().text if c.is_name() else self.integer(c)
        c.expect(")", "after the bounds (a step is a constexpr's name or an integer)")
        return start, stop, step

    def _for(self, c: Cursor, hints: tuple[str, ...], line: LogicalLine) -> For:
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

    def _axis(self, c: Cursor, line: int) -> AxisDecl:
        c.next()
        var = c.name("the axis's name")
        c.expect("=", f"after 'axis {var}'")
        start, stop, size = self._range(c)
        c.end("after the axis")
        if size is None:
            raise SketchError(f"axis '{var}' needs a size: range(start, stop, size)", line)
        self._open(var, size, c)
        return AxisDecl(var, start, stop, size, line)

    def _open(self, var: str, step: str | int | None, c: Cursor) -> None:
        if var in self.ints:
            raise c.error(f"'{var}' already names a symbol, a constexpr, a loop or an axis here")
        self.ints.add(var)
        if step is not None:
            self.axes[var] = step

    def _store(self, c: Cursor, line: int) -> Store:
        c.next()
        c.next()
        value = self.expr(c)
        c.expect("->", "and where to store")
        ref = self.ref(c)
        c.expect(")", "at the end of 'store'")
        c.end("after 'store'")
        return Store(value, ref, line)

    def _destination_last(self, c: Cursor, line: int) -> Stmt:
        value, target = self.call(c, arrow=True)
        if target is None:
            raise SketchError("the value is not used: write 'name = …' or '… -> name)'", line)
        c.end("after the statement")
        return Assign(target, value, line)

    def _assign(self, c: Cursor, line: int) -> Assign | Alloc:
        name = c.name("a name")
        if c.is_op("+=", "-=", "*=", "/=", "//="):
            op = INFIX[c.next().text[:-1]]
            value: TileExpr = Op(op, (Name(name), self.expr(c)))
            c.end("after the expression")
            return Assign(name, value, line)
        if not c.is_op("="):
            raise c.error(f"expected '=' after '{name}', found {c.token}")
        c.next()
        if c.is_name("alloc") and c.ahead.text == "(":
            return self._alloc(c, name, line)
        value = self.expr(c)
        c.end("after the expression")
        return Assign(name, value, line)

    def _alloc(self, c: Cursor, name: str, line: int) -> Alloc:
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
        dtype = self.dtype(c)
        init: float | int | bool = 0
        hints: tuple[str, ...] = ()
        while c.accept(","):
            key = c.name("'init' or 'llm_hint'")
            c.expect("=", f"after '{key}'")
            if key == "init":
                init = self.number(c)
            elif key == "llm_hint":
                c.expect("[", "before the hints")
                hints = self._words(c, "]")
                c.expect("]", "after the hints")
            else:
                raise c.error(f"alloc takes init and llm_hint, not '{key}'")
        c.expect(")", "at the end of 'alloc'")
        c.end("after 'alloc'")
        return Alloc(name, tuple(axes), dtype, init, hints, line)
