"""What a library that a candidate has compiled wants from others: the names that its source may have hidden.

The file is read here, never loaded: its table of dynamic symbols names every function that is not its own, whatever
macros or strings the call was written with.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from akg_dynamo.agents.verifier.reading_cpp import trick_of_call, trick_of_operator
from akg_dynamo.core.types import Trick

_MOST_BYTES = 64 << 20
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNSYM = 11
_OPERATOR = re.compile(r"_ZN2at4_ops(\d+)")
_PYTHON = re.compile(r"Py(Run|Import|Eval(?!_SaveThread|_RestoreThread)|Object_Call|Marshal)_?\w*$")
_LAUNCHER = re.compile(r"(cuda_utils|__triton_launcher)\.(cpython-[\w-]+\.)?so$")
_OF_LAUNCHERS = re.compile(r"dlopen|dlsym|PyImport_ImportModule|PyObject_Call(Object|NoArgs|OneArg)$")
_LIBRARY = re.compile(rb"[\w+-]+\.so(?:\.\d+)*\0")
_STATIC_RUNTIME = b"libcudart_static_"
_OF_SYSTEM = re.compile(rb"(libcuda|libc|libm|libdl|libpthread|libgcc_s|libpython[\w.]*)\.so")


@dataclass(frozen=True)
class Wanted:
    """A function of others that a library calls, which no kernel needs."""

    trick: Trick
    name: str
    library: str

    def __str__(self) -> str:
        return f"{self.library} calls {self.name}"


def suspicious(paths: Iterator[Path]) -> list[Wanted]:
    """What these libraries call that no kernel needs."""
    found = []
    for path in paths:
        elf = path.read_bytes()[:_MOST_BYTES]
        if _STATIC_RUNTIME in elf:  # its calls cannot be told from the candidate's
            text = "whatever CUDA's runtime calls, which is linked into it (not so by nvcc -cudart shared)"
            found.append(Wanted(Trick.HIDES_CALLS, text, path.name))
            continue
        launches = _is_launcher(path, elf)
        for name in undefined(elf):
            trick = _trick_of(name)
            if trick is not None and not (launches and _OF_LAUNCHERS.match(name)):
                found.append(Wanted(trick, name, path.name))
    return found


def _is_launcher(path: Path, elf: bytes) -> bool:
    """Whether it is what Triton compiles, where its cache is, to launch kernels on CUDA: it opens the driver's library
    and names no other.
    """
    named = _LIBRARY.findall(elf)
    return _LAUNCHER.match(path.name) is not None and all(_OF_SYSTEM.match(name) for name in named)


def _trick_of(name: str) -> Trick | None:
    operator = _OPERATOR.match(name)
    if operator is not None:
        start, n = operator.end(), int(operator[1])
        return trick_of_operator(name[start : start + n])
    if _PYTHON.match(name):
        return Trick.HIDES_CALLS
    return trick_of_call(name)


def undefined(elf: bytes) -> list[str]:
    """The names of the dynamic symbols that a 64-bit ELF file does not define; none for what is no such file."""
    try:
        return list(_undefined(elf))
    except (struct.error, IndexError, ValueError, OverflowError):
        return []


def _undefined(elf: bytes) -> Iterator[str]:
    if elf[:6] != b"\x7fELF\x02\x01":
        return
    header = _HEADER.unpack_from(elf)
    offset, size, count = header[6], header[11], header[12]
    sections = [_SECTION.unpack_from(elf, offset + i * size) for i in range(count)]
    for section in sections:
        if section[1] != _DYNSYM:
            continue
        names = sections[section[6]][4]  # where the section of its strings begins
        for at in range(section[4] + _SYMBOL.size, section[4] + section[5], _SYMBOL.size):
            name, info, _, defined_in, _, _ = _SYMBOL.unpack_from(elf, at)
            weak = info >> 4 == 2  # what start-up code asks for
            if defined_in == 0 and name and not weak:
                start = names + name
                yield elf[start : elf.index(b"\0", start)].decode("ascii", "replace")


def mapped(pid: int, below: Path) -> Iterator[Path]:
    """The files below a folder that a process has loaded."""
    seen = set()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        path = line.partition("/")[2].removesuffix(" (deleted)")
        if path and path not in seen:
            seen.add(path)
            file = Path("/" + path)
            if file.is_relative_to(below) and file.is_file():
                yield file
