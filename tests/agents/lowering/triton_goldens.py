"""Sketches as they are mapped to a GPU, whose Triton lies in tests/golden to be read."""

from __future__ import annotations

import dataclasses

from sketch_programs import FOLDER, program

from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch import parse
from akg_dynamo.agents.sketch.ast import DType, Sketch

_TEXTS = {
    "silu_mul": """
sketch silu_mul {
  symbols: N
  tensors: x[N]: bf16 in, g[N]: bf16 in, y[N]: bf16 out
  constexpr: BN = 1024
  @llm_hint("parallel", "grididx")
  for i in range(0, N, BN):
    v = cast(load(x[i:i+BN]), f32)
    store(cast(v * sigmoid(v) * cast(load(g[i:i+BN]), f32), bf16) -> y[i:i+BN])
}""",
    "softmax": """
sketch softmax {
  symbols: M, N
  tensors: x[M, N]: f32 in, y[M, N]: f32 out
  constexpr: BM = 2, BN = 1024
  @llm_hint("parallel", "grididx")
  for i in range(0, M, BM):
    axis j = range(0, N, BN)
    v = load(x[i:i+BM, j:j+BN])
    e = exp(v - reduce_max(v, j))
    store(e / reduce_sum(e, j) -> y[i:i+BM, j:j+BN])
}""",
    "log_softmax_looped": """
sketch log_softmax_looped {
  symbols: M, N
  tensors: x[M, N]: bf16 in, y[M, N]: bf16 out
  constexpr: BN = 4096, num_warps = 8
  @llm_hint("parallel", "grididx")
  for i in range(0, M):
    top = alloc([], f32, init=-inf)
    for j in range(0, N, BN):
      top = maximum(top, reduce_max(cast(load(x[i, j:j+BN]), f32), j))
    total = alloc([], f32, init=0.0)
    for j in range(0, N, BN):
      total = total + reduce_sum(exp(cast(load(x[i, j:j+BN]), f32) - top), j)
    shift = top + log(total)
    for j in range(0, N, BN):
      store(cast(cast(load(x[i, j:j+BN]), f32) - shift, bf16) -> y[i, j:j+BN])
}""",
    "layer_norm": """
sketch layer_norm {
  symbols: M, N
  tensors: x[M, N]: bf16 in, w[N]: bf16 in, b[N]: bf16 in, y[M, N]: bf16 out
  constexpr: BN = 4096
  @llm_hint("parallel", "grididx", "num_warps=8")
  for i in range(0, M):
    axis j = range(0, N, BN)
    v = cast(load(x[i, j:j+BN]), f32)
    mean = reduce_sum(v, j) / cast(index(N), f32)
    d = v - mean
    var = reduce_sum(d * d, j) / cast(index(N), f32)
    scaled = d * rsqrt(var + 1e-05) * cast(load(w[j:j+BN]), f32)
    store(cast(scaled + cast(load(b[j:j+BN]), f32), bf16) -> y[i, j:j+BN])
}""",
    "sum_split": """
sketch sum_split {
  symbols: N
  tensors: x[N]: f32 in, parts[256]: f32 tmp, y[]: f32 out
  constexpr: BN = 2048, BP = 256
  @llm_hint("parallel", "grididx")
  for p in range(0, 256):
    total = alloc([], f32, init=0.0)
    for j in range(p * (N // 256), (p + 1) * (N // 256), BN):
      total = total + reduce_sum(load(x[j:j+BN]), j)
    store(total -> parts[p])
  @llm_hint("parallel", "num_warps=1")
  for n in range(0, 1):
    axis q = range(0, 256, BP)
    store(reduce_sum(load(parts[q:q+BP]), q) -> y[])
}""",
    "transpose_add": """
sketch transpose_add {
  symbols: M, N
  tensors: x[N, M]: f32 in, c[M, N]: f32 in, y[M, N]: f32 out
  constexpr: BI = 64, BJ = 64
  @llm_hint("parallel", "grididx")
  for i in range(0, M, BI):
    @llm_hint("parallel", "grididx")
    for j in range(0, N, BJ):
      store(load(x[j:j+BJ, i:i+BI]) + load(c[i:i+BI, j:j+BJ]) -> y[i:i+BI, j:j+BJ])
}""",
    "arg_max": """
sketch arg_max {
  symbols: M, N
  tensors: x[M, N]: f32 in, y[M]: i64 out
  constexpr: BN = 2048
  @llm_hint("parallel", "grididx")
  for i in range(0, M):
    axis j = range(0, N, BN)
    store(reduce_argmax(load(x[i, j:j+BN]), j) -> y[i])
}""",
}
_PARALLEL = '@llm_hint("parallel", "grididx")\n'


def _matmul() -> Sketch:
    """The program with both of its outer loops as program ids, for matrix units."""
    text = (FOLDER / "matmul_bias_gelu.sketch").read_text().replace("    for n in", f"    {_PARALLEL}    for n in")
    text = text.replace(": f32 in", ": f16 in").replace(": f32 out", ": f16 out").replace(", f32) ->", ", f16) ->")
    return tiled(parse(text), BM=128, BN=128, BK=64, num_warps=8, num_stages=3)


def _attention() -> Sketch:
    """The program with its second product on matrix units too."""
    text = (FOLDER / "attention.sketch").read_text()
    text = text.replace(": f32 in", ": f16 in").replace(": f32 out", ": f16 out").replace(", f32) ->", ", f16) ->")
    text = text.replace(
        "dot(weight, cast(load(v[h, s:s+BS, d:d+BD]), f32), s)", "dot(cast(weight, f16), load(v[h, s:s+BS, d:d+BD]), s)"
    )
    return tiled(parse(text), BT=64, BS=64, BD=64)


def tiled(sketch: Sketch, **sizes: int) -> Sketch:
    """With other tile sizes, and launch parameters."""
    known = {c.name: c for c in sketch.constexprs}
    for name, value in sizes.items():
        known[name] = (
            dataclasses.replace(known[name], value=value, space=()) if name in known else _constexpr(name, value)
        )
    return dataclasses.replace(sketch, constexprs=tuple(known.values()))


def _constexpr(name: str, value: int) -> sk.ConstExpr:
    return sk.ConstExpr(name, value)


@dataclasses.dataclass(frozen=True)
class Golden:
    """A sketch, and the sizes that are baked in."""

    sketch: Sketch
    sizes: dict[str, int]
    registers: int
    """What its launches may take, of a thread."""


def goldens() -> dict[str, Golden]:
    """By the name of the file."""
    text = {name: parse(text.strip()) for name, text in _TEXTS.items()}
    return {
        "silu_mul": Golden(text["silu_mul"], {"N": 1 << 22}, 48),
        "silu_mul_dynamic": Golden(text["silu_mul"], {}, 56),
        "softmax": Golden(text["softmax"], {"M": 4096, "N": 1000}, 64),
        "log_softmax_looped": Golden(text["log_softmax_looped"], {"M": 2048, "N": 128256}, 64),
        "layer_norm": Golden(text["layer_norm"], {"M": 8192, "N": 4096}, 64),
        "sum_split": Golden(text["sum_split"], {"N": 1 << 24}, 64),
        "transpose_add": Golden(text["transpose_add"], {"M": 4096, "N": 4096}, 64),
        "arg_max": Golden(text["arg_max"], {}, 64),
        "cumsum": Golden(tiled(program("cumsum"), BN=1024), {"M": 4096, "N": 5000}, 128),
        "embedding": Golden(tiled(program("embedding", DType.BF16), BD=256), {"D": 1024}, 64),
        "matmul_bias_gelu": Golden(_matmul(), {"M": 4096, "N": 4096, "K": 4096}, 255),
        "attention": Golden(_attention(), {"H": 32, "D": 64}, 255),
    }
