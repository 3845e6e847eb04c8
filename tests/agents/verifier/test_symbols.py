"""The symbols that a compiled library wants from others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
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


LAUNCHER = """
#include <dlfcn.h>
extern "C" void* PyObject_CallOneArg(void*, void*);
extern "C" int launch() { return ((int (*)(int))dlsym(dlopen("%s", RTLD_LAZY), "cuLaunchKernelEx"))(1); }
extern "C" void* hook(void* f, void* x) { return PyObject_CallOneArg(f, x); }
"""


@pytest.mark.parametrize(
    ("name", "opens", "calls"),
    [
        ("__triton_launcher.cpython-312-x86_64-linux-gnu.so", "libcuda.so.1", set()),
        ("cuda_utils.so", "libcuda.so.1", set()),
        ("__triton_launcher.so", "libcublas.so.12", {"dlopen", "dlsym", "PyObject_CallOneArg"}),
        ("kernel.so", "libcuda.so.1", {"dlopen", "dlsym", "PyObject_CallOneArg"}),
    ],
)
def test_what_triton_compiles_to_launch_kernels_may_open_the_driver(
    name: str, opens: str, calls: set[str], tmp_path: Path
) -> None:
    path = built(tmp_path, LAUNCHER % opens).rename(tmp_path / name)
    assert {w.name for w in suspicious(iter([path]))} == calls


def test_triton_s_own_launchers_are_not_suspicious(tmp_path: Path) -> None:
    """As this version of Triton writes and compiles them, in a place where no driver is needed to link."""
    driver = pytest.importorskip("triton.backends.nvidia.driver")
    folder = Path(driver.__file__).parent
    sources = {"cuda_utils": (folder / "driver.c").read_text()}
    if hasattr(driver, "make_launcher"):
        signature = {0: "*fp32", 1: "*fp32", 2: "i32", 3: "constexpr", 4: "fp32"}
        sources["__triton_launcher"] = driver.make_launcher({}, signature, None)
    python = sysconfig.get_paths()["include"]
    for name, source in sources.items():
        (tmp_path / f"{name}.c").write_text(source)
        library = tmp_path / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        command = ["gcc", "-O3", "-w", "-shared", "-fPIC", f"-I{folder}/include", f"-I{python}"]
        subprocess.run([*command, str(tmp_path / f"{name}.c"), "-o", str(library)], check=True)
        assert "dlopen" in undefined(library.read_bytes())
        assert suspicious(iter([library])) == []


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_who_contains_cuda_s_runtime_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "k.cu").write_text(
        'extern "C" __global__ void k(float* x) { x[threadIdx.x] *= 2; }\n'
        'extern "C" void launch(float* x) { k<<<1, 32>>>(x); }\n'
    )
    found = {}
    for runtime in ("static", "shared"):
        command = ["nvcc", "-shared", "-cudart", runtime, "-Xcompiler", "-fPIC", str(tmp_path / "k.cu")]
        subprocess.run([*command, "-o", str(tmp_path / f"{runtime}.so")], check=True)
        found[runtime] = suspicious(iter([tmp_path / f"{runtime}.so"]))
    assert found["shared"] == []
    assert [w.trick for w in found["static"]] == [Trick.HIDES_CALLS]
    assert "nvcc -cudart shared" in str(found["static"][0])


@pytest.mark.parametrize("text", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(60), b"\x7fELF\x02\x01" + b"\xff" * 200])
def test_what_is_no_library_wants_nothing(text: bytes) -> None:
    assert undefined(text) == []


def test_what_a_process_has_loaded() -> None:
    libraries = list(mapped(os.getpid(), Path("/")))
    assert any("libc" in p.name for p in libraries)
    assert list(mapped(os.getpid(), Path("/nowhere"))) == []
