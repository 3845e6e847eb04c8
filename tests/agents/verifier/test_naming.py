"""What a wrong candidate tried is named, though its outputs say only that they are wrong."""

from __future__ import annotations

import pytest

from akg_dynamo.agents.verifier import Judge
from akg_dynamo.core.types import Outcome, Trick

from .kernels import add_relu, dynamic_softmax, job

RIGHT = "torch.relu(args[0] + args[1])"
LATE = """
import threading, time
def late(out, args):
    time.sleep(0.02)
    out.copy_(torch.relu(args[0] + args[1]))
"""
TRIED = {
    "a thread that comes later": (
        LATE,
        "out = torch.empty_like(args[0])\nthreading.Thread(target=late, args=(out, args)).start()\nreturn (out,)",
        Trick.UNSYNCHRONISED,
    ),
    "memory that nobody wrote": (
        "",
        f"out = torch.empty_like(args[0]); out[1:] = {RIGHT}[1:]; return (out,)",
        Trick.STALE_MEMORY,
    ),
    "what lies behind an input": (
        "",
        "n = len(args[0])\nout = torch.relu(args[0] + args[1])\nout[-1] = args[0].as_strided((n + 1,), (1,))[n]\n"
        "return (out,)",
        Trick.OUT_OF_BOUNDS,
    ),
    "an output of before": (
        "kept = []",
        f"kept.append({RIGHT})\nreturn (kept[max(0, len(kept) - 2)].clone(),)",
        Trick.REPLAYS,
    ),
    "what it kept for an object": (
        "kept = {}",
        f"return (kept.setdefault(id(args[0]), {RIGHT}).clone(),)",
        Trick.REPLAYS,
    ),
    "what it kept with an object": (
        "",
        f"x = args[0]\nif not hasattr(x, 'kept'):\n    x.kept = {RIGHT}\nreturn (x.kept.clone(),)",
        Trick.REPLAYS,
    ),
    "right at first": ("n = 0", f"global n; n += 1\nreturn ({RIGHT} + (0.5 if n > 3 else 0.0),)", Trick.DRIFTS),
    "something else": ("", f"return ({RIGHT} * 1.5,)", Trick.VALUES),
    "a few": ("", f"out = {RIGHT}; out[7] += 2; return (out,)", Trick.OUTLIERS),
}


@pytest.mark.parametrize("what", TRIED)
def test_what_was_tried_is_named(judge: Judge, what: str) -> None:
    top, body, trick = TRIED[what]
    asked = job(add_relu(), body, top=top, trusted=False, screens=frozenset({"running"}))
    verdict = judge.judge([asked])[0]
    assert verdict.outcome is Outcome.WRONG, verdict
    assert verdict.tricks == (trick,), verdict


def test_sizes_that_were_not_thought_of_are_named(judge: Judge) -> None:
    body = "x = args[0]\nout = torch.softmax(x, -1)\nif x.shape != (12, 200): out = out * 0.5\nreturn (out,)"
    asked = job(dynamic_softmax(), body, trusted=False, screens=frozenset({"running"}))
    verdict = judge.judge([asked])[0]
    assert verdict.tricks == (Trick.SHAPE,), verdict
