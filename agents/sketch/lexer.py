"""Sketch text to logical lines of tokens: comments dropped, lines inside brackets joined, indentation measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

from akg_dynamo.core.errors import SketchError

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t]+)
  | (?P<comment>\#.*)
  | (?P<number>(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<string>"[^"\n]*"|'[^'\n]*')
  | (?P<op>->|//=|//|<<|>>|<=|>=|==|!=|\+=|-=|\*=|/=|[-+*/%&|^~<>=()\[\]{},:@])
    """,
    re.VERBOSE,
)
_CLOSER = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class Token:
    """kind: "number", "name", "string", "op" or "end" (of the logical line)."""

    kind: str
    text: str
    line: int

    def __str__(self) -> str:
        return "the end of the line" if self.kind == "end" else f"'{self.text}'"


@dataclass(frozen=True)
class LogicalLine:
    """The tokens of one statement, "end" last. `indent` is in columns."""

    line: int
    indent: int
    tokens: tuple[Token, ...]


def lex(text: str) -> list[LogicalLine]:
    """The non-empty logical lines. A trailing comma outside brackets also continues onto the next line."""
    lines: list[LogicalLine] = []
    pending: list[Token] = []
    start, indent = 0, 0
    open_brackets: list[Token] = []
    last = 0
    for number, raw in enumerate(text.splitlines(), start=1):
        last = number
        tokens = _tokens(raw, number)
        if not tokens:
            continue
        if not pending:
            start, indent = number, _indent(raw, number)
        for token in tokens:
            _track(token, open_brackets)
        pending += tokens
        if open_brackets or pending[-1].text == ",":
            continue
        lines.append(LogicalLine(start, indent, (*pending, Token("end", "", number))))
        pending = []
    if open_brackets:
        raise SketchError(f"'{open_brackets[-1].text}' is never closed", open_brackets[-1].line)
    if pending:
        lines.append(LogicalLine(start, indent, (*pending, Token("end", "", last))))
    return lines


def _tokens(raw: str, number: int) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    while at < len(raw):
        found = _TOKEN.match(raw, at)
        if found is None:
            what = (
                "a string that is never closed"
                if raw[at] in "\"'"
                else f"a character that sketches do not use: {raw[at]!r}"
            )
            raise SketchError(what, number)
        at = found.end()
        kind = found.lastgroup or ""
        if kind == "number" and at < len(raw) and (raw[at].isalnum() or raw[at] in "_."):
            raise SketchError(f"a malformed number: {raw[found.start() : at + 1]!r}", number)
        if kind not in ("space", "comment"):
            tokens.append(Token(kind, found.group(), number))
    return tokens


def _indent(raw: str, number: int) -> int:
    margin = raw[: len(raw) - len(raw.lstrip())]
    if "\t" in margin:
        raise SketchError("a tab in the indentation: use spaces", number)
    return len(margin)


def _track(token: Token, open_brackets: list[Token]) -> None:
    if token.kind != "op":
        return
    if token.text in _CLOSER:
        open_brackets.append(token)
    elif token.text in (")", "]"):
        if not open_brackets:
            raise SketchError(f"'{token.text}' closes nothing", token.line)
        opened = open_brackets.pop()
        if _CLOSER[opened.text] != token.text:
            raise SketchError(f"'{opened.text}' of line {opened.line} is closed by '{token.text}'", token.line)


class Cursor:
    """A position in one logical line, and what a parser asks there."""

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
