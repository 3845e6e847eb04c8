"""The helpers that generated C++ and CUDA C may use: sections of headers, of which a file gets only what it needs."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_WORD = re.compile(r"[A-Za-z_]\w*")
_DEFINES = re.compile(
    r"^(?:template <[^\n]*> )?(?:(?:INLINE inline|DEVICE) [^\n({]*?(\w+)\(|struct (\w+))", re.MULTILINE
)
CPP = ("prelude.h", "prelude_math.h")
CUDA = ("cuda_prelude.h",)


@cache
def _sections(files: tuple[str, ...]) -> dict[str, str]:
    """Section name -> code, in the order in which they must stand."""
    here = Path(__file__).parent
    text = "".join((here / name).read_text(encoding="utf-8") for name in files)
    sections: dict[str, str] = {}
    for piece in text.split("//@ ")[1:]:
        name, _, code = piece.partition("\n")
        sections[name.strip()] = code
    return sections


@cache
def definitions(files: tuple[str, ...] = CPP) -> dict[str, str]:
    """Function or struct -> the section that defines it."""
    out: dict[str, str] = {}
    for name, code in _sections(files).items():
        out[name] = name
        for function, struct in _DEFINES.findall(code):
            out.setdefault(function or struct, name)
    return out


def prelude(body: str, files: tuple[str, ...] = CPP) -> str:
    """The sections that `body` uses, and those that they use."""
    sections, defined = _sections(files), definitions(files)
    used = {"core"}
    todo = [body, sections["core"]]
    while todo:
        for word in set(_WORD.findall(todo.pop())):
            section = defined.get(word)
            if section is not None and section not in used:
                used.add(section)
                todo.append(sections[section])
    return "".join(code for name, code in sections.items() if name in used)
