"""Compiles and calls lowered sketches, for the tests beside it."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch  # loads the OpenMP library that kernels share with it
from random_sketch import assert_agree

from akg_dynamo.agents.coder import toolchain
from akg_dynamo.agents.lowering.cpp import CppKernel, lower
from akg_dynamo.agents.sketch import interpret, to_text
from akg_dynamo.agents.sketch.ast import Sketch
from akg_dynamo.agents.sketch.numerics import numpy_dtype

Array = np.ndarray[Any, np.dtype[Any]]
assert torch.__version__


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="akg-lowering-tests-"))


def library(kernel: CppKernel) -> str:
    """Where its object is, compiled."""
    path = _folder() / hashlib.sha256(kernel.source.encode()).hexdigest()[:24]
    if not path.with_suffix(".so").exists():
        path.with_suffix(".cpp").write_text(kernel.source)
        command = [
            toolchain.compiler(),
            *toolchain.FLAGS,
            "-Wall",
            "-Wextra",
            "-Werror=return-type",
            str(path.with_suffix(".cpp")),
            "-o",
            str(path.with_suffix(".so")),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr[:3000]}\n{kernel.source}"
    return str(path.with_suffix(".so"))


def build(kernel: CppKernel) -> Any:
    """The compiled entry."""
    return getattr(ctypes.CDLL(library(kernel)), kernel.entry)


def same_strides(array: Array) -> Array:
    """A copy with the very same strides, zero ones included, on memory of its own."""
    extent = (
        sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + array.itemsize
        if array.size
        else array.itemsize
    )
    copy: Array = np.ndarray(array.shape, array.dtype, np.zeros(extent, np.uint8).data, strides=array.strides)
    copy[...] = array
    return copy


def execute(sketch: Sketch, tensors: dict[str, Array], symbols: dict[str, int]) -> None:
    """Lowers, builds and runs a sketch on arrays; "tmp" tensors that are missing are made."""
    entry = build(lower(sketch))
    arrays = [tensors[t.name] if t.name in tensors else _scratch(t.dtype) for t in sketch.tensors]
    entry(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), *(ctypes.c_int64(symbols[s]) for s in sketch.symbols))


def _scratch(dtype: Any) -> Array:
    return np.zeros(1 << 20, numpy_dtype(dtype))


def compare(sketch: Sketch, tensors: dict[str, Array], symbols: dict[str, int]) -> None:
    """Runs a sketch in the interpreter and as a kernel, on copies, and asserts that the outputs agree."""
    want = {n: same_strides(t) for n, t in tensors.items()}
    got = {n: same_strides(t) for n, t in tensors.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, symbols)
    execute(sketch, got, symbols)
    try:
        assert_agree(sketch, got, want)
    except AssertionError as e:
        raise AssertionError(to_text(sketch)) from e


def arrays_for(sketch: Sketch, symbols: dict[str, int], rng: np.random.Generator, **given: Any) -> dict[str, Array]:
    """Random arrays for a sketch whose shapes are plain symbols."""
    out: dict[str, Array] = {}
    for t in sketch.tensors:
        shape = tuple(symbols[d.name] for d in t.shape)  # type: ignore[union-attr]
        if t.name in given:
            out[t.name] = given[t.name]
        elif t.dtype.is_float:
            out[t.name] = rng.standard_normal(shape).astype(numpy_dtype(t.dtype))
        else:
            out[t.name] = rng.integers(0, 2, shape).astype(numpy_dtype(t.dtype))
    return out
