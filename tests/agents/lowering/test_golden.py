"""The generated C++ of a few sketches, as files to read. (Triton: `test_triton_golden`; CUDA C: `test_cuda_c_golden`.)

`python tests/agents/lowering/test_golden.py` writes them anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "sketch"))

from sketch_programs import NAMES, program

from akg_dynamo.agents.lowering.cpp import lower
from akg_dynamo.agents.sketch import parse
from akg_dynamo.agents.sketch.ast import Sketch

FOLDER = Path(__file__).parents[2] / "golden"
OTHERS = {
    "silu_mul": """
sketch silu_mul {
  symbols: N
  tensors: x[N]: bf16 in, g[N]: bf16 in, y[N]: bf16 out
  constexpr: BN = 4096
  @llm_hint("parallel", "coreidx")
  for i in range(0, N, BN):
    v = cast(load(x[i:i+BN]), f32)
    store(cast(v * sigmoid(v) * cast(load(g[i:i+BN]), f32), bf16) -> y[i:i+BN])
}""",
    "layer_norm": """
sketch layer_norm {
  symbols: M, N
  tensors: x[M, N]: f32 in, w[N]: f32 in, b[N]: f32 in, y[M, N]: f32 out
  constexpr: BN = 8192
  @llm_hint("parallel", "coreidx")
  for i in range(0, M):
    axis j = range(0, N, BN)
    v = load(x[i, j:j+BN])
    mean = reduce_sum(v, j) / cast(index(N), f32)
    d = v - mean
    var = reduce_sum(d * d, j) / cast(index(N), f32)
    store(d * rsqrt(var + 1e-05) * load(w[j:j+BN]) + load(b[j:j+BN]) -> y[i, j:j+BN])
}""",
    "softmax": """
sketch softmax {
  symbols: M, N
  tensors: x[M, N]: f32 in, y[M, N]: f32 out
  constexpr: BN = 8192
  @llm_hint("parallel", "coreidx")
  for i in range(0, M):
    axis j = range(0, N, BN)
    v = load(x[i, j:j+BN])
    e = exp(v - reduce_max(v, j))
    store(e / reduce_sum(e, j) -> y[i, j:j+BN])
}""",
    "transpose_add": """
sketch transpose_add {
  symbols: M, N
  tensors: x[N, M]: f32 in, c[M, N]: f32 in, y[M, N]: f32 out
  constexpr: BI = 64, BJ = 256
  @llm_hint("parallel", "coreidx")
  for i in range(0, M, BI):
    @llm_hint("parallel", "coreidx")
    for j in range(0, N, BJ):
      store(load(x[j:j+BJ, i:i+BI]) + load(c[i:i+BI, j:j+BJ]) -> y[i:i+BI, j:j+BJ])
}""",
    "arg_max": """
sketch arg_max {
  symbols: M, N
  tensors: x[M, N]: f32 in, y[M]: i64 out
  constexpr: BN = 65536
  @llm_hint("parallel", "coreidx")
  for i in range(0, M):
    axis j = range(0, N, BN)
    store(reduce_argmax(load(x[i, j:j+BN]), j) -> y[i])
}""",
}


def sketches() -> dict[str, Sketch]:
    return {name: program(name) for name in NAMES} | {name: parse(text.strip()) for name, text in OTHERS.items()}


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_golden(name: str) -> None:
    path = FOLDER / f"{name}.cpp"
    assert lower(sketches()[name]).source == path.read_text(), f"{path} differs; to refresh: python {Path(__file__)}"


if __name__ == "__main__":
    for name, sketch in sketches().items():
        (FOLDER / f"{name}.cpp").write_text(lower(sketch).source)

    import cuda_goldens
    import triton_goldens

    from akg_dynamo.agents.lowering import cuda_c, triton_cuda

    for name, golden in triton_goldens.goldens().items():
        source = triton_cuda.lower(golden.sketch, sizes=golden.sizes).source
        (FOLDER / f"{name}.triton.py").write_text(source)
    for name, wanted in cuda_goldens.goldens().items():
        (FOLDER / f"{name}.cu").write_text(cuda_c.lower(wanted.sketch, sizes=wanted.sizes).source)
