"""No verdict depends on chance: right kernels are right by every seed, and wrong ones wrong."""

from __future__ import annotations

import fcntl
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
import torch

from akg_dynamo.agents.verifier import Job, Judge, degenerate, plan
from akg_dynamo.agents.verifier.arena import Arena, typed
from akg_dynamo.agents.verifier.behaviour import Behaviour
from akg_dynamo.agents.verifier.inputs import Drawer
from akg_dynamo.agents.verifier.numerics import Contract, Expected, Rule
from akg_dynamo.agents.verifier.sandbox import scratch
from akg_dynamo.agents.verifier.timing import Stopwatch
from akg_dynamo.agents.verifier.values import Values
from akg_dynamo.agents.verifier.worker import _store, dtype_of
from akg_dynamo.agents.verifier.workers import Failed
from akg_dynamo.cache.flags import EagerFlags
from akg_dynamo.core.types import Candidate, Outcome, Ref, Subgraph, Trick

from .kernels import assert_wrong, candidate, contiguous, op, single

Run = Callable[..., torch.Tensor]
SQUARE = contiguous("float32", 64, 64)
DRAWER = Drawer()
SEEDS = range(20)


class InProcess:
    """A worker whose candidate is a function of this process. `watched`: what it returns while it is watched."""

    arenas: ClassVar[list[Arena]] = []

    def __init__(self, run: Run, watched: Run | None = None) -> None:
        self.function, self.watched = run, watched or run
        self.arena = Arena.create()
        self.arenas.append(self.arena)
        self.alive = True

    def send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        self.cases = message["cases"]

    def answer(self, timeout_s: float) -> dict[str, Any]:
        return {"answers": [[self._call(self.function, case, at) for at in case["outputs"]] for case in self.cases]}

    def ask(self, message: dict[str, Any], timeout_s: float, blob: bytes = b"") -> dict[str, Any]:
        assert message["op"] == "watched"
        answer = self._call(self.watched, message["case"], message["case"]["outputs"][0])
        return {**answer, "launches": 1, "computed": []}

    def end(self) -> None:
        self.alive = False

    def _call(self, run: Run, case: dict[str, Any], places: list[list[int]]) -> dict[str, Any]:
        tensors = []
        for spec in case["inputs"]:
            flat = typed(self.arena.bytes, spec["offset"], spec["elements"], dtype_of(spec["dtype"]))
            tensors.append(flat.as_strided(spec["shape"], spec["stride"], flat.storage_offset()).clone())
        return _store((run(*tensors),), places, self.arena.bytes)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def files_are_closed() -> Iterator[None]:
    yield
    for arena in InProcess.arenas:
        arena.close()
    InProcess.arenas.clear()


def values(sub: Subgraph, seed: int, run: Run = torch.relu) -> Values:
    job = Job(sub, candidate("pass"), seed=seed, trusted=False)
    return Values(DRAWER, InProcess(run), job, plan.means(sub, "cpu", 1 << 30), [])  # type: ignore[arg-type]


def behaviour(sub: Subgraph, seed: int, run: Run, watched: Callable[[str, int], Run] | None = None) -> Behaviour:
    judged = values(sub, seed, run)

    def start(watch: tuple[str, int] | None) -> tuple[Any, Values]:
        worker: Any = InProcess(run, watched(*watch) if watched is not None and watch is not None else None)
        return worker, judged.in_another(worker)

    return Behaviour(judged.job, judged, start, lambda: pytest.fail("nothing is interpreted here"))


def after_product(target: str) -> Subgraph:
    """Of x @ y."""
    product = op("aten.mm.default", SQUARE, Ref(0), Ref(1))
    return Subgraph((SQUARE, SQUARE), (), (product, op(target, SQUARE, Ref(2))), (3,))


def is_positive(n: int) -> Subgraph:
    """Whether the sum of n numbers is."""
    total = op("aten.sum.default", contiguous("float32"), Ref(0))
    return Subgraph(
        (contiguous("float32", n),), (), (total, op("aten.gt.Scalar", contiguous("bool"), Ref(1), 0.0)), (2,)
    )


def product_backwards(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As accurate as x @ y, and rounded differently."""
    return x.flip(1).contiguous() @ y.flip(0).contiguous()


@pytest.mark.parametrize("n", [1000, 40_000, 500_000, 600_000])
def test_no_two_draws_are_the_same(n: int) -> None:
    drawn = [DRAWER._floats(n, torch.float32, "normal", random.Random(i), torch.device("cpu"), 1) for i in range(12)]
    same = [(i, k) for i in range(12) for k in range(i) if torch.equal(drawn[i], drawn[k])]
    assert same == []


@pytest.mark.parametrize("n", [1, 64])
def test_a_task_with_few_outcomes_is_not_degenerate(n: int) -> None:
    for seed in SEEDS:
        judged = values(is_positive(n), seed)
        assert degenerate.passes_unseen(judged, plan.Group({}, "normal", 1, 16.0)) is None, seed


def test_a_task_that_zeros_solve_is_degenerate() -> None:
    scalar = contiguous("float32", 1)
    centred = Subgraph(
        (scalar,),
        (),
        (op("aten.mean.dim", scalar, Ref(0), (0,), True), op("aten.sub.Tensor", scalar, Ref(0), Ref(1))),
        (2,),
    )
    assert degenerate.passes_unseen(values(centred, 0), plan.Group({}, "normal", 1, 16.0)) == "an output of zeros"


SINGULAR: dict[str, tuple[Subgraph, Callable[[torch.Tensor], torch.Tensor]]] = {
    "reciprocal": (after_product("aten.reciprocal.default"), torch.reciprocal),
    "tangent": (after_product("aten.tan.default"), torch.tan),
    "logarithm": (
        Subgraph(
            (SQUARE, SQUARE),
            (),
            (
                op("aten.mm.default", SQUARE, Ref(0), Ref(1)),
                op("aten.abs.default", SQUARE, Ref(2)),
                op("aten.log.default", SQUARE, Ref(3)),
            ),
            (4,),
        ),
        lambda product: product.abs().log(),
    ),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_near_a_singularity_no_call_of_many_is_unlucky(name: str) -> None:
    sub, function = SINGULAR[name]
    for seed in range(3):
        looked_at = behaviour(sub, seed, lambda x, y: function(product_backwards(x, y)))
        looked_at._again()
        looked_at._sealed()


@pytest.mark.parametrize("name", SINGULAR)
def test_near_a_singularity_who_drifts_is_still_seen(name: str) -> None:
    sub, function = SINGULAR[name]
    calls = 0

    def drifts(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return function(product_backwards(x, y) if calls < 6 else (x.half() @ y.half()).float())

    with pytest.raises(Failed, match="of one series") as failed:
        behaviour(sub, 0, drifts)._again()
    assert failed.value.tricks == (Trick.DRIFTS,)


@pytest.mark.parametrize("kind", ["inf", "nan", "normal", "low rank"])
def test_near_a_singularity_no_kind_of_inputs_is_unlucky(kind: str) -> None:
    sub, function = SINGULAR["reciprocal"]
    for seed in SEEDS:
        judged = values(sub, seed, lambda x, y: function(product_backwards(x, y)))
        judged.hold([plan.Group({}, kind, 1)])


@pytest.mark.parametrize(
    ("sub", "right"),
    [
        (is_positive(16), lambda x: x.sum() > 0),
        (single("aten.argmax.default", contiguous("int64"), SQUARE), torch.argmax),
    ],
    ids=["bool", "index"],
)
def test_without_its_kernels_nothing_is_right_twice_by_chance(sub: Subgraph, right: Run) -> None:
    nothing = torch.zeros((), dtype=getattr(torch, sub.output_specs[0].dtype))
    for seed in SEEDS:
        behaviour(sub, seed, right, lambda mode, key: lambda x: nothing)._without_kernels()
        with pytest.raises(Failed, match="when its kernels do nothing"):
            behaviour(sub, seed, right)._without_kernels()


def enciphered(x: torch.Tensor, key: int) -> torch.Tensor:
    return (x.contiguous().view(torch.uint8) ^ key).view(x.dtype)


@pytest.mark.parametrize(
    ("sub", "right"),
    [
        (is_positive(1), lambda x: x.sum() > 0),
        (single("aten.gt.Scalar", contiguous("bool", 200), contiguous("float32", 200), extra=(0.0,)), lambda x: x > 0),
        (single("aten.logical_not.default", contiguous("bool", 9), contiguous("bool", 9)), lambda x: x == 0),
        (single("aten.argmax.default", contiguous("int64"), contiguous("float32", 8)), torch.argmax),
    ],
    ids=["sign", "signs", "bools", "index"],
)
def test_by_no_key_does_noise_leave_enough_to_compute_with(sub: Subgraph, right: Run) -> None:
    for seed in SEEDS:
        hides = behaviour(sub, seed, right, lambda mode, key: lambda x: right(enciphered(x, key)))
        with pytest.raises(Failed, match="computes with its inputs"):
            hides._sealed()


# -- what lies in memory, and beside it -------------------------------------------------------------------------------

N = 1000


def beyond(name: str) -> str:
    """That tensor of N elements as one of whole blocks."""
    return f"{name}.as_strided((1024,), (1,), {name}.storage_offset())"


def binary(target: str, dtype: str) -> Subgraph:
    s = contiguous(dtype, N)
    return single(target, s, s, s)


WHOLE_BLOCKS = "x, y = args; z = torch.empty_like(x); torch.{}({}, {}, out={}); return (z,)"
LEAVES_WHAT_WAS_THERE = {
    "NaN and NaN are the NaN that was there": (
        binary("aten.add.Tensor", "float32"),
        WHOLE_BLOCKS.format("add", beyond("x"), beyond("y"), beyond("z")),
        "wrote past an end of memory it allocated",
    ),
    "-1 and -1 are the -1 that was there": (
        binary("aten.bitwise_and.Tensor", "int32"),
        WHOLE_BLOCKS.format("bitwise_and", beyond("x"), beyond("y"), beyond("z")),
        "wrote past an end of memory it allocated",
    ),
    "writes what is not -1": (
        single("aten.sign.default", contiguous("int32", N), contiguous("int32", N)),
        "x, = args; z = torch.empty_like(x); z[x >= 0] = torch.sign(x)[x >= 0]; return (z,)",
        "holds what its memory held",
    ),
}


@pytest.mark.parametrize("name", LEAVES_WHAT_WAS_THERE)
def test_what_is_written_may_be_what_was_there(judge: Judge, name: str) -> None:
    sub, body, reason = LEAVES_WHAT_WAS_THERE[name]
    assert_wrong(judge, sub, body, reason)


ROW_SUMS = single("aten.sum.dim_IntList", contiguous("float32", 64), contiguous("float32", 64, 512), extra=((1,),))
IN_ORDER_OF_ARRIVAL = """
import random
def run(x):
    order = random.sample(range(8), 8)
    total = torch.zeros(64)
    for part in order:
        total = total + x.view(64, 8, -1)[:, part].sum(1)
    return (total,)
"""


def test_threads_may_add_up_in_the_order_in_which_they_arrive(judge: Judge) -> None:
    sub = ROW_SUMS
    kernel = Candidate("k", f"import torch\n{IN_ORDER_OF_ARRIVAL}", "cpp")
    verdicts = judge.judge([Job(sub, kernel, seed=seed) for seed in range(10)])
    assert {v.outcome for v in verdicts} == {Outcome.RIGHT}, [v.detail for v in verdicts]
    assert all("not the same in every call, and right in each" in " ".join(v.checked) for v in verdicts)
    other = IN_ORDER_OF_ARRIVAL.replace("return (total,)", "return (total + random.choice((0, 0.1)),)")
    verdicts = judge.judge([Job(sub, replace(kernel, source=f"import torch\n{other}"), seed=s) for s in range(10)])
    assert {v.outcome for v in verdicts} == {Outcome.WRONG}


@pytest.mark.parametrize("deterministic", [True, False])
def test_who_asks_for_deterministic_algorithms_gets_no_other(judge: Judge, deterministic: bool) -> None:
    sub = ROW_SUMS
    flags = replace(EagerFlags.now(), deterministic=deterministic)
    kernel = Candidate("k", f"import torch\n{IN_ORDER_OF_ARRIVAL}", "cpp")
    verdicts = judge.judge([Job(sub, kernel, seed=seed, flags=flags) for seed in range(4)])
    assert {v.tricks for v in verdicts} == {(Trick.DRIFTS,) if deterministic else ()}, [v.detail for v in verdicts]
    in_order = replace(kernel, source=kernel.source.replace("random.sample(range(8), 8)", "range(8)"))
    (verdict,) = judge.judge([Job(sub, in_order, flags=flags)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail


@pytest.mark.parametrize("kind", ["huge", "normal"])
def test_roundings_decide_what_is_just_in_range(kind: str) -> None:
    s = contiguous("float16", 64, 64)
    sub = Subgraph(
        (s, s, s), (), (op("aten.mul.Tensor", s, Ref(0), Ref(1)), op("aten.mul.Tensor", s, Ref(3), Ref(2))), (4,)
    )
    for seed in range(150):
        values(sub, seed, lambda x, y, z: x * (y * z)).hold([plan.Group({}, kind, 1)])
    with pytest.raises(Failed, match=r"65504\.0, eager inf"):
        values(sub, 0, lambda x, y, z: ((x * y) * z).clamp(-65504, 65504)).hold([plan.Group({}, "huge", 1)])


def test_one_error_of_eagers_that_is_nearly_none_says_nothing() -> None:
    for n, hopeless in ((1, False), (64, True)):
        eager = torch.ones(n) + 1e-6
        contract = Contract(Rule.BOUNDED, 0.0, 1.0)
        contract.add(0, torch.ones(n) * 1.5, Expected(eager, torch.ones(n).double()), "")
        assert contract.finish() is not None
        assert contract.hopeless is hopeless


# -- what others do meanwhile -----------------------------------------------------------------------------------------


def test_a_new_judges_folder_is_not_swept_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By another that begins between the folder and its lock."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock, others = fcntl.flock, iter([scratch.sweep])

    def flock(fd: int, how: int) -> None:
        if how == fcntl.LOCK_SH:
            next(others, lambda: None)()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = scratch.make()
    assert Path(folder).is_dir()
    scratch.sweep()
    assert Path(folder).is_dir()


def test_what_eagers_process_does_wrong_is_not_the_candidates_doing() -> None:
    for failed in (
        Failed(Outcome.TIMED_OUT, "no answer in 30 s", Trick.EXHAUSTS),
        Failed(Outcome.WRONG, "while timed: RuntimeError: the matrix is not invertible"),
        Failed(Outcome.CRASHED, "killed by SIGKILL", Trick.EXHAUSTS),
    ):
        watch = Stopwatch.__new__(Stopwatch)
        watch._turn = lambda side: None  # type: ignore[method-assign]
        watch._where = lambda side: {}  # type: ignore[method-assign]
        watch.rng, watch.threads, watch.called, watch.most_seen = random.Random(0), None, 0, 1
        watch._ask = Mock(side_effect=failed)  # type: ignore[method-assign]
        ring = SimpleNamespace(n_sets=4, freshen=lambda first, count: None)
        for is_kernel, outcome in ((True, failed.outcome), (False, Outcome.NOT_JUDGED)):
            side: Any = SimpleNamespace(ring=ring, process=None, is_kernel=is_kernel)
            with pytest.raises(Failed) as said:
                watch._round(side, 1)
            assert said.value.outcome is outcome
            assert bool(said.value.tricks) == (is_kernel and bool(failed.tricks))
