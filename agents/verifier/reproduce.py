"""One file that shows what is wrong with a kernel: it, the inputs it failed on, and what to compare with.

The file needs torch and what the kernel needs, and nothing of AKG: whoever wrote the kernel can run it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import torch

from akg_dynamo.agents.verifier.case import Case
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.model_call import FIRST_SEED
from akg_dynamo.agents.verifier.shapes import values
from akg_dynamo.core.types import Outcome, SymInt
from akg_dynamo.fusion.reference import body, input_names

MOST_BYTES = 4 << 20
"""Of inputs: a file with more of them would serve nobody."""


def source(job: Job, case: Case, outcome: Outcome, detail: str) -> str:
    """The file for one case of that job; empty if its inputs are too large to be written down."""
    if sum(flat.numel() * flat.element_size() for flat in case.private) > MOST_BYTES:
        return ""
    sub, sizes = job.subgraph, case.group.sizes
    call = job.model
    gradients = call.gradients if call is not None else None
    anyhow = case.group.layout is not None  # of inputs laid out otherwise, eager's outputs are laid out as it likes
    specs = [
        (f"torch.{s.dtype}", values(s.shape, sizes), None if anyhow else values(s.stride, sizes))
        for s in sub.output_specs
    ]
    return _template().render(
        title=f"Reproduces a verdict on {job.candidate.name}: {outcome.value}.",
        detail=detail.replace("\\", "\\\\").replace('"""', "'''"),
        outcome=outcome.value,
        case=str(case),
        seed=job.seed,
        interpreted=call is not None and call.interpreted,
        numerics=repr(job.numerics),
        rtol=job.rtol if job.numerics == "fast" else 0.0,
        device_name=repr(job.device),
        symbols=[sizes[s.name] for s in sub.symbols],
        inputs=[_input(job, case, i) for i in range(len(sub.inputs))],
        outputs="[" + ", ".join(f"({dtype}, {shape}, {stride})" for dtype, shape, stride in specs) + "]",
        kernel=_text(job.candidate.source),
        task=None if call is None else _text(call.task.source),
        state=[] if call is None else [*call.state, *call.made],
        upstream=[] if gradients is None else list(gradients.upstream),
        wanted=[] if gradients is None else list(gradients.wanted),
        arguments=[] if call is None else [(i, _known(value, sizes)) for i, value in call.arguments],
        updates=[] if call is None else list(call.updates),
        first_seed=FIRST_SEED,
        parameters=", ".join([*input_names(sub), *(s.name for s in sub.symbols)]),
        eager=body(sub),
        oracle=body(sub, upcast=True),
    )


def _input(job: Job, case: Case, i: int) -> dict[str, Any]:
    spec, flat = job.subgraph.inputs[i], case.private[i]
    data = flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return {
        "dtype": f"torch.{spec.dtype}",
        "shape": values(spec.shape, case.group.sizes),
        "stride": case.group.strides(i, spec),
        "traced": values(spec.stride, case.group.sizes),
        "offset": flat.element_size() if case.group.misaligned else 0,
        "data": repr(base64.b64encode(zlib.compress(data)).decode()),
    }


def _known(value: Any, sizes: Mapping[str, int]) -> Any:
    return sizes[value.expr] if isinstance(value, SymInt) else value


def _text(text: str) -> str:
    """As Python source, on lines of its own where that can be."""
    if "'''" in text or text.endswith(("'", "\\")) or "\r" in text:
        return repr(text)
    return "r'''" + text + "'''"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((Path(__file__).parent / "reproduction.py.j2").read_text(encoding="utf-8"))
