"""Judging on a device: its arenas, its guard zones and its lock, on a device that is simulated."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._C._dynamo import guards

from akg_dynamo.agents.profiler.roofline import HostCeiling
from akg_dynamo.agents.verifier import Job, Judge, plan, timing
from akg_dynamo.agents.verifier.arena import GUARD_BYTES
from akg_dynamo.agents.verifier.case import any_touched
from akg_dynamo.agents.verifier.device_arena import DeviceArena
from akg_dynamo.agents.verifier.device_lock import device_lock
from akg_dynamo.agents.verifier.guarded import ZONE_BYTES, Zones, guarding
from akg_dynamo.agents.verifier.inputs import on_host
from akg_dynamo.agents.verifier.timing import Stopwatch
from akg_dynamo.agents.verifier.workers import Failed
from akg_dynamo.cache.flags import EagerFlags
from akg_dynamo.core.types import Outcome, TorchConst
from akg_dynamo.fusion.reference import reference

from .kernels import add_relu, contiguous, job, op, row_sum, single
from .simulated import DEVICE, Memory, Worker, values_of

RIGHT = "return (torch.relu(args[0] + args[1]),)"
SIZES = pytest.mark.parametrize("large", [False, True], ids=["small", "large"])


def judge(one: Job, monkeypatch: pytest.MonkeyPatch, *, large: bool) -> Failed | None:
    worker = Worker()
    try:
        with torch.no_grad():
            values_of(one, worker, monkeypatch, large=large).check()
    except Failed as failed:
        return failed
    assert bool(worker.memory.attached) == (large and bool(one.subgraph.inputs[0].shape[0]))
    return None


@SIZES
@pytest.mark.parametrize(
    ("sub", "body"),
    [
        (add_relu(), RIGHT),
        (row_sum(16, 300), "return (args[0].flip(1).sum(1),)"),
        (add_relu(), "x = torch.empty_strided((1000,), (1,)); torch.add(*args, out=x); return (x.relu_(),)"),
        (add_relu(0), RIGHT),
    ],
)
def test_right_kernels_pass(sub: object, body: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = judge(job(sub, body), monkeypatch, large=large)  # type: ignore[arg-type]
    assert failed is None, failed.detail


BESIDE = """
x = torch.empty(1000)
torch.add(*args, out=x).relu_()
beside = {0}.as_strided((1,), (1,), {0}.storage_offset() + {1})
beside[0] = 0
return (x,)
"""

WRONG = {
    "off by one": (RIGHT.replace("args[0]", "args[0].roll(1)"), "eager nan"),
    "missing tail": ("x = torch.relu(args[0] + args[1]); x[992:] = 0; return (x,)", "oracle"),
    "unwritten tail": ("x = torch.empty(1000); x[:992] = torch.relu(args[0]+args[1])[:992]; return (x,)", "nan"),
    "too few digits": ("return (torch.relu(args[0].bfloat16() + args[1]).float(),)", "error"),
    "past the end of an input": (
        BESIDE.format("args[1]", 1000),
        "wrote past an end of input 1",
    ),
    "before an input": (
        BESIDE.format("args[0]", -1),
        "wrote past an end of input 0",
    ),
    "into an input": ("args[0].add_(args[1]); return (torch.relu(args[0]),)", "wrote into input 0"),
    "past its own output": (
        BESIDE.format("x", 1000),
        "wrote past an end of memory it allocated",
    ),
    "past its scratch memory": (
        "x = _empty((8,), (1,), torch.float32); x.as_strided((9,), (1,), x.storage_offset())[8] = 0; " + RIGHT,
        "wrote past an end of memory it allocated",
    ),
    "reads past an end": (
        """
        a = args[0]
        x = torch.relu(a + args[1])
        x[999] += a.as_strided((1,), (1,), a.storage_offset() + 1000)[0] * 0
        return (x,)
        """,
        "nan",
    ),
    "an input": ("return (args[0].clamp_(min=0),)", "shares memory with an input"),
    "raises": ("raise ValueError('no')", "no"),
}


@SIZES
@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernels_fail_with_their_reason(name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    body, reason = WRONG[name]
    top = "from torch._C._dynamo.guards import _empty_strided_cpu as _empty"
    failed = judge(job(add_relu(), body, top=top), monkeypatch, large=large)
    assert failed is not None
    assert failed.outcome is Outcome.WRONG
    assert reason in failed.detail


def test_what_was_touched_is_asked_in_one_go_and_named_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    values = values_of(job(add_relu(), RIGHT), worker, monkeypatch, large=True)
    case = values.lay_out(plan.Group({}, "nan", 1, misaligned=True), 0)
    values.fill([case])
    assert not any_touched(case)
    for place in (case.offsets[0] - 1, case.offsets[1] + 5, case.offsets[1] + 4000):
        kept = int(case.arena.bytes[place])
        case.arena.bytes[place] = kept ^ 1
        assert any_touched(case)
        case.arena.bytes[place] = kept


def test_an_arena_grows_only_after_the_worker_gave_it_up() -> None:
    memory = Memory()
    attached: list[torch.Tensor] = []

    def detach() -> None:
        memory.detach(attached.pop())

    arena = DeviceArena(memory, detach)
    attached.append(memory.attach(arena.handle, arena.size))
    first = arena.handle
    arena.reserve(arena.size)
    arena.commit()  # would fail if it freed first
    assert arena.handle != first
    assert arena.size >= arena.used > arena.size - (64 << 20)
    assert list(memory.owned) == [arena.handle]
    attached.append(memory.attach(arena.handle, arena.size))
    arena.shrink(1 << 30)
    assert attached
    arena.shrink(0)
    assert not memory.owned
    arena.reset()
    arena.reserve(100)
    arena.commit()
    assert arena.size > 100


def test_a_copy_is_made_once_for_what_was_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    ground = worker.process.ground
    worker.arena.reserve(1000)
    worker.arena.commit()
    worker.arena.bytes[GUARD_BYTES : GUARD_BYTES + 1000] = 7
    where = {**worker.arena.publish(), "device": DEVICE}
    first = ground.open(where)
    assert ground.open(where) is first
    assert first.data_ptr() != ground.arena.bytes.data_ptr()
    first[GUARD_BYTES] = 9
    ground.close()
    assert int(worker.arena.bytes[GUARD_BYTES]) == 9
    assert ground.open({**worker.arena.publish(), "device": DEVICE}) is not first


def test_guarded_memory_is_poisoned_laid_out_as_asked_and_watched() -> None:
    module = types.ModuleType("kernel")
    module._empty, module._strided = guards._empty_strided_cpu, torch.empty_strided  # type: ignore[attr-defined]
    natives = torch.empty, torch.empty_strided, torch.empty_like, guards._empty_strided_cpu
    zones = Zones(torch.device("cpu"))
    with guarding(module, zones):
        made = [
            module._empty((3, 5), (1, 3), torch.float32),
            module._strided((3, 5), (1, 3), dtype=torch.float32, device="cpu"),
            torch.empty_strided((3, 5), (1, 3), dtype=torch.float32),
            torch.empty(3, 5),
            torch.empty((3, 5), dtype=torch.float32),
            torch.empty_like(torch.zeros(3, 5)),
        ]
        assert torch.empty(2, pin_memory=False).shape == (2,)  # whatever is not plain is torch's
        assert torch.empty(0, 4).shape == (0, 4)
    assert natives == (torch.empty, torch.empty_strided, torch.empty_like, guards._empty_strided_cpu)
    assert module._empty is natives[3]
    assert [t.stride() for t in made] == [(1, 3)] * 3 + [(5, 1)] * 3
    assert all(t.isnan().all() and t.dtype == torch.float32 for t in made)
    zones.settle()
    assert not zones.violated()
    for at in (-1, 15, 15 + ZONE_BYTES // 4 - 1):
        with guarding(module, zones):
            x = torch.empty(15)
        x.as_strided((1,), (1,), x.storage_offset() + at)[0] = 1.0
        zones.settle()
        assert zones.violated()
    assert not zones.violated()


DRIFTS = """
global n
n += 1
return (torch.relu(args[0] + args[1]) + (n > 15),)
"""


def stopwatch(one: Job, monkeypatch: pytest.MonkeyPatch, *, large: bool) -> tuple[Stopwatch, list[Worker]]:
    """It, and the kernel's process and eager's. `large`: what is timed lies in the device's memory."""
    workers, one = [Worker(), Worker()], replace(one, flags=EagerFlags.now())
    for worker in workers:
        worker.shares_memory = large
        monkeypatch.setattr(worker.process, "_use_device", lambda message: None)
    values = values_of(one, workers[0], monkeypatch, large=large)
    monkeypatch.setattr(timing, "_DEVICE_RING_BYTES", 16 << 20)
    monkeypatch.setattr(timing, "_CHECKED_SHARE", 1.0)
    return Stopwatch(*workers, one, values, HostCeiling()), workers  # type: ignore[arg-type]


@SIZES
def test_outputs_of_timed_calls_are_checked(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    right = job(add_relu(), RIGHT, trusted=False, timing_budget_s=0.01)
    watch, _ = stopwatch(right, monkeypatch, large=large)
    assert watch.measure().kernel_us > 0
    wrong = job(add_relu(), DRIFTS, top="n = 0", trusted=False, timing_budget_s=0.01)
    watch, _ = stopwatch(wrong, monkeypatch, large=large)
    with pytest.raises(Failed, match="while timed") as failed:
        watch.measure()
    assert failed.value.outcome is Outcome.WRONG


def test_no_call_of_a_run_finds_what_another_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(add_relu(20_000), RIGHT, trusted=False, timing_budget_s=0.001)
    watch, workers = stopwatch(one, monkeypatch, large=True)
    watch.measure()
    for worker in workers:
        (laid,) = [m["layout"] for m in worker.asked if m["op"] == "lay"]
        assert laid["sets"] > 20
        runs = [m for m in worker.asked if m["op"] == "timed"]
        assert len(runs) > 24
        assert len({m["count"] for m in runs}) > 3
        assert all(0 <= m["first"] <= m["first"] + m["count"] <= laid["sets"] for m in runs)


def test_constants_of_a_device_become_the_hosts() -> None:
    s = contiguous("float32", 5)
    full = op("aten.full.default", s, (5,), 2.0, device=TorchConst("device('cuda')"), dtype=TorchConst("torch.float32"))
    sub = on_host(single("aten.relu.default", s, s))
    assert sub == single("aten.relu.default", s, s)
    moved = on_host(type(sub)((), (), (full,), (0,)))
    assert torch.equal(reference(moved)()[0], torch.full((5,), 2.0))


def test_a_device_is_had_alone_or_with_others(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with device_lock(path, alone=False, timeout_s=0) as first, device_lock(path, alone=False, timeout_s=0) as second:
        assert first
        assert second
        with device_lock(path, alone=True, timeout_s=0.01) as third:
            assert not third
    with device_lock(path, alone=True, timeout_s=0) as alone, device_lock(path, alone=False, timeout_s=0.01) as other:
        assert alone
        assert not other
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with device_lock(path, alone=True, timeout_s=0) as held:
        assert not held


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"""
import time
from pathlib import Path
from akg_dynamo.agents.verifier.device_lock import device_lock
with device_lock(Path({str(path)!r}), alone=True, timeout_s=0) as held:
    print(held, flush=True)
    time.sleep(60)
"""
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"True\n"
    with device_lock(path, alone=True, timeout_s=0) as held:
        assert not held
    program.kill()
    program.wait()
    program.stdout.close()
    with device_lock(path, alone=True, timeout_s=1) as held:
        assert held


def test_a_kernel_on_several_devices_is_not_judged() -> None:
    here, there = contiguous("float32", 4), replace(contiguous("float32", 4), device="cuda")
    assert job(single("aten.add.Tensor", there, here, there), RIGHT).device == ""
    assert job(single("aten.relu.default", there, there), RIGHT).device == "cuda"
    assert job(single("aten.relu.default", here, replace(here, device="cpu")), RIGHT).device == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_nothing_is_judged_on_one() -> None:
    there = replace(contiguous("float32", 4), device="cuda")
    with Judge() as one:
        one.warm("cuda")
        verdicts = one.judge([job(single("aten.relu.default", there, there), RIGHT), job(add_relu(), RIGHT)])
    assert [v.outcome for v in verdicts] == [Outcome.NOT_JUDGED, Outcome.RIGHT]
    assert "no access to the device" in verdicts[0].detail


def test_what_has_no_room_for_eager_is_judged_in_slices_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sub = row_sum(20_000, 64)
    group = plan.Group({}, "normal", 1, sampled=True, pieces=True)
    for body, wrong in (("return (args[0].sum(1),)", ""), ("y = args[0].sum(1); y[777] += 1; return (y,)", "[777]")):
        worker = Worker()
        judged = values_of(job(sub, body), worker, monkeypatch, large=True)
        with torch.no_grad():
            if wrong:
                with pytest.raises(Failed, match="777"):
                    judged.hold([group])
            else:
                judged.hold([group])
                assert "slices of 312 of its 20000 rows" in judged.checked[0]
