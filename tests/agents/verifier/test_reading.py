"""The screen that reads: what it refuses, with its line, and what it lets through."""

from __future__ import annotations

import textwrap

import pytest

from akg_dynamo.agents.coder import by_rules
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.verifier.reading import dsl_of, read, summary, tricks
from akg_dynamo.agents.verifier.reading_cpp import read_cpp
from akg_dynamo.core.types import Design, Subgraph, Target, Trick

from .kernels import add_relu, dynamic_softmax, row_sum

HEAD = """
import torch
import triton
import triton.language as tl

@triton.jit
def kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.exp(tl.load(x + i, mask=i < n)), mask=i < n)

class ModelNew(torch.nn.Module):
    def __init__(self, n=4):
        super().__init__()
        self.linear = torch.nn.Linear(n, n)
        self.table = torch.cos(0.5 * torch.arange(n))
        self.seen = {}
        self.names = set()
"""
LINES = len(HEAD.splitlines())


def forward(*lines: str, top: str = "") -> str:
    body = textwrap.indent("\n".join(lines), "        ")
    return f"{HEAD}    def forward(self, x, n: int = 3):\n{body}\n{top}"


ALLOWED = {
    "views": "return x.view(-1).t().contiguous().reshape(n, -1)[:, 1:].permute(1, 0)",
    "allocation": "return torch.empty(x.shape[0], n, dtype=x.dtype, device=x.device)",
    "sizes": "m = x.shape[0] * n + x.numel() // 2 - x.stride(0) % 4; return torch.zeros(m)",
    "launch": "out = torch.empty_like(x); kernel[(triton.cdiv(n, 64),)](x, out, n, BLOCK=64); return out",
    "containers": "self.names.add(n); names = []; names.sort(); return x",
    "strings": "return x if 'a,b'.split(',') else x",
    "address of what is launched": "f(x.data_ptr(), n); return x",
    "alignment": "return x if x.data_ptr() % 16 == 0 else x.clone()",
    "checks": "assert x.is_contiguous() and x.dtype == torch.float32 and x.dim() == 2; return x",
    "None": "return x if self.table is None or self.table is not x else x",
    "a literal name": "return getattr(x, 'shape')",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_wrappers_do_is_let_through(name: str) -> None:
    source = forward(*ALLOWED[name].split("; "), top="def f(pointer, n):\n    return pointer + n\n")
    assert read(source, "triton") == []


REFUSED = {
    "a function of torch": ("return torch.relu(x)", Trick.CALLS_TORCH, "torch.relu"),
    "an operator": ("return x + 1", Trick.CALLS_TORCH, "computes x + 1"),
    "of what was allocated": ("y = torch.empty_like(x); y *= 2; return y", Trick.CALLS_TORCH, "y *= 2"),
    "a product": ("return x @ x", Trick.CALLS_TORCH, "x @ x"),
    "a method": ("return x.contiguous().sum()", Trick.CALLS_TORCH, ".sum()"),
    "a layer": ("return self.linear(x)", Trick.CALLS_TORCH, "the layer self.linear"),
    "a cast": ("return x.to(torch.float16)", Trick.CALLS_TORCH, "casts to torch.float16"),
    "under another name": ("f = torch.nn.functional; return f.gelu(x)", Trick.CALLS_TORCH, "gelu"),
    "in a function": ("return helper(x)", Trick.CALLS_TORCH, "computes t * t"),
    "an operator of torch": ("return torch.ops.aten.relu(x)", Trick.CALLS_TORCH, "torch.ops.aten.relu"),
    "getattr": ("return getattr(torch, 're' + 'lu')(x)", Trick.HIDES_CALLS, "getattr()"),
    "getattr of torch": ("return getattr(torch, 'relu')(x)", Trick.HIDES_CALLS, "torch.relu"),
    "eval": ("return eval('x')", Trick.HIDES_CALLS, "eval"),
    "globals": ("return globals()['f'](x)", Trick.HIDES_CALLS, "globals"),
    "a subclass walk": ("return ().__class__.__bases__[0].__subclasses__()", Trick.HIDES_CALLS, "__subclasses__"),
    "the base class": ("return super().forward(x)", Trick.CALLS_REFERENCE, "super().forward()"),
    "Model": ("return Model()(x)", Trick.CALLS_REFERENCE, "Model"),
    "the id": ("return self.seen[id(x)]", Trick.REPLAYS, "id"),
    "the address": ("return self.seen[x.data_ptr()]", Trick.REPLAYS, "address"),
    "the version": ("return x._version", Trick.REPLAYS, "_version"),
    "patches": ("torch.empty = None; return x", Trick.PATCHES, "writes to torch.empty"),
    "flags": ("torch.set_num_threads(1); return x", Trick.PATCHES, "set_num_threads"),
    "TF32": ("torch.backends.cuda.matmul.allow_tf32 = True; return x", Trick.PRECISION, "allow_tf32"),
    "streams": ("s = torch.cuda.Stream(); return x", Trick.UNSYNCHRONISED, "torch.cuda.Stream"),
    "leaving": ("raise SystemExit(0)", Trick.FORGES, "SystemExit"),
    "the module's name": ("return x if __name__ == 'a' else x", Trick.LOOKS_AROUND, "__name__"),
    "files": ("torch.save(x, 'f'); return x", Trick.ESCAPES, "torch.save"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_wrappers_do_not_need_is_refused_with_its_line(name: str) -> None:
    code, trick, text = REFUSED[name]
    lines = code.split("; ")
    found = read(forward(*lines, top="def helper(t):\n    return t * t\n"), "triton")
    assert trick in {f.trick for f in found}, found
    of_trick = [f for f in found if f.trick is trick]
    assert any(text in f.text for f in of_trick), found
    assert all(f.line > LINES for f in of_trick)


MODULES = {
    "gc": Trick.LOOKS_AROUND, "inspect": Trick.LOOKS_AROUND, "sys": Trick.LOOKS_AROUND,
    "akg_dynamo": Trick.LOOKS_AROUND, "importlib": Trick.HIDES_CALLS, "ctypes": Trick.HIDES_CALLS,
    "pickle": Trick.HIDES_CALLS, "foo": Trick.HIDES_CALLS, "threading": Trick.THREADS,
    "multiprocessing": Trick.THREADS, "atexit": Trick.FORGES, "signal": Trick.FORGES, "time": Trick.CLOCKS,
    "socket": Trick.ESCAPES, "subprocess": Trick.ESCAPES, "numpy": Trick.CALLS_TORCH, "cupy": Trick.CALLS_TORCH,
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_no_kernel_needs(module: str) -> None:
    for line in (f"import {module}", f"from {module} import something", f"import {module} as math"):
        assert [f.trick for f in read(line, "triton")] == [MODULES[module]]


def test_a_kernel_that_only_an_interpreter_would_run() -> None:
    source = (
        "import torch\nimport triton\nd = {}\ndef f(): pass\n@triton.jit\ndef k(x):\n    f()\n    d['x'].copy_(x)\n"
    )
    assert [(f.trick, f.line) for f in read(source, "triton")] == [(Trick.HIDES_CALLS, 7), (Trick.HIDES_CALLS, 8)]


def test_plain_torch_may_compute_and_is_held_to_the_rest() -> None:
    source = (
        "import torch\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return torch.relu(x + 1)\n"
    )
    assert read(source, "torch") == []
    assert [f.trick for f in read("import gc\n" + source, "torch")] == [Trick.LOOKS_AROUND]


CPP = {
    "#include <cblas.h>": Trick.CALLS_TORCH,
    "#include <dlfcn.h>": Trick.HIDES_CALLS,
    "#include <unistd.h>": Trick.ESCAPES,
    "#include <thread>": Trick.THREADS,
    "#include <math.h>": None,
    "#include <immintrin.h>": None,
    'void f() { system("pip install x"); }': Trick.THREADS,
    "void f() { cublasSgemm(handle, a); }": Trick.CALLS_TORCH,
    "void f() { auto y = at::relu(x); } // torch": Trick.CALLS_TORCH,
    "void f() { auto y = torch::empty_like(x); }": None,
    "void f() { auto y = x.matmul(x); } // torch": Trick.CALLS_TORCH,
    "void f() { // system(1)\n}": None,
    'void f() { g("exit(0)"); }': None,
    "static float time(float x) { return x; }": None,
    "__attribute__((constructor)) void f() {}": Trick.FORGES,
    'void f() { asm("nop"); }': Trick.HIDES_CALLS,
    "void f() { o.open(1); x->exit(); ns::fork(); }": None,
}


@pytest.mark.parametrize("text", CPP)
def test_cpp(text: str) -> None:
    found = {trick for trick, _, _ in read_cpp(text, cuda=False)}
    assert found == ({CPP[text]} if CPP[text] is not None else set())


def test_lines_of_cpp_are_those_of_the_file() -> None:
    source = 'import torch\nSOURCE = r"""\n#include <math.h>\nvoid f() {\n    fork();\n}\n"""\n'
    assert [(f.trick, f.line) for f in read(source, "cpp")] == [(Trick.THREADS, 5)]


def test_a_compiler_may_be_run_and_nothing_else() -> None:
    run = "import subprocess\nsubprocess.run({})\n"
    assert read(run.format("['g++', '-O3', f'{name}.cpp']"), "cpp") == []
    assert read(run.format("[compiler, '-O3']"), "cpp") == []
    for command in ("['pip', 'install', 'x']", "'g++ x.cpp', shell=True", "['sh', '-c', 'g++']"):
        assert [f.trick for f in read(run.format(command), "cpp")] == [Trick.ESCAPES]


def test_dsl_is_known_from_the_source() -> None:
    assert dsl_of(HEAD) == "triton"
    assert dsl_of("import torch\n") == "torch"
    assert dsl_of('import torch\nS = "extern \\"C\\" void f() {}"\n') == "cpp"
    assert dsl_of('import torch\nS = "__global__ void f() {}"\n') == "cuda"


def test_summary_names_the_first_and_tricks_the_most_frequent() -> None:
    found = read("import gc\nimport inspect\nimport time\nimport sys\n", "triton")
    assert summary(found).endswith("and 1 more")
    assert list(tricks(found)) == [Trick.LOOKS_AROUND, Trick.CLOCKS]


@pytest.mark.parametrize("target", [Target(), Target("cuda", "triton_cuda", "sm_90", "sm_90")], ids=["C++", "Triton"])
@pytest.mark.parametrize("sub", [add_relu(), row_sum(), dynamic_softmax()], ids=["add_relu", "row_sum", "softmax"])
def test_kernels_by_rules_have_nothing_to_hide(sub: Subgraph, target: Target) -> None:
    chosen = design(sub, target)
    assert isinstance(chosen, Design)
    source = by_rules.write(sub, chosen, target, "kernel").source
    assert read(source, dsl_of(source)) == []
