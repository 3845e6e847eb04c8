"""CUDA C on a device: built by nvcc, launched through the driver. `pytest -m gpu tests/gpu/test_cuda_c.py`."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "agents" / "sketch"))
sys.path.insert(0, str(Path(__file__).parents[1] / "agents" / "lowering"))

from cuda_goldens import goldens, tiled
from lowered import arrays_for, same_strides
from random_sketch import assert_agree, random_sketch
from sketch_programs import program
from test_operations import OPS, applicable, assert_close, elementwise, values
from test_sketches import FLOATS, SIZES
from torch_oracle import torch_dtype

from akg_dynamo.agents.lowering.cuda_c import CudaKernel, Phase, lower
from akg_dynamo.agents.sketch import interpret, to_text
from akg_dynamo.agents.sketch.ast import DType, Sketch
from akg_dynamo.agents.sketch.intexpr import evaluate
from akg_dynamo.agents.sketch.numerics import numpy_dtype

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc"),
    pytest.mark.timeout(300),
]
_SHARED_ATTRIBUTE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
Array = np.ndarray[Any, np.dtype[Any]]


class Loaded:
    """A kernel on the device."""

    def __init__(self, kernel: CudaKernel, folder: Path) -> None:
        self.kernel = kernel
        self.driver = ctypes.CDLL("libcuda.so.1")
        torch.zeros(1, device="cuda")  # makes torch's context the current one
        major, minor = torch.cuda.get_device_capability()
        source, cubin = folder / "kernel.cu", folder / "kernel.cubin"
        source.write_text(kernel.source)
        command = ["nvcc", "-cubin", f"-arch=sm_{major}{minor}", str(source), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr[:3000]}\n{kernel.source}"
        self.module = ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(self.module), cubin.read_bytes())

    def call(self, function: str, *arguments: Any) -> None:
        """A function of the driver, which must succeed."""
        status = getattr(self.driver, function)(*arguments)
        assert status == 0, f"{function} returned {status}"

    def launch(self, phase: Phase, memory: dict[str, torch.Tensor], symbols: dict[str, int]) -> None:
        """One phase, on torch's current stream."""
        grid = [eval(text, {"min": min, "max": max}, dict(symbols)) for text in phase.grid]
        if min(grid) <= 0:
            return
        function = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(function), self.module, phase.name.encode())
        self.call("cuFuncSetAttribute", function, _SHARED_ATTRIBUTE, phase.shared_bytes)
        parameters: list[Any] = [ctypes.c_void_p(memory[t].data_ptr()) for t in phase.tensors]
        parameters += [ctypes.c_int64(symbols[s]) for s in phase.symbols]
        pointers = (ctypes.c_void_p * len(parameters))(*(ctypes.addressof(p) for p in parameters))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        blocks = [*grid, 1, 1][:3]
        self.call("cuLaunchKernel", function, *blocks, phase.threads, 1, 1, phase.shared_bytes, stream, pointers, None)

    def run(self, memory: dict[str, torch.Tensor], symbols: dict[str, int]) -> None:
        """All phases, to the end."""
        for phase in self.kernel.phases:
            self.launch(phase, memory, symbols)
        torch.cuda.synchronize()


def storage(array: Array, dtype: DType) -> torch.Tensor:
    """The elements from an array's first to its last in memory, as one flat tensor that shares them."""
    if array.size == 0:
        return torch.empty(0, dtype=torch_dtype(dtype))
    extent = sum((n - 1) * s // array.itemsize for n, s in zip(array.shape, array.strides, strict=True)) + 1
    flat = np.lib.stride_tricks.as_strided(array, (extent,), (array.itemsize,))
    if dtype is DType.BF16:
        return torch.from_numpy(flat.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(flat)


def execute(sketch: Sketch, tensors: dict[str, Array], symbols: dict[str, int], folder: Path, *, static: bool) -> None:
    """Lowers, builds and runs a sketch on arrays; "tmp" is made here."""
    kernel = lower(sketch, sizes=symbols if static else {})
    host = {t.name: storage(tensors[t.name], t.dtype) for t in sketch.tensors if t.name in tensors}
    memory = {name: tensor.cuda() for name, tensor in host.items()}
    for t in sketch.tensors:
        if t.name not in memory:
            count = int(np.prod([evaluate(d, symbols) for d in t.shape]))
            memory[t.name] = torch.zeros(count, dtype=torch_dtype(t.dtype), device="cuda")
    Loaded(kernel, folder).run(memory, symbols)
    for name, tensor in host.items():
        tensor.copy_(memory[name])


def compare(sketch: Sketch, tensors: dict[str, Array], symbols: dict[str, int], folder: Path, *, static: bool) -> None:
    """Runs a sketch in the interpreter and on the device, and asserts that the outputs agree."""
    want, got = ({n: same_strides(t) for n, t in tensors.items()} for _ in range(2))
    with np.errstate(all="ignore"):
        interpret(sketch, want, symbols)
    execute(sketch, got, symbols, folder, static=static)
    try:
        assert_agree(sketch, got, want)
    except AssertionError as e:
        raise AssertionError(f"{to_text(sketch)}\n{symbols}") from e


def inputs(name: str, dtype: DType, sketch: Sketch, symbols: dict[str, int]) -> dict[str, Array]:
    """Arrays for a reference program."""
    rng = np.random.default_rng(3)
    given: dict[str, Any] = {}
    if name == "embedding":
        given["indices"] = rng.integers(-symbols["V"], symbols["V"], symbols["N"])
    if name == "attention":
        given["scale"] = np.asarray(0.3, numpy_dtype(dtype))
    return arrays_for(sketch, symbols, rng, **given)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)
@pytest.mark.parametrize("name", SIZES)
def test_reference_programs(name: str, dtype: DType, tmp_path: Path) -> None:
    sketch = program(name, dtype)
    for symbols in SIZES[name]:
        compare(sketch, inputs(name, dtype, sketch, symbols), symbols, tmp_path, static=False)


@pytest.mark.parametrize("warps", [1, 8, 16])
@pytest.mark.parametrize("name", SIZES)
def test_reference_programs_in_large_tiles(name: str, warps: int, tmp_path: Path) -> None:
    golden = goldens()[name].sketch
    symbols = {n: size + 70 if n in "MNTSV" else size for n, size in SIZES[name][1].items()}
    compare(tiled(golden, num_warps=warps), inputs(name, DType.F32, golden, symbols), symbols, tmp_path, static=True)


@pytest.mark.parametrize("seed", range(30))
def test_random_sketches(seed: int, tmp_path: Path) -> None:
    sketch, tensors, symbols = random_sketch(np.random.default_rng(2000 + seed))
    compare(sketch, tensors, symbols, tmp_path, static=bool(seed % 2))


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.value)
def test_every_operation(dtype: DType, tmp_path: Path) -> None:
    loose = ("pow", "lgamma", "checked")  # the device's own error is larger; a wrong checked index traps
    names = [name for name in applicable(dtype) if not (name in loose and dtype.is_float) and name != "checked"]
    sketch = elementwise(dtype, names, in_vectors=True)
    rng = np.random.default_rng(1)
    size = 1027
    tensors = {n: values(dtype, rng, size) for n in "abc"}
    if dtype.is_int:
        tensors["b"][tensors["b"] == 0] = 3
    tensors["m"] = values(DType.BOOL, rng, size)
    for decl in sketch.tensors:
        if decl.kind == "out":
            tensors[decl.name] = np.zeros(size, numpy_dtype(decl.dtype))
    want = {n: t.copy() for n, t in tensors.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, {"N": size})
    execute(sketch, tensors, {"N": size}, tmp_path, static=False)
    problems = []
    for name in names:
        operands = [tensors[n] for n in "abc"[: OPS[name].arity]]
        try:
            assert_close(name, dtype, tensors[f"y_{name}"], want[f"y_{name}"], operands)
        except AssertionError as e:
            problems.append(str(e)[:400])
    assert not problems, "\n".join(problems)
