"""The judge on a CUDA device: right kernels pass, wrong ones fail for their reason, and whatever breaks ends a worker.

pytest -m gpu tests/gpu/test_judge_cuda.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from akg_dynamo.agents.verifier import Job, Judge, shut_down
from akg_dynamo.agents.verifier.cuda_memory import CudaMemory, start
from akg_dynamo.core.types import (
    Arg,
    Candidate,
    Dim,
    OpNode,
    Outcome,
    Ref,
    Subgraph,
    Symbol,
    TensorSpec,
    TorchConst,
    Trick,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(120),
]

TRITON = """
import triton
import triton.language as tl
"""

ADD_RELU = (
    TRITON
    + """
@triton.jit
def add_relu(a, b, y, n, stored, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(a + i, i < n) + tl.load(b + i, i < n)
    x = tl.where(x != x, x, tl.maximum(x, 0.0))
    tl.store(y + i, x, i < stored)
"""
)
LAUNCH = """
a, b = args
y = torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="cuda")
n = y.numel()
add_relu[(triton.cdiv(n, 1024),)](a, b, y, n, {stored}, BLOCK=1024)
return (y,)
"""
TORCH = "return (torch.relu(args[0] + args[1]),)"


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as one:
        one.warm("cuda")
        one.wait_ready()
        yield one
    shut_down()


def spec(dtype: str, *shape: Dim) -> TensorSpec:
    stride: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        stride.insert(0, step)
        step = step * d if isinstance(step, int) and isinstance(d, int) else f"({step})*({d})"
    return TensorSpec(dtype, shape, tuple(stride), "cuda")


def single(target: str, out: TensorSpec, *inputs: TensorSpec, extra: tuple[Arg, ...] = ()) -> Subgraph:
    refs = tuple(Ref(i) for i in range(len(inputs)))
    return Subgraph(inputs, (), (OpNode(target, (*refs, *extra), (), out),), (len(inputs),))


def add_relu(n: int, dtype: str = "float32") -> Subgraph:
    s = spec(dtype, n)
    add = OpNode("aten.add.Tensor", (Ref(0), Ref(1)), (), s)
    return Subgraph((s, s), (), (add, OpNode("aten.relu.default", (Ref(2),), (), s)), (3,))


def row_sum(rows: int, columns: int) -> Subgraph:
    return single("aten.sum.dim_IntList", spec("float32", rows), spec("float32", rows, columns), extra=((1,),))


def dynamic_softmax() -> Subgraph:
    s = spec("float32", "s0", "s1")
    node = OpNode("aten._softmax.default", (Ref(0), -1, False), (), s)
    return Subgraph((s,), (Symbol("s0", 2, None, 12), Symbol("s1", 2, 4096, 200)), (node,), (1,))


def embedding() -> Subgraph:
    table, index = spec("float32", 50, 8), spec("int64", 7)
    return single("aten.embedding.default", spec("float32", 7, 8), table, index)


def made_here() -> Subgraph:
    """Adds a tensor that the graph itself makes on the device."""
    s = spec("float32", 500)
    options: tuple[tuple[str, Arg], ...] = (
        ("device", TorchConst("device('cuda')")),
        ("dtype", TorchConst("torch.float32")),
    )
    nodes = (OpNode("aten.full.default", ((500,), 2.0), options, s), OpNode("aten.mul.Tensor", (Ref(0), Ref(1)), (), s))
    return Subgraph((s,), (), nodes, (2,))


def job(sub: Subgraph, body: str, top: str = "", **options: object) -> Job:
    source = (
        f"import torch\n{textwrap.dedent(top)}\ndef run(*args):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
    )
    return Job(sub, Candidate("k", source, "triton_cuda"), **options)  # type: ignore[arg-type]


def slices() -> Subgraph:
    """Adds one step of two long sequences: few elements that lie far apart."""
    step = TensorSpec("float32", (4, 3072, 16), (3072 * 512 * 16, 512 * 16, 1), "cuda")
    out = spec("float32", 4, 3072, 16)
    return single("aten.add.Tensor", out, step, step)


SMALL, LARGE = 1000, (1 << 22) + 77

GOOD = {
    "torch, small": job(add_relu(SMALL), TORCH),
    "torch, large": job(add_relu(LARGE), TORCH),
    "torch, bf16": job(
        add_relu(SMALL, "bfloat16"), "return (torch.relu(args[0].float() + args[1].float()).bfloat16(),)"
    ),
    "triton, small": job(add_relu(SMALL), LAUNCH.format(stored="n"), ADD_RELU),
    "triton, large": job(add_relu(LARGE), LAUNCH.format(stored="n"), ADD_RELU),
    "another order": job(row_sum(300, 3000), "return (args[0].flip(1).sum(1),)"),
    "another order, a scalar": job(row_sum(1, 100_000), "return (args[0].flip(1).sum(1),)"),
    "symbolic": job(dynamic_softmax(), "return (torch.softmax(args[0].double(), -1).float(),)"),
    "indices": job(embedding(), "return (args[0][args[1]],)"),
    "slices of large tensors": job(slices(), "return ((args[0] + args[1]).contiguous(),)"),
    "makes a tensor": job(made_here(), "return (args[0] * 2,)"),
    "float64": job(single("aten.exp.default", spec("float64", 3000), spec("float64", 3000)), "return (args[0].exp(),)"),
    "empty": job(add_relu(0), TORCH),
}


@pytest.mark.parametrize("name", GOOD)
def test_right_kernels_pass(judge: Judge, name: str) -> None:
    (verdict,) = judge.judge([GOOD[name]])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail


@pytest.mark.parametrize("name", ["triton, small", "triton, large"])
def test_right_kernels_pass_in_a_process_of_their_own(judge: Judge, name: str) -> None:
    (verdict,) = judge.judge([replace(GOOD[name], trusted=False)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail


@pytest.mark.parametrize("trusted", [True, False])
def test_who_is_judged_is_confined_there_too(judge: Judge, trusted: bool) -> None:
    (verdict,) = judge.judge([replace(GOOD["triton, small"], trusted=trusted)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail
    spared = {"processes without end"} if trusted else set()
    assert {m.against for m in verdict.protection.missing} == spared, verdict.protection
    assert "CUDA does not start" not in str(verdict.protection)


def test_kernels_by_rules_build_and_race_where_they_are_confined(judge: Judge, tmp_path: Path) -> None:
    body = """
    import os
    with open(BUILD_DIR + "/built", "a") as f:
        f.write("x")
    try:
        open(os.path.dirname(BUILD_DIR) + "/elsewhere", "w")
    except PermissionError:
        return (torch.relu(args[0] + args[1]),)
    """
    built = tmp_path / "objects"
    for _ in range(2):
        one = job(add_relu(SMALL), body, build_dir=built)
        (verdict,) = judge.judge([one])
        assert verdict.outcome is Outcome.RIGHT, verdict.detail
        costs = judge.race(one, [Candidate("again", one.candidate.source + "#", "triton_cuda")]).result(timeout=60)
        assert max(costs) < 1
        assert (built / "built").read_text()
        shutil.rmtree(built)  # as when the cache is cleared


BESIDE = """
y = torch.relu(args[0] + args[1])
args[{0}].as_strided((1,), (1,), args[{0}].storage_offset() + {1})[0] = 1.0
return (y,)
"""
WRONG = {
    "off by one": ("return (torch.relu(args[0] + args[1].roll(1)),)", ""),
    "missing tail": (LAUNCH.format(stored="n - 40"), "nan"),
    "stale tail": ("y = torch.empty_like(args[0]); y[:-9] = torch.relu(args[0] + args[1])[:-9]; return (y,)", "nan"),
    "ten bits of mantissa": (
        "a = (args[0].view(torch.int32) & ~0x1FFF).view(torch.float32); return (torch.relu(a + args[1]),)",
        "error",
    ),
    "loses NaN": ("x = args[0] + args[1]; return (torch.where(x > 0, x, 0.0),)", "eager nan"),
    "past the end of its output": (LAUNCH.format(stored="n + 5"), "wrote past an end of memory it allocated"),
    "past the end of an input": (BESIDE.format(1, "args[1].numel()"), "wrote past an end of input 1"),
    "before an input": (BESIDE.format(0, "-1"), "wrote past an end of input 0"),
    "into an input": ("args[0].add_(args[1]); return (torch.relu(args[0]),)", "wrote into input 0"),
    "another answer each time": ("global n; n += 1; return (torch.relu(args[0] + args[1] + n * 1e-3),)", "again"),
    "on the host": ("return (torch.relu(args[0] + args[1]).cpu(),)", "device cpu, must be cuda"),
    "raises": ("raise ValueError('no')", "ValueError: no"),
}


@pytest.mark.parametrize("n", [SMALL, LARGE])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernels_fail_with_their_reason(judge: Judge, name: str, n: int) -> None:
    body, reason = WRONG[name]
    (verdict,) = judge.judge([job(add_relu(n), body, ADD_RELU + "n = 0")])
    assert verdict.outcome is Outcome.WRONG, verdict
    assert reason in verdict.detail


@pytest.mark.parametrize(("trusted", "outcome"), [(True, Outcome.NOT_JUDGED), (False, Outcome.WRONG)])
def test_who_allocates_without_end_is_stopped(judge: Judge, trusted: bool, outcome: Outcome) -> None:
    body = "kept = []\nwhile True: kept.append(torch.zeros(1 << 26, device='cuda'))"
    (verdict,) = judge.judge([job(add_relu(SMALL), body, trusted=trusted)])
    assert verdict.outcome is outcome
    assert "OutOfMemoryError" in verdict.detail


def test_a_symbolic_kernel_is_judged_at_its_boundaries(judge: Judge) -> None:
    body = "x = torch.softmax(args[0], -1); x[..., 1024:] = 0; return (x,)"
    (verdict,) = judge.judge([job(dynamic_softmax(), body)])
    assert verdict.outcome is Outcome.WRONG
    assert "s1" in verdict.detail


FAR = (
    TRITON
    + """
@triton.jit
def far(a):
    tl.store(a + (tl.program_id(0).to(tl.int64) + 1) * (1 << 40), 1.0)
"""
)
BROKEN = {
    "illegal address": ("far[(1,)](args[0]); " + TORCH, Outcome.CRASHED, "illegal memory access"),
    "device assertion": (
        "torch.zeros(3, device='cuda')[torch.tensor([5], device='cuda')]; " + TORCH,
        Outcome.CRASHED,
        "assert",
    ),
    "hangs": ("torch.cuda._sleep(1 << 62); " + TORCH, Outcome.TIMED_OUT, "3 s"),
    "dies": ("import os; os._exit(0)", Outcome.CRASHED, "status 0"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("trusted", [True, False])
def test_what_breaks_is_a_verdict_and_the_next_one_is_judged(judge: Judge, name: str, trusted: bool) -> None:
    body, outcome, detail = BROKEN[name]
    bad = job(add_relu(SMALL), body, FAR, trusted=trusted, timeout_s=3.0)
    broken, good = judge.judge([bad, GOOD["triton, small"]])
    assert broken.outcome is outcome, broken
    assert detail in broken.detail
    assert name != "illegal address" or broken.tricks == (Trick.OUT_OF_BOUNDS,)
    assert good.outcome is Outcome.RIGHT, good.detail


def test_real_gain_and_real_loss(judge: Judge) -> None:
    s = spec("float32", 1 << 24)
    chain = [OpNode("aten.add.Tensor", (Ref(0), 1.0), (), s)]
    chain += [OpNode("aten.mul.Tensor", (Ref(i), 1.5), (), s) for i in range(1, 4)]
    sub = Subgraph((s,), (), tuple(chain), (4,))
    options = {"want_values": False, "want_timing": True}
    fast, slow = "return (torch.add(args[0], 1.0),)", "x = args[0]\nfor _ in range(9): x = x + 1.0\nreturn (x,)"
    for trusted in (True, False):
        win, lost = judge.judge(
            [job(sub, fast, trusted=trusted, **options), job(sub, slow, trusted=trusted, **options)]
        )
        if not trusted:  # whose outputs are checked while it is timed
            assert win.outcome is lost.outcome is Outcome.WRONG
            assert "while timed" in win.detail
            continue
        assert win.timing is not None
        assert win.timing.wins()
        assert 2 < win.timing.ratio < 6
        assert 2 < win.timing.eager_device_us / win.timing.kernel_device_us < 6
        assert lost.timing is not None
        assert not lost.timing.wins()


def test_an_untrusted_kernel_is_timed_by_the_judges_clock(judge: Judge) -> None:
    top = "import time\nreal = time.sleep\ntime.perf_counter = lambda: 0.0"
    for body, wins in (("real(0.002); " + TORCH, False), (TORCH, False)):
        (verdict,) = judge.judge([job(add_relu(LARGE), body, top, trusted=False, want_values=False, want_timing=True)])
        assert verdict.timing is not None, verdict
        assert verdict.timing.wins() is wins
        assert ("sleep" in body or "real" in body) == (verdict.timing.ratio < 0.5)


def test_eager_has_the_flags_of_this_process(judge: Judge) -> None:
    """A product of numbers rounded to TF32 is as right as eager where eager rounds them too, and nowhere else."""
    s = spec("float32", 256, 1024)
    sub = single("aten.mm.default", spec("float32", 256, 256), s, spec("float32", 1024, 256))
    body = """
    a, b = (((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).double() for x in args)
    return ((a @ b).float(),)
    """
    outcomes = []
    before = torch.get_float32_matmul_precision()
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        outcomes.append(judge.judge([job(sub, body)])[0].outcome)
    torch.set_float32_matmul_precision(before)
    assert outcomes == [Outcome.WRONG, Outcome.RIGHT]


def test_memory_is_shared_between_processes() -> None:
    start(torch.cuda.current_device())
    memory = CudaMemory()
    owned, handle = memory.allocate(1 << 20)
    owned.fill_(3)
    memory.synchronize()
    code = f"""
import torch
from akg_dynamo.agents.verifier.cuda_memory import CudaMemory, start
start({torch.cuda.current_device()})
memory = CudaMemory()
attached = memory.attach(bytes.fromhex({handle.hex()!r}), 1 << 20)
assert int(attached.sum()) == 3 << 20
attached.view(torch.float32)[7] = 5.0
memory.synchronize()
memory.detach(attached)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert float(owned.view(torch.float32)[7]) == 5.0
    memory.free(owned)


def _processes_below(pid: int) -> dict[int, int]:
    """Process id → open files."""
    found: dict[int, int] = {}
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        for child in map(int, children.read().split()):
            found[child] = len(os.listdir(f"/proc/{child}/fd"))
            found |= _processes_below(child)
    return found


def test_nothing_leaks(judge: Judge) -> None:
    jobs = [replace(GOOD[name], want_timing=True, seed=i) for i, name in enumerate(list(GOOD)[:-1])]
    judge.judge(jobs)
    processes, free = _processes_below(judge._process.popen.pid), torch.cuda.mem_get_info()[0]
    judge.judge(jobs * 2)
    assert _processes_below(judge._process.popen.pid) == processes
    assert torch.cuda.mem_get_info()[0] > free - (64 << 20)
