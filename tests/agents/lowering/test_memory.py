"""Loads of every form, from arrays between pages that may not be touched."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from lowered import Array, compare, execute, library

from akg_dynamo.agents.lowering.cpp import lower
from akg_dynamo.agents.sketch import parse
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


def fenced(array: Array, *, at_end: bool) -> Array:
    """A copy whose last byte (or first, without `at_end`) is its page's; the pages around it belong to nobody."""
    pages = -(-array.nbytes // PAGE) + 2
    memory = mmap.mmap(-1, pages * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    for fence in (0, pages - 1):
        address = ctypes.c_void_p(whole.ctypes.data + fence * PAGE)
        assert _libc.mprotect(address, ctypes.c_size_t(PAGE), 0) == 0
    start = (pages - 1) * PAGE - array.nbytes if at_end else PAGE
    copy = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def filled(dtype: DType, size: int) -> Array:
    """Values that every dtype has."""
    return (np.arange(size) * 37 % (2 if dtype is DType.BOOL else 101)).astype(numpy_dtype(dtype))


@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.value)
def test_strided_loads(dtype: DType) -> None:
    strides = (2, 3, 4, 5, 8, 9)
    name = dtype.value
    inputs = ", ".join(f"x{s}[N]: {name} in strides({s})" for s in strides)
    outputs = ", ".join(f"y{s}[N]: {name} out" for s in strides)
    body = "\n    ".join(f"store(load(x{s}[j:j+256]) -> y{s}[j:j+256])" for s in strides)
    sketch = parse(f"""sketch every {{
  symbols: N
  tensors: {inputs}, {outputs}
  for j in range(0, N, 256):
    {body}
}}""")
    for size, at_end in itertools.product((1, 7, 64, 65, 300), (True, False)):
        memory = {s: fenced(filled(dtype, s * (size - 1) + 1), at_end=at_end) for s in strides}
        arrays = {f"x{s}": memory[s][::s] for s in strides} | {f"y{s}": filled(dtype, size) for s in strides}
        execute(sketch, arrays, {"N": size})
        for s in strides:
            np.testing.assert_array_equal(arrays[f"y{s}"], memory[s][::s], err_msg=f"stride {s}, {size} lanes")


@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.value)
def test_strided_loads_over_the_edges(dtype: DType) -> None:
    strides = (2, 3, 8, 9)
    name, other = dtype.value, {"bool": "True"}.get(dtype.value, "7.0" if dtype.is_float else "7")
    inputs = ", ".join(f"x{s}[M]: {name} in strides({s})" for s in strides)
    outputs = ", ".join(f"y{s}[N]: {name} out" for s in strides)
    body = "\n    ".join(f"store(load(x{s}[j-3:j-3+256], other={other}) -> y{s}[j:j+256])" for s in strides)
    sketch = parse(f"""sketch over {{
  symbols: M, N
  tensors: {inputs}, {outputs}
  for j in range(0, N, 256):
    {body}
}}""")
    for size, at_end in itertools.product((1, 7, 60, 64, 300), (True, False)):
        memory = {s: fenced(filled(dtype, s * (size - 1) + 1), at_end=at_end) for s in strides}
        n = size + 24
        arrays = {f"x{s}": memory[s][::s] for s in strides} | {f"y{s}": filled(dtype, n) for s in strides}
        execute(sketch, arrays, {"M": size, "N": n})
        for s in strides:
            want = np.full(n, 7).astype(arrays[f"y{s}"].dtype)
            want[3 : 3 + size] = memory[s][::s]
            np.testing.assert_array_equal(arrays[f"y{s}"], want, err_msg=f"stride {s}, {size} lanes")


def test_kernels_of_two_widths_in_one_process() -> None:
    """Each has its own tables of lanes: those of one object are no good to another whose vectors are longer."""
    text = """sketch {0} {{
  symbols: N
  tensors: x[N]: f32 in strides(2), s[N]: f32 out, t[1]: f32 out{1}
  m = alloc([], f32, init=0.0)
  for j in range(0, N, 256):
    v = load(x[j:j+256])
    m = m + reduce_sum(v, j)
    store(v -> s[j:j+256]){2}
  store(m -> t[0])
}}"""
    wide = ", z[N]: f64 out", "\n    store(cast(v, f64) -> z[j:j+256])"
    for name, more in (("wide", wide), ("narrow", ("", "")), ("again", wide)):
        x = filled(DType.F32, 200)
        arrays = {"x": x[::2], "s": np.zeros(100, np.float32), "t": np.zeros(1, np.float32), "z": np.zeros(100)}
        execute(parse(text.format(name, *more)), arrays, {"N": 100})
        np.testing.assert_array_equal(arrays["s"], x[::2], err_msg=name)
        np.testing.assert_allclose(arrays["t"], x[::2].sum(), err_msg=name)


def test_an_object_shares_nothing_with_others() -> None:
    """Whatever a dynamic linker would make one of in a process, even where libraries are loaded apart."""
    kernel = lower(
        parse("""sketch own {
  symbols: M, N
  tensors: x[M]: f32 in strides(2), y[N]: f32 out, t[1]: i64 out
  for j in range(0, N, 256):
    store(load(x[j-3:j-3+256]) -> y[j:j+256])
  axis k = range(0, N, 256)
  store(reduce_argmax(load(y[k:k+256]) + cast(lanes(k), f32), k) -> t[0])
}""")
    )
    found = subprocess.run(
        ["nm", "-D", "--defined-only", library(kernel)], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[-2:] for line in found.splitlines()] == [["T", "own"]]


@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.value)
def test_loads_beyond_the_bounds(dtype: DType) -> None:
    """Shifted, strided and masked: what lies outside is `other`, and is not read."""
    name, other = dtype.value, "True" if dtype is DType.BOOL else "3"
    sketch = parse(f"""sketch beyond {{
  symbols: N
  tensors: x[N]: {name} in, w[N]: {name} in strides(2), f[N]: bool in, left[N]: {name} out, right[N]: {name} out,
    wide[N]: {name} out, some[N]: {name} out, few[N]: {name} out
  for j in range(0, N, 256):
    store(load(x[j-5:j-5+256], other={other}) -> left[j:j+256])
    store(load(x[j+70:j+70+256]) -> right[j:j+256])
    store(load(w[j-5:j-5+256], other={other}) -> wide[j:j+256])
    store(load(x[j+3:j+3+256], other={other}, where=load(f[j:j+256])) -> some[j:j+256])
    store(load(w[j+3:j+3+256], where=load(f[j:j+256])) -> few[j:j+256])
}}""")
    for size, at_end in itertools.product((1, 7, 64, 65, 300), (True, False)):
        x = fenced(filled(dtype, size), at_end=at_end)
        w = fenced(filled(dtype, 2 * size - 1), at_end=at_end)
        f = np.arange(size) % 3 != 1
        outputs = {n: filled(dtype, size) for n in ("left", "right", "wide", "some", "few")}
        execute(sketch, {"x": x, "w": w[::2], "f": f, **outputs}, {"N": size})
        fill = np.full(size + 100, other == "True" or int(other), x.dtype)
        zero = np.zeros(size + 100, x.dtype)
        np.testing.assert_array_equal(outputs["left"], np.concatenate([fill[:5], x])[:size])
        np.testing.assert_array_equal(outputs["right"], np.concatenate([x, zero])[70 : 70 + size])
        np.testing.assert_array_equal(outputs["wide"], np.concatenate([fill[:5], w[::2]])[:size])
        np.testing.assert_array_equal(
            outputs["some"], np.where(f, np.concatenate([x, fill])[3 : 3 + size], fill[:size])
        )
        np.testing.assert_array_equal(
            outputs["few"], np.where(f, np.concatenate([w[::2], zero])[3 : 3 + size], zero[:size])
        )


@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.value)
def test_lane_numbers_compared(dtype: DType) -> None:
    """With numbers before, in and behind every vector, on either side, and sums of lane numbers too."""
    name = dtype.value
    tests = ("lanes(j) < k", "k <= lanes(j)", "lanes(j) > k", "lanes(j) == k", "k != lanes(j)",
             "lanes(j) + 7 >= k", "k - 3 < lanes(j) - index(N)", "lanes(j) * 2 < k", "k > lanes(j) + k")  # fmt: skip
    outputs = ", ".join(f"y{n}[K, N]: {name} out" for n in range(len(tests)))
    body = "\n      ".join(f"store(where({t}, v, w) -> y{n}[i, j:j+128])" for n, t in enumerate(tests))
    sketch = parse(f"""sketch counting {{
  symbols: K, N
  tensors: x[N]: {name} in, z[N]: {name} in, limit[K]: i64 in, count[K]: {name} out, all[K]: bool out, {outputs}
  for i in range(0, K):
    k = load(limit[i])
    for j in range(0, N, 128):
      v = load(x[j:j+128])
      w = load(z[j:j+128])
      {body}
    axis r = range(0, N, 512)
    store(reduce_all(lanes(r) < k, r) -> all[i])
    store(reduce_max(where(lanes(r) < k, load(x[r:r+512]), load(z[r:r+512])), r) -> count[i])
}}""")
    extremes = np.iinfo(np.int64)
    limits = np.array([extremes.min, -70, -1, 0, 1, 7, 63, 64, 65, 127, 128, 150, 299, 300, 301, extremes.max - 3])
    for size in (1, 7, 64, 300):
        arrays = {"x": filled(dtype, size), "z": filled(dtype, size)[::-1].copy(), "limit": limits}
        arrays |= {f"y{n}": np.zeros((len(limits), size), numpy_dtype(dtype)) for n in range(len(tests))}
        arrays |= {"count": np.zeros(len(limits), numpy_dtype(dtype)), "all": np.zeros(len(limits), bool)}
        with np.errstate(all="ignore"):
            compare(sketch, arrays, {"K": len(limits), "N": size})


@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.value)
def test_turned_tiles(dtype: DType) -> None:
    """What is adjacent along another axis than the vector's goes through a buffer: inputs, and outputs."""
    name = dtype.value
    sketch = parse(f"""sketch turned {{
  symbols: M, N
  tensors: x[N, M]: {name} in, c[M, N]: {name} in, y[M, N]: {name} out, z[N, M]: {name} out
  for i in range(0, M, 48):
    for j in range(0, N, 96):
      t = load(x[j:j+96, i:i+48])
      store(t -> y[i:i+48, j:j+96])
      store(load(c[i:i+48, j:j+96]) -> z[j:j+96, i:i+48])
}}""")
    for (m, n), at_end in itertools.product(((1, 1), (3, 100), (53, 37), (130, 200)), (True, False)):
        x, c, y, z = (fenced(filled(dtype, m * n), at_end=at_end) for _ in range(4))
        shapes = {"x": (n, m), "c": (m, n), "y": (m, n), "z": (n, m)}
        arrays = {k: a.reshape(shapes[k]) for k, a in zip("xcyz", (x, c, y, z), strict=True)}
        execute(sketch, arrays, {"M": m, "N": n})
        np.testing.assert_array_equal(arrays["y"], arrays["x"].T)
        np.testing.assert_array_equal(arrays["z"], arrays["c"].T)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says what its pages are advised to be")
@pytest.mark.parametrize(("size", "advised"), [((4 << 20) // 4, True), ((1 << 20) // 4, False)])
def test_large_outputs_ask_for_huge_pages(size: int, advised: bool) -> None:
    sketch = parse("""sketch double {
  symbols: N
  tensors: x[N]: f32 in, y[N]: f32 out
  for j in range(0, N, 1024):
    t = load(x[j:j+1024])
    store(t + t -> y[j:j+1024])
}""")
    memory = mmap.mmap(-1, 8 << 20)
    y = np.frombuffer(memory, np.float32, size, offset=16 * 4)
    x = np.arange(size, dtype=np.float32)
    execute(sketch, {"x": x, "y": y}, {"N": size})
    np.testing.assert_array_equal(y, x + x)
    smaps = Path("/proc/self/smaps").read_text().split("VmFlags:")
    for mapping, flags in itertools.pairwise(smaps):
        start, end = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ", mapping, re.MULTILINE)[-1]
        if int(start, 16) <= y.ctypes.data < int(end, 16):
            assert ("hg" in flags.partition("\n")[0].split()) is advised
            return
    raise AssertionError("the output is in no mapping")
