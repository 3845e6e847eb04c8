"""The reference programs in any float dtype: tensors of that dtype, arithmetic in f32 (f64 for f64)."""

from __future__ import annotations

import re
from pathlib import Path

from akg_dynamo.agents.sketch import parse
from akg_dynamo.agents.sketch.ast import DType, Sketch

FOLDER = Path(__file__).parent / "programs"
NAMES = tuple(sorted(p.stem for p in FOLDER.glob("*.sketch")))


def program(name: str, dtype: DType = DType.F32) -> Sketch:
    """`programs/<name>.sketch`, which is written for f32, for tensors of `dtype`."""
    text = (FOLDER / f"{name}.sketch").read_text()
    if dtype is DType.F64:
        return parse(re.sub(r"\bf32\b", "f64", text))
    text = re.sub(r": f32 (in|out)", rf": {dtype.value} \1", text)
    return parse(re.sub(r", f32\) ->", f", {dtype.value}) ->", text))
