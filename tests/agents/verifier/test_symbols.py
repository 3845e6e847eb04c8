"""The symbols that a compiled library wants from others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from akg_dynamo.agents.verifier.symbols import mapped, suspicious, undefined
from akg_dynamo.core.types import Trick

CPP = """
#include <math.h>
#define JOIN(a, b) a##b
extern "C" void JOIN(cblas_sg, emm)(int);
extern "C" int JOIN(sys, tem)(const char*);
extern "C" float kernel(float x) { JOIN(cblas_sg, emm)(1); JOIN(sys, tem)("true"); return erff(x); }
"""


def built(folder: Path, source: str) -> Path:
    (folder / "k.cpp").write_text(source)
    command = ["g++", "-O2", "-shared", "-fPIC", str(folder / "k.cpp"), "-o", str(folder / "k.so")]
    subprocess.run(command, check=True)
    return folder / "k.so"


def test_what_macros_hide_is_found(tmp_path: Path) -> None:
    path = built(tmp_path, CPP)
    assert {"cblas_sgemm", "system", "erff"} <= set(undefined(path.read_bytes()))
    found = suspicious(iter([path]))
    assert {(w.trick, w.name) for w in found} == {(Trick.CALLS_TORCH, "cblas_sgemm"), (Trick.THREADS, "system")}


def test_an_ordinary_kernel_is_not_suspicious(tmp_path: Path) -> None:
    source = "#include <math.h>\n#include <vector>\n#include <algorithm>\n"
    source += 'extern "C" float kernel(float x) { std::vector<float> v(99, x); std::sort(v.begin(), v.end()); '
    source += "return expf(v[0]); }"
    assert suspicious(iter([built(tmp_path, source)])) == []


@pytest.mark.parametrize("text", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(60), b"\x7fELF\x02\x01" + b"\xff" * 200])
def test_what_is_no_library_wants_nothing(text: bytes) -> None:
    assert undefined(text) == []


def test_what_a_process_has_loaded() -> None:
    libraries = list(mapped(os.getpid(), Path("/")))
    assert any("libc" in p.name for p in libraries)
    assert list(mapped(os.getpid(), Path("/nowhere"))) == []
