"""Kernels that cheat while they are timed: each is found out, and the verdict says what it tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from akg_dynamo.agents.verifier import Judge
from akg_dynamo.core.types import Outcome, Ref, Subgraph, Trick

from .kernels import add_relu, contiguous, job, op, single

N = 50_000  # so large that no set of inputs waits long until it is used again
RIGHT = "return (torch.relu(args[0] + args[1]),)"

# Memory that is not written may hold an earlier output: then that is what the verdict names.
CHEATS = {
    "by address": (
        "seen = {}",
        "key = args[0].data_ptr(), args[1].data_ptr()\n"
        "if key not in seen: seen[key] = torch.relu(args[0] + args[1])\n"
        "return (seen[key],)",
        {Trick.REPLAYS},
    ),
    "by some of the elements": (
        "seen = {}",
        "key = float(args[0][0])\nif key not in seen: seen[key] = torch.relu(args[0] + args[1])\nreturn (seen[key],)",
        {Trick.REPLAYS, Trick.DRIFTS},
    ),
    "right two hundred times": (
        "n = 0",
        "global n; n += 1\nif n > 200: return (torch.empty_like(args[0]),)\n" + RIGHT,
        {Trick.DRIFTS, Trick.REPLAYS},
    ),
    "right nine times of ten": (
        "n = 0",
        "global n; n += 1\nif n % 10 == 0: return (torch.empty_like(args[0]),)\n" + RIGHT,
        {Trick.DRIFTS, Trick.REPLAYS},
    ),
    "the last call of a run only": (
        "import time\nlast = 0.0",
        "global last\nnow = time.perf_counter(); slow, last = now - last > 0.002, now\n"
        "if not slow: return (torch.empty_like(args[0]),)\n" + RIGHT,
        {Trick.DRIFTS, Trick.REPLAYS},
    ),
    "later, in another thread": (
        "import queue, threading, time\n"
        "todo = queue.SimpleQueue()\n"
        "def work():\n"
        "    while True:\n"
        "        out, args = todo.get(); time.sleep(0.001); torch.add(args[0], args[1], out=out).relu_()\n"
        "threading.Thread(target=work, daemon=True).start()",
        "out = torch.zeros_like(args[0]); todo.put((out, args)); return (out,)",
        {Trick.UNSYNCHRONISED, Trick.DRIFTS},
    ),
    "threads, now and then": (
        "import threading, time\nn = 0",
        "global n; n += 1\n"
        "if n % 100 == 0: threading.Thread(target=time.sleep, args=(20,), daemon=True).start()\n" + RIGHT,
        {Trick.THREADS},
    ),
    "another layout than was asked for": ("", "return (torch.relu(args[0] + args[1]).double(),)", {Trick.DRIFTS}),
}


@pytest.mark.parametrize("name", CHEATS)
def test_who_cheats_while_timed_is_found_out(judge: Judge, name: str) -> None:
    top, body, tricks = CHEATS[name]
    cheat = job(add_relu(N), body, top=top, trusted=False, threads=1, want_values=False, want_timing=True)
    (verdict,) = judge.judge([cheat])
    assert verdict.outcome in (Outcome.WRONG, Outcome.REJECTED), verdict
    assert tricks & set(verdict.tricks), verdict
    assert "while" in verdict.detail, verdict


def test_who_is_right_is_timed_to_the_end(judge: Judge) -> None:
    """A workspace, threads of torch's own and another number of calls each time are no tricks."""
    top = "work = torch.empty(0)"
    body = """
    global work
    if work.shape != args[0].shape: work = torch.empty_like(args[0])
    torch.add(args[0], args[1], out=work)
    return (torch.relu(work),)
    """
    right = job(add_relu(60_000), body, top=top, trusted=False, threads=2, want_values=False, want_timing=True)
    (verdict,) = judge.judge([right])
    assert verdict.outcome is Outcome.RIGHT, verdict
    assert verdict.timing is not None
    assert verdict.timing.kernel_us > 1


@pytest.mark.parametrize("trusted", [True, False])
def test_calls_with_cold_caches_are_timed_if_that_is_asked_for(judge: Judge, trusted: bool) -> None:
    slow = single("aten.clone.default", *(contiguous("float32", 1 << 17),) * 2)
    several = Subgraph(slow.inputs, (), tuple(op("aten.neg.default", slow.inputs[0], Ref(i)) for i in range(30)), (30,))
    asked = job(several, "return (args[0].clone(),)", trusted=trusted, threads=1, want_values=False, want_timing=True)
    (plain,) = judge.judge([asked])
    assert plain.timing is not None
    assert plain.timing.cold_ratio == 0
    for seed in range(24):  # on a busy machine nothing is told apart
        (cold,) = judge.judge([replace(asked, want_cold=True, seed=seed)])
        assert cold.timing is not None, cold
        if cold.timing.cold_ratio:
            break
    assert cold.timing.eager_cold_us > cold.timing.kernel_cold_us > 0, cold.timing


def test_a_claim_that_no_machine_can_keep_is_rejected(judge: Judge) -> None:
    """Rules do not cheat, so their outputs are not checked while they are timed; but bytes must move."""
    lazy = job(add_relu(1 << 21), "return ()", threads=1, want_values=False, want_timing=True)
    (verdict,) = judge.judge([lazy])
    assert verdict.outcome is Outcome.REJECTED, verdict
    assert verdict.tricks == (Trick.TOO_FAST,)
    assert "25165824 bytes it must move" in verdict.detail
