"""Which of several variants of a kernel is kept, with a judge who says what the test tells him."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from akg_dynamo import compiler, tuning
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.verifier import Job
from akg_dynamo.core.errors import JudgeError
from akg_dynamo.core.types import (
    Candidate,
    Design,
    Kernel,
    OpNode,
    Outcome,
    Ref,
    SplitReason,
    SplitReasonType,
    Subgraph,
    Target,
    TensorSpec,
    Timing,
    Verdict,
)
from akg_dynamo.options import Options

SPEC = TensorSpec("float32", (64, 1000), (1000, 1))
SUB = Subgraph((SPEC,), (), (OpNode("aten.relu.default", (Ref(0),), (), SPEC),), (1,))
TILES = (256, 512, 1024)


def tile_in(candidate: Candidate) -> int:
    return next(t for t in TILES if f"= {t}" in candidate.sketch_text)


@dataclass
class ScriptedJudge:
    """speed: by tile size, eager's time over the kernel's. wrong: the tile sizes whose values are wrong.

    raced: the same as a race sees it, if that differs.
    """

    speed: dict[int, float]
    wrong: tuple[int, ...] = ()
    raced: dict[int, float] = field(default_factory=dict)
    fails: bool = False
    races_fail: bool = False
    asked: list[tuple[int, str]] = field(default_factory=list)
    seeds: set[int] = field(default_factory=set)

    def warm(self, device: str) -> None:
        assert device == "cpu"

    def submit(self, job: Job) -> Future[Verdict]:
        if self.fails:
            raise JudgeError("no judge today")
        tile = tile_in(job.candidate)
        self.asked.append((tile, "speed" if job.want_timing else "values"))
        self.seeds.add(job.seed)
        done: Future[Verdict] = Future()
        ratio = self.speed[tile]
        timing = Timing(ratio, ratio * 0.99, ratio * 1.01, 10.0, 10.0 / ratio) if job.want_timing else None
        outcome = Outcome.WRONG if tile in self.wrong and job.want_values else Outcome.RIGHT
        done.set_result(Verdict(outcome, "off by one" if outcome is Outcome.WRONG else "", timing=timing))
        return done

    def race(self, job: Job, rivals: Sequence[Candidate]) -> Future[list[float]]:
        if self.races_fail:
            raise JudgeError("no race today")
        tiles = [tile_in(c) for c in (job.candidate, *rivals)]
        self.asked += [(tile, "race") for tile in tiles]
        done: Future[list[float]] = Future()
        done.set_result([10.0 / (self.raced or self.speed)[tile] for tile in tiles])
        return done


Solve = Callable[..., Kernel | SplitReason]


@pytest.fixture
def solve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Solve:
    """Solves SUB with three variants, the first guess first, before a scripted judge."""

    def designs(sub: Subgraph, target: Target, numerics: str) -> list[Design] | SplitReason:
        made = design(sub, target)
        assert isinstance(made, Design)
        (tile,) = [c for c in made.sketch.constexprs if c.value in TILES]
        return [replace(made, sketch=replace(made.sketch, constexprs=(replace(tile, value=t),))) for t in TILES]

    def run(judge: ScriptedJudge, times: int = 1, **options: object) -> Kernel | SplitReason:
        monkeypatch.setattr(compiler, "warm_judge", lambda: judge)
        chosen = Options(cache_dir=tmp_path / "cache", **options)  # type: ignore[arg-type]
        return compiler.solve([SUB] * times, chosen)[SUB.digest]

    monkeypatch.setattr(compiler, "_designs", designs)
    monkeypatch.setattr(compiler, "_BUILDING_S", 600.0)  # whichever were built in time is not what is tested
    monkeypatch.setattr(compiler, "_TUNING_S", 600.0)
    return run


def tile_of(solution: Kernel | SplitReason) -> int:
    assert isinstance(solution, Kernel), solution
    return tile_in(solution.candidate)


def test_the_fastest_is_kept_and_judged(solve: Solve) -> None:
    judge = ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2})
    kernel = solve(judge)
    assert tile_of(kernel) == 512
    assert isinstance(kernel, Kernel)
    assert kernel.verdict.timing is not None
    assert kernel.verdict.timing.ratio == 2.0
    assert judge.asked.count((512, "values")) == 1
    assert (1024, "values") not in judge.asked
    again = ScriptedJudge({})
    assert tile_of(solve(again)) == 512, "from the cache"
    assert not again.asked


def test_the_first_guess_is_judged_once_when_it_is_the_best(solve: Solve) -> None:
    judge = ScriptedJudge({256: 2.0, 512: 2.01, 1024: 1.2})
    assert tile_of(solve(judge)) == 256, "a gain of half a percent is no reason to judge another"
    assert [a for a in judge.asked if a[1] == "values"] == [(256, "values")]


def test_whoever_is_judged_again_is_judged_on_the_same_inputs(solve: Solve) -> None:
    once, again = (ScriptedJudge(dict.fromkeys(TILES, 2.0)) for _ in range(2))
    solve(once)
    solve(again, numerics="eager")  # of which nothing is in the cache yet
    assert once.asked == again.asked
    assert once.seeds == again.seeds
    assert len(once.seeds) == 1


def test_the_fastest_that_is_right(solve: Solve) -> None:
    assert tile_of(solve(ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.8}, wrong=(512,)))) == 1024


def test_a_wrong_first_guess_is_replaced(solve: Solve) -> None:
    assert tile_of(solve(ScriptedJudge({256: 3.0, 512: 2.0, 1024: 1.8}, wrong=(256,)))) == 512


def test_all_wrong(solve: Solve) -> None:
    reason = solve(ScriptedJudge(dict.fromkeys(TILES, 2.0), wrong=TILES))
    assert isinstance(reason, SplitReason)
    assert reason.kind is SplitReasonType.NOT_RIGHT


def test_none_is_faster_than_eager(solve: Solve) -> None:
    reason = solve(ScriptedJudge(dict.fromkeys(TILES, 0.9)))
    assert isinstance(reason, SplitReason)
    assert reason.kind is SplitReasonType.NO_GAIN


def test_no_time_for_tuning(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_TUNING_S", 0.0)
    judge = ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2})
    assert tile_of(solve(judge)) == 256
    assert judge.asked == [(256, "values"), (256, "speed")]


def test_no_race_after_the_compile_budget(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    later_s = 0.0

    class Slow(ScriptedJudge):
        def submit(self, job: Job) -> Future[Verdict]:
            nonlocal later_s
            later_s += 2000.0
            return super().submit(job)

    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + later_s)
    monkeypatch.setattr(compiler, "time", clock)
    judge = Slow({256: 1.5, 512: 2.0, 1024: 1.2})
    assert tile_of(solve(judge, compile_budget_s=1000.0)) == 256
    assert judge.asked == [(256, "values"), (256, "speed")]


def test_the_gate_correct_measures_nothing(solve: Solve) -> None:
    judge = ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2})
    assert tile_of(solve(judge, gate="correct")) == 256
    assert judge.asked == [(256, "values")]


def test_a_variant_that_does_not_build(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    write = compiler.by_rules.write

    def break_one(sub: Subgraph, made: Design, target: Target, name: str, *, numerics: str) -> object:
        candidate = write(sub, made, target, name, numerics=numerics)
        broken = "= 512" in candidate.sketch_text
        return replace(candidate, source=candidate.source.replace('extern "C"', 'extern "D"')) if broken else candidate

    monkeypatch.setattr(compiler.by_rules, "write", break_one)
    assert tile_of(solve(ScriptedJudge({256: 1.5, 512: 9.0, 1024: 1.7}))) == 1024


def test_without_a_race_the_first_guess_stays(solve: Solve) -> None:
    judge = ScriptedJudge({256: 1.5, 512: 9.0, 1024: 1.7}, races_fail=True)
    assert tile_of(solve(judge)) == 256
    assert judge.asked == [(256, "values"), (256, "speed")]


def test_what_wins_the_race_is_timed_beside_eager_once_more(solve: Solve) -> None:
    judge = ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2})
    solve(judge)
    race = [(tile, "race") for tile in (256, 512, 1024)]
    assert judge.asked == [(256, "values"), (256, "speed"), *race, (512, "values"), (512, "speed")]


def test_what_wins_the_race_and_loses_to_eager_is_not_kept(solve: Solve) -> None:
    judge = ScriptedJudge({256: 1.2, 512: 0.9, 1024: 0.8}, raced={256: 1.0, 512: 1.5, 1024: 0.8})
    kernel = solve(judge)
    assert tile_of(kernel) == 256
    assert isinstance(kernel, Kernel)
    assert kernel.verdict.timing is not None
    assert kernel.verdict.timing.ratio == 1.2
    assert judge.asked[-2:] == [(512, "values"), (512, "speed")]


def test_a_fast_variant_that_is_wrong_is_said(solve: Solve, caplog: pytest.LogCaptureFixture) -> None:
    solve(ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.8}, wrong=(512,)))
    assert "a faster variant of relu is wrong: off by one" in caplog.text


def test_without_a_judge_nothing_is_used_and_nothing_filed(solve: Solve) -> None:
    reason = solve(ScriptedJudge({}, fails=True))
    assert isinstance(reason, SplitReason)
    assert reason.kind is SplitReasonType.NOT_JUDGED
    assert tile_of(solve(ScriptedJudge({256: 1.5, 512: 1.2, 1024: 1.2}))) == 256


# --------------------------------------------------------------------------------------------------------------------
# When one measurement is enough

H200 = Target("cuda", "triton_cuda", "sm_90", "sm_90")
MB = replace(SPEC, shape=(4096, 16384), stride=(16384, 1), device="cuda")  # 256 MiB
LARGE = Subgraph((MB,), (), (OpNode("aten.relu.default", (Ref(0),), (), MB),), (1,))


@pytest.mark.parametrize(
    ("kernel_us", "device_us", "enough"),
    [
        (130.0, 130.0, True),  # 512 MiB in 130 us: what the memory gives
        (260.0, 260.0, False),
        (40.0, 40.0, False),  # faster than memory: not all of it is read
        (300.0, 140.0, True),  # the host takes twice as long
        (130.0, 0.0, False),  # no device's clock
    ],
)
def test_what_has_nothing_to_gain(kernel_us: float, device_us: float, enough: bool) -> None:
    timing = Timing(2.0, 1.9, 2.1, 2 * kernel_us, kernel_us, device_us, device_us)
    assert tuning.has_nothing_to_gain(LARGE, H200, timing) is enough


def test_bytes_are_counted_as_they_lie_in_memory() -> None:
    row = replace(SPEC, stride=(0, 1))
    sub = Subgraph((SPEC, row), (), (OpNode("aten.add.Tensor", (Ref(0), Ref(1)), (), SPEC),), (2,))
    assert tuning.bytes_moved(sub) == 4 * (64_000 + 1_000 + 64_000)


def timing(device_us: float) -> Timing:
    return Timing(2.0, 1.9, 2.1, 2 * device_us, device_us, 2 * device_us, device_us)


SMALL = Subgraph(
    (replace(MB, shape=(64, 64), stride=(64, 1)),),
    (),
    (OpNode("aten.relu.default", (Ref(0),), (), replace(MB, shape=(64, 64), stride=(64, 1))),),
    (1,),
)


def test_what_could_gain_little_of_the_graph_is_not_tuned() -> None:
    shares = tuning.Shares([(LARGE, H200, 1), (SMALL, H200, 1)])
    shares.add(LARGE, timing(260.0))
    assert shares.worth_tuning(LARGE, H200, timing(260.0))
    shares.add(SMALL, timing(5.0))
    assert shares.of(SMALL) == pytest.approx(5 / 265)
    assert not shares.worth_tuning(SMALL, H200, timing(5.0)), "3.5 of 265 us at most"


def test_what_a_graph_has_often_counts_as_often() -> None:
    shares = tuning.Shares([(LARGE, H200, 1), (SMALL, H200, 12)])
    shares.add(LARGE, timing(260.0))
    shares.add(SMALL, timing(5.0))
    assert shares.worth_tuning(SMALL, H200, timing(5.0))


def test_a_launch_takes_its_time_however_little_it_does() -> None:
    shares = tuning.Shares([(SMALL, H200, 1)])
    shares.add(SMALL, timing(1.5))
    assert shares.of(SMALL) == 1.0
    assert not shares.worth_tuning(SMALL, H200, timing(1.5))


def test_what_is_faster_than_memory_does_not_read_all_and_may_gain() -> None:
    shares = tuning.Shares([(LARGE, H200, 1)])
    shares.add(LARGE, timing(40.0))
    assert shares.worth_tuning(LARGE, H200, timing(40.0))


def test_kernels_that_are_not_timed_yet_count_with_their_bytes() -> None:
    shares = tuning.Shares([(LARGE, H200, 1), (SMALL, H200, 1)])
    shares.add(SMALL, timing(5.0))
    assert shares.of(SMALL) < 5 / 100, "LARGE takes more than 100 us"


def test_how_often_a_graph_has_a_subgraph_decides_what_is_tuned_first(
    solve: Solve, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    class Noted(tuning.Shares):
        def __init__(self, kernels: Iterable[tuple[Subgraph, Target, int]]) -> None:
            kernels = list(kernels)
            seen.extend((len(sub.nodes), uses) for sub, _, uses in kernels)
            super().__init__(kernels)

    monkeypatch.setattr(tuning, "Shares", Noted)
    solve(ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2}), times=3)
    assert seen == [(1, 3)]


def test_a_gain_that_is_little_of_the_graph_is_no_reason_to_judge_again() -> None:
    first, other = Candidate("k", "first", "cpp"), Candidate("k", "other", "cpp")
    verdict = Verdict(Outcome.RIGHT, timing=timing(10.0))

    def fastest(share: float) -> Candidate:
        return tuning.fastest(
            first,
            verdict,
            [other],
            race=lambda rivals: [1.0, 0.95],
            judge=lambda candidate: Verdict(Outcome.RIGHT),
            share=share,
        )[0]

    assert fastest(1.0) is other
    assert fastest(0.04) is first


def test_variants_are_not_even_written_where_nothing_can_be_gained(
    solve: Solve, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = compiler.by_rules.write

    def noted(sub: Subgraph, made: Design, target: Target, name: str, *, numerics: str) -> Candidate:
        candidate = write(sub, made, target, name, numerics=numerics)
        written.append(candidate.digest)
        return candidate

    monkeypatch.setattr(compiler.by_rules, "write", noted)
    monkeypatch.setattr(tuning, "has_nothing_to_gain", lambda sub, target, timing: True)
    solve(ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2}))
    assert len(written) == 1


@pytest.fixture
def idle_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variants are built before it is known whether they are wanted."""
    monkeypatch.setattr(compiler.builders, "ready", lambda: True)


def test_variants_that_were_built_in_advance_are_raced(idle_cores: None, solve: Solve) -> None:
    judge = ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2})
    assert tile_of(solve(judge)) == 512
    assert [tile for tile, what in judge.asked if what == "race"] == [256, 512, 1024]


def test_variants_that_were_built_in_vain_are_not(
    idle_cores: None, solve: Solve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "has_nothing_to_gain", lambda sub, target, timing: True)
    judge = ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2})
    assert tile_of(solve(judge)) == 256
    assert judge.asked == [(256, "values"), (256, "speed")]


def test_a_wrong_first_guess_is_replaced_by_one_that_was_built_in_advance(idle_cores: None, solve: Solve) -> None:
    judge = ScriptedJudge({256: 3.0, 512: 2.0, 1024: 1.8}, wrong=(256,))
    assert tile_of(solve(judge)) == 512
    assert [tile for tile, what in judge.asked if what == "race"] == [512, 1024], "the wrong one is out"


def test_what_is_not_built_in_time_is_left_out(idle_cores: None, solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    build, wanted = compiler._build, threading.Event()

    def slow(candidate: Candidate, target: Target, objects: Path) -> None:
        if tile_in(candidate) == 512:
            wanted.wait(600)
        build(candidate, target, objects)

    def when_the_others_are_there(building: Collection[Future[None]], timeout_s: float | None) -> object:
        while sum(not one.done() for one in building) > 1:  # however long the compiler takes
            time.sleep(0.01)
        return wait(building, timeout_s)

    monkeypatch.setattr(compiler, "_build", slow)
    monkeypatch.setattr(compiler, "wait", when_the_others_are_there)
    monkeypatch.setattr(compiler, "_BUILDING_S", 4.0)
    judge = ScriptedJudge({256: 1.5, 512: 9.0, 1024: 1.7})
    try:
        assert tile_of(solve(judge)) == 1024
    finally:
        wanted.set()


def test_one_measurement_where_it_is_enough(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "has_nothing_to_gain", lambda sub, target, timing: True)
    judge = ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2})
    assert tile_of(solve(judge)) == 256
    assert judge.asked == [(256, "values"), (256, "speed")]
