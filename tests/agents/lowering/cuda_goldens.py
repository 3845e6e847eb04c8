"""Sketches whose CUDA C is kept as files to read: the four programs, in tiles for a GPU."""

from __future__ import annotations

import dataclasses

from sketch_programs import program

from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.ast import ConstExpr, Sketch


@dataclasses.dataclass(frozen=True)
class Golden:
    """A sketch, the sizes that are baked in, and what its launches may take: registers of a thread, shared bytes."""

    sketch: Sketch
    sizes: dict[str, int]
    registers: int
    shared_bytes: int


def goldens() -> dict[str, Golden]:
    """By the name of the file."""
    matmul = _blocks(program("matmul_bias_gelu"))
    return {
        "matmul_bias_gelu": Golden(
            tiled(matmul, BM=64, BN=64, BK=16, num_warps=8), {"M": 4096, "N": 4096, "K": 4096}, 96, 16 << 10
        ),
        "attention": Golden(tiled(program("attention"), BT=32, BS=32, BD=64), {"H": 32, "D": 64}, 168, 32 << 10),
        "cumsum": Golden(tiled(program("cumsum"), BN=1024), {"M": 4096, "N": 5000}, 168, 24 << 10),
        "embedding": Golden(tiled(program("embedding"), BD=256), {"D": 1024}, 64, 1 << 10),
    }


def _blocks(sketch: Sketch) -> Sketch:
    """With the loop inside the outermost one parallel too."""
    (outer,) = sketch.body
    assert isinstance(outer, sk.For)
    inner = tuple(dataclasses.replace(s, hints=("parallel",)) if isinstance(s, sk.For) else s for s in outer.body)
    return dataclasses.replace(sketch, body=(dataclasses.replace(outer, body=inner),))


def tiled(sketch: Sketch, **sizes: int) -> Sketch:
    """With other tile sizes, and launch parameters."""
    known = {c.name: c for c in sketch.constexprs}
    changed = {name: ConstExpr(name, value) for name, value in sizes.items()}
    return dataclasses.replace(sketch, constexprs=tuple((known | changed).values()))
