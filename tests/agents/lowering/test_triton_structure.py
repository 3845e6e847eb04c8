"""What the generated Triton looks like: launches, masks, widths of integers, loops; and that it still runs right."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from lowered import Array, arrays_for
from triton_lowered import compare, execute

from akg_dynamo.agents.lowering.triton_cuda import TritonKernel, lower
from akg_dynamo.agents.sketch import parse
from akg_dynamo.agents.sketch.ast import DType, Sketch
from akg_dynamo.agents.sketch.numerics import numpy_dtype
from akg_dynamo.core.errors import LoweringError


def function(kernel: TritonKernel, phase: int = 0) -> str:
    """The body of one launch."""
    found = re.search(rf"def {kernel.phases[phase].name}\(.*?(?=\n\n\n|\Z)", kernel.source, re.DOTALL)
    assert found is not None
    return found[0]


def checked(sketch: Sketch, symbols: dict[str, int], **given: Array) -> None:
    compare(sketch, arrays_for(sketch, symbols, np.random.default_rng(7), **given), symbols)


ROWS = parse(
    """sketch rows {
  symbols: M, N
  tensors: x[M, N]: f32 in, y[M, N]: f32 out
  constexpr: BM = 4, BN = 32
  @llm_hint("parallel")
  for i in range(0, M, BM):
    @llm_hint("parallel")
    for j in range(0, N, BN):
      store(load(x[i:i+BM, j:j+BN]) * 2.0 -> y[i:i+BM, j:j+BN])
}"""
)


def test_nested_parallel_loops_are_one_program_id() -> None:
    kernel = lower(ROWS)
    assert kernel.phases[0].grid == ("((M + 3) // 4) * ((N + 31) // 32)",)
    assert kernel.phases[0].symbols == ("M", "N")
    assert function(kernel).count("tl.program_id(0)") == 1
    assert lower(ROWS, sizes={"M": 8, "N": 64}).phases[0].grid == ("2 * 2",)
    for symbols in ({"M": 1, "N": 1}, {"M": 9, "N": 70}, {"M": 8, "N": 64}):
        checked(ROWS, symbols)


def test_masks_only_where_a_tile_runs_over() -> None:
    assert "mask" not in lower(ROWS, sizes={"M": 8, "N": 64}).source
    assert "i_mask" not in lower(ROWS, sizes={"M": 8, "N": 65}).source
    assert "j_mask" not in lower(ROWS, sizes={"M": 9, "N": 64}).source
    dynamic = lower(ROWS, sizes={"N": 64})
    assert "i_mask" in dynamic.source
    assert "j_mask" not in dynamic.source
    assert dynamic.phases[0].symbols == ("M",)


def test_a_tile_is_no_wider_than_what_it_covers() -> None:
    source = lower(ROWS, sizes={"M": 4, "N": 20}).source
    assert "tl.arange(0, 32)" in source
    assert "tl.arange(0, 8)" in lower(ROWS, sizes={"M": 4, "N": 7}).source


def test_integers_are_as_wide_as_sizes_need() -> None:
    assert "int64" not in lower(ROWS, sizes={"M": 1 << 15, "N": 1 << 15}).source
    wide = function(lower(ROWS, sizes={"M": 1 << 20, "N": 1 << 15}))  # 2^35 elements, indices below 2^31
    assert re.search(r"i\.to\(tl\.int64\)|i\[:, None\]\.to\(tl\.int64\) \* 32768", wide)
    assert "M: tl.int64, N: tl.int64" in function(lower(ROWS))
    huge = parse(
        """sketch huge {
  symbols: N
  tensors: x[N]: i8 in, y[N]: i8 out
  @llm_hint("parallel")
  for i in range(0, N, 1024):
    store(load(x[i:i+1024]) -> y[i:i+1024])
}"""
    )
    assert "int64" not in lower(huge, sizes={"N": (1 << 31) - 1024}).source
    assert "int64" in lower(huge, sizes={"N": (1 << 31) + 1024}).source


def test_loops_that_run_once_vanish() -> None:
    sketch = parse(
        """sketch once {
  symbols: M, N
  tensors: x[M, N]: f32 in, y[M]: f32 out
  @llm_hint("parallel")
  for i in range(0, M):
    total = alloc([], f32, init=0.0)
    for j in range(0, N, 64):
      total = total + reduce_sum(load(x[i, j:j+64]), j)
    store(total -> y[i])
}"""
    )
    assert "for " not in function(lower(sketch, sizes={"N": 64}))
    assert "for j_start in range(0, 65, 64):" in function(lower(sketch, sizes={"N": 65}))
    for n in (1, 64, 65, 200):
        checked(sketch, {"M": 3, "N": n})


ACCUMULATED = {
    "through two loops": ("""
    total = alloc([], f32, init=0.0)
    for r in range(0, M):
      for j in range(0, N, 16):
        total = total + reduce_sum(load(x[r, j:j+16]), j)
    store(total -> y[i])""", True),
    "several, with starting values": ("""
    low = alloc([], f32, init=0.5)
    high = alloc([], f32, init=-inf)
    for j in range(0, N, 16):
      t = load(x[i, j:j+16])
      low = minimum(reduce_min(t, j), low)
      high = maximum(high, reduce_max(t * t, j))
    store(low + high -> y[i])""", True),
    "read in the loop": ("""
    top = alloc([], f32, init=-inf)
    total = alloc([], f32, init=0.0)
    for j in range(0, N, 16):
      t = load(x[i, j:j+16])
      peak = maximum(top, reduce_max(t, j))
      total = total * exp(top - peak) + reduce_sum(exp(t - peak), j)
      top = peak
    store(top + log(total) -> y[i])""", False),
    "set in the loop around": ("""
    total = alloc([], f32, init=1.0)
    for r in range(0, M):
      total = total * 0.5
      for j in range(0, N, 16):
        total = total + reduce_sum(load(x[r, j:j+16]), j)
    store(total -> y[i])""", True),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCUMULATED)
def test_lanes_are_reduced_after_the_loop(case: str) -> None:
    body, carried = ACCUMULATED[case]
    sketch = parse(
        f"""sketch accumulated {{
  symbols: M, N
  tensors: x[M, N]: f32 in, y[M]: f32 out
  @llm_hint("parallel")
  for i in range(0, M):{body}
}}"""
    )
    assert ("_lanes" in function(lower(sketch))) is carried
    for n in (1, 16, 45):
        checked(sketch, {"M": 5, "N": n})


def test_what_passes_between_loops_in_a_name_runs_in_one_program() -> None:
    sketch = parse(
        """sketch joined {
  symbols: N
  tensors: x[N]: f32 in, y[N]: f32 out, z[N]: f32 out
  total = alloc([], f32, init=0.0)
  for j in range(0, N, 16):
    total = total + reduce_sum(load(x[j:j+16]), j)
  @llm_hint("parallel")
  for j in range(0, N, 16):
    store(load(x[j:j+16]) - total -> y[j:j+16])
  @llm_hint("parallel")
  for j in range(0, N, 16):
    store(load(y[j:j+16]) * 2.0 -> z[j:j+16])
}"""
    )
    kernel = lower(sketch)
    assert [p.grid for p in kernel.phases] == [("1",), ("(N + 15) // 16",)]
    for n in (1, 16, 50):
        checked(sketch, {"N": n})


def test_stores_and_loads_of_one_tensor_are_kept_apart() -> None:
    sketch = parse(
        """sketch moved {
  symbols: M, N
  tensors: x[M, N]: f32 in, t[M, N]: f32 tmp, y[M, N]: f32 out
  @llm_hint("parallel")
  for i in range(0, M):
    for j in range(0, N, 16):
      store(load(x[i, j:j+16]) + 1.0 -> t[i, j:j+16])
    for j in range(0, N, 16):
      store(load(t[i, j:j+16]) * 2.0 -> y[i, j:j+16])
}"""
    )
    body = function(lower(sketch))
    assert body.index("tl.store(t_ptr") < body.rindex("tl.debug_barrier()") < body.index("tl.load(t_ptr")
    checked(sketch, {"M": 3, "N": 37})


def test_launch_parameters() -> None:
    text = """sketch launched {
  symbols: N
  tensors: x[N]: f32 in, y[N]: f32 out, z[N]: f32 out
  constexpr: num_warps = 2, num_stages = 3
  @llm_hint("parallel", "num_warps=8")
  for j in range(0, N, 16):
    store(load(x[j:j+16]) -> y[j:j+16])
  @llm_hint("parallel")
  for j in range(0, N, 16):
    store(load(y[j:j+16]) -> z[j:j+16])
}"""
    first, second = lower(parse(text)).phases
    assert (first.num_warps, first.num_stages) == (8, 3)
    assert (second.num_warps, second.num_stages) == (2, 3)
    with pytest.raises(LoweringError, match="num_warps"):
        lower(parse(text.replace("num_warps=8", "num_warps=6")))


def test_checked_indices_are_asserted() -> None:
    sketch = parse(
        """sketch taken {
  symbols: V, N
  tensors: table[V]: f32 in, places[N]: i64 in, y[N]: f32 out
  @llm_hint("parallel")
  for n in range(0, N, 16):
    place = checked(load(places[n:n+16]), index(V))
    store(load(table[place]) -> y[n:n+16])
}"""
    )
    kernel = lower(sketch, sizes={"V": 50})
    assert kernel.phases[0].asserts
    assert 'tl.device_assert((places >= 0) & (places < 50) | ~n_mask, "index out of range")' in kernel.source
    places = np.random.default_rng(0).integers(0, 50, 37)
    checked(sketch, {"V": 50, "N": 37}, places=places)


def test_dots_use_the_matrix_unit_from_16_lanes_on() -> None:
    text = """sketch product {
  symbols: M, N, K
  tensors: a[M, K]: f32 in, b[K, N]: f32 in, y[M, N]: f32 out
  @llm_hint("parallel")
  for m in range(0, M, 16):
    for n in range(0, N, BN):
      acc = alloc([m, n], f32, init=0.0)
      for k in range(0, K, 16):
        acc = acc + dot(load(a[m:m+16, k:k+16]), load(b[k:k+16, n:n+BN]), k, precision="PRECISION")
      store(acc -> y[m:m+16, n:n+BN])
}"""
    for size, precision in ((16, "ieee"), (16, "tf32"), (8, "ieee")):
        sketch = parse(text.replace("BN", str(size)).replace("PRECISION", precision))
        source = lower(sketch).source
        assert (f'tl.dot(a, tl.trans(b), input_precision="{precision}")' in source) is (size == 16)
        if precision == "ieee":
            checked(sketch, {"M": 20, "N": 19, "K": 37})


def test_full_tiles_of_odd_sizes_are_not_masked() -> None:
    sketch = parse(
        """sketch odd {
  symbols: N
  tensors: x[N]: bf16 in, y[N]: bf16 out, z[N]: bf16 out
  @llm_hint("parallel")
  for i in range(0, N, 32):
    t = cast(load(x[i:i+32]), f32) * 2.0
    store(cast(t, bf16) -> y[i:i+32])
    store(cast(t + 1.0, bf16) -> z[i:i+32])
}"""
    )
    assert function(lower(sketch)).count("if ") == 1
    assert "if " not in function(lower(sketch, sizes={"N": 80}))
    body = function(lower(sketch, sizes={"N": 81}))
    full, rest = body.split("else:")
    assert "mask=" not in full
    assert rest.count("mask=") == 3
    for n in (1, 32, 64, 81, 95):
        checked(sketch, {"N": n})
    assert "if " not in function(lower(ROWS, sizes={"M": 8, "N": 65}))  # its rows begin anywhere: no vectors


def test_approximations_where_16_bits_are_all_that_remains() -> None:
    text = """sketch rough {
  symbols: M, N
  tensors: x[M, N]: bf16 in, y[M, N]: DT out, n[M]: i64 out
  @llm_hint("parallel")
  for i in range(0, M):
    axis j = range(0, N, 1024)
    v = cast(load(x[i, j:j+1024]), f32)
    e = exp(v)
    s = reduce_sum(e, j)
    store(cast(e / s, DT) -> y[i, j:j+1024])
    store(WHERE -> n[i])
}"""

    def source(dtype: str, where: str) -> str:
        return lower(parse(text.replace("DT", dtype).replace("WHERE", where)), sizes={"N": 1000}).source

    fast = source("bf16", "reduce_argmax(v, j)")
    assert "tl.exp(v)" in fast
    assert "tl.div_rn" not in fast
    assert "libdevice.exp(v)" in source("f32", "reduce_argmax(v, j)")  # stored at 32 bits
    assert "libdevice.exp(v)" in source("bf16", "reduce_argmax(e, j)")  # e decides which
    checked(parse(text.replace("DT", "bf16").replace("WHERE", "reduce_argmax(v, j)")), {"M": 3, "N": 1000})


GELU = """sketch gelu {
  symbols: N
  tensors: x[N]: DT in, y[N]: OUT out
  @llm_hint("parallel")
  for i in range(0, N, 1024):
    v = cast(load(x[i:i+1024]), f32)
    store(cast(v * 0.5 * SUM, OUT) -> y[i:i+1024])
}"""


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_one_plus_erf_for_16_bits(dtype: str) -> None:
    """No worse than eager's for any number there is, and where eager's sum is all rounding errors much better."""

    def sketch(out: str, total: str = "(1.0 + erf(v * 0.70710677))") -> Sketch:
        return parse(GELU.replace("DT", dtype).replace("OUT", out).replace("SUM", total))

    assert "one_plus_erf(v * 0.70710677)" in lower(sketch(dtype)).source
    assert "one_plus_erf(v * 0.70710677)" in lower(sketch(dtype, "(erf(v * 0.70710677) + 1.0)")).source
    assert "libdevice.erf" in lower(sketch("f32")).source
    assert "libdevice.erf" in lower(sketch(dtype, "(2.0 + erf(v * 0.70710677))")).source

    torch_type = torch.bfloat16 if dtype == "bf16" else torch.float16
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch_type)
    given = {
        "x": x.view(torch.int16).numpy().view(numpy_dtype(DType(dtype))),
        "y": np.zeros(2**16, numpy_dtype(DType(dtype))),
    }
    execute(sketch(dtype), given, {"N": 2**16}, {"N": 2**16})
    got = torch.from_numpy(given["y"].view(np.int16)).view(torch_type)
    eager = (x.float() * 0.5 * (1.0 + torch.erf(x.float() * 0.70710677))).to(torch_type)
    special = ~torch.isfinite(x)
    assert torch.equal(got[special].isnan(), eager[special].isnan())
    assert torch.equal(got[special].nan_to_num(), eager[special].nan_to_num())
    wide = x[~special].double()
    truth = wide * 0.5 * torch.special.erfc(wide * -(0.5**0.5))
    error, eager_error = ((y[~special].double() - truth).abs() for y in (got, eager))
    unit = torch.finfo(torch_type).eps * truth.abs().clamp_min(torch.finfo(torch_type).tiny)
    assert (error <= torch.maximum(eager_error, 0.53 * unit)).all()


def test_numbers_keep_to_what_triton_takes_for_an_f32() -> None:
    """A Python float beyond the largest f32, as its shortest form is, would make the whole expression an f64."""
    text = """sketch clamped {
  symbols: N
  tensors: x[N]: f32 in, y[N]: f32 out
  @llm_hint("parallel")
  for i in range(0, N, 128):
    store(maximum(load(x[i:i+128]), -3.4028234663852886e38) -> y[i:i+128])
}"""
    found = re.findall(r"-\d\.\d+e\+38", lower(parse(text)).source)
    assert found
    assert all(abs(float(n)) <= (2 - 2.0**-23) * 2.0**127 for n in found)
    checked(parse(text), {"N": 300})


def test_loads_come_before_stores() -> None:
    """After a store, a load would wait until it is written; but in the memory that is stored to it has to."""
    text = """sketch steps {
  symbols: N
  tensors: x[N]: f32 in, g[N]: f32 in, m[N]: f32 in, y[N]: f32 out, z[N]: f32 out, t[N]: f32 tmp
  @llm_hint("parallel")
  for i in range(0, N, 256):
    d = load(g[i:i+256]) * 0.5
    store(d -> FIRST[i:i+256])
    e = load(m[i:i+256]) + d
    store(load(FROM[i:i+256]) - e -> z[i:i+256])
    store(e -> y[i:i+256])
}"""
    fresh = parse(text.replace("FIRST", "y").replace("FROM", "x").replace("store(e -> y[i:i+256])", ""))
    body = function(lower(fresh, sizes={"N": 4096}))
    assert body.rindex("tl.load") < body.index("tl.store")
    checked(fresh, {"N": 300})
    again = parse(text.replace("FIRST", "t").replace("FROM", "t"))
    body = function(lower(again, sizes={"N": 4096}))
    assert body.index("tl.store") < body.index("tl.load(t_ptr")
    checked(again, {"N": 300})


def test_a_division_by_a_constant_is_a_product() -> None:
    """Exactly for powers of two; with `exact`, only for those."""
    text = """sketch scaled {
  symbols: N
  tensors: x[N]: f32 in, y[N]: f32 out
  @llm_hint("parallel")
  for i in range(0, N, 256):
    store(load(x[i:i+256]) / BY -> y[i:i+256])
}"""

    def divides(by: str, *, exact: bool) -> bool:
        return "div_rn" in lower(parse(text.replace("BY", by)), exact=exact).source

    for by, always in (("255.0", False), ("8.0", True), ("-0.25", True), ("1.0", True), ("1e-39", None), ("0.0", None)):
        assert divides(by, exact=True) is (always is not True)
        assert divides(by, exact=False) is (always is None)
        checked(parse(text.replace("BY", by)), {"N": 300})


def test_reciprocal_roots_are_the_hardware_s() -> None:
    """As torch's are; with `exact`, a root and a division, both rounded."""
    text = """sketch roots {
  symbols: N
  tensors: x[N]: f32 in, y[N]: f32 out
  @llm_hint("parallel")
  for i in range(0, N, 256):
    store(1.0 / sqrt(load(x[i:i+256]) + 0.5) -> y[i:i+256])
}"""
    assert "tl.rsqrt(x + 0.5)" in lower(parse(text), exact=False).source
    assert "tl.div_rn(1.0, tl.sqrt_rn(" in lower(parse(text)).source
    assert "rsqrt" not in lower(parse(text.replace("1.0 /", "2.0 /")), exact=False).source


def test_what_is_read_once_leaves_the_cache_to_others() -> None:
    """In a phase marked so, and only what no other program or load reads again."""
    text = """sketch weighted {
  symbols: M, N
  tensors: x[M, N]: f32 in, w[N]: f32 in, z[M, N]: f32 in, y[M]: f32 out
  @llm_hint("parallel" HINT)
  for i in range(0, M):
    axis j = range(0, N, 512)
    p = load(x[i, j:j+512]) * load(w[j:j+512]) + load(z[i, j:j+512])
    a = reduce_sum(p * load(z[i, j:j+512]), j)
    store(AGAIN -> y[i])
}"""

    def kept(hint: str, again: str = "a") -> list[str]:
        source = lower(parse(text.replace("HINT", hint).replace("AGAIN", again))).source
        return [line.split("_ptr")[0][-1] for line in source.split("\n") if "evict_first" in line]

    assert kept("") == []
    assert kept(', "once"') == ["x", "z"]
    assert kept(', "once"', "a + load(z[i, 0])") == ["x"]
    checked(parse(text.replace("HINT", ', "once"').replace("AGAIN", "a")), {"M": 3, "N": 500})
