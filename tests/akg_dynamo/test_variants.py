"""Which of several variants of a kernel is kept, with a judge who says what the test tells him."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from akg_dynamo import compiler, tuning
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.verifier import Job
from akg_dynamo.core.errors import JudgeError
from akg_dynamo.core.types import (
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


@dataclass
class ScriptedJudge:
    """speed: by tile size, eager's time over the kernel's. wrong: the tile sizes whose values are wrong."""

    speed: dict[int, float]
    wrong: tuple[int, ...] = ()
    fails: bool = False
    asked: list[tuple[int, str]] = field(default_factory=list)

    def warm(self, device: str) -> None:
        assert device == "cpu"

    def submit(self, job: Job) -> Future[Verdict]:
        if self.fails:
            raise JudgeError("no judge today")
        tile = next(t for t in TILES if f"= {t}" in job.candidate.sketch_text)
        self.asked.append((tile, "speed" if job.want_timing else "values"))
        done: Future[Verdict] = Future()
        ratio = self.speed[tile]
        timing = Timing(ratio, ratio * 0.99, ratio * 1.01, 10.0, 10.0 / ratio) if job.want_timing else None
        outcome = Outcome.WRONG if tile in self.wrong and job.want_values else Outcome.RIGHT
        done.set_result(Verdict(outcome, "off by one" if outcome is Outcome.WRONG else "", timing=timing))
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

    def run(judge: ScriptedJudge, **options: object) -> Kernel | SplitReason:
        monkeypatch.setattr(compiler, "warm_judge", lambda: judge)
        chosen = Options(cache_dir=tmp_path / "cache", **options)  # type: ignore[arg-type]
        return compiler.solve([SUB], chosen)[SUB.digest]

    monkeypatch.setattr(compiler, "_designs", designs)
    return run


def tile_of(solution: Kernel | SplitReason) -> int:
    assert isinstance(solution, Kernel), solution
    return next(t for t in TILES if f"= {t}" in solution.candidate.sketch_text)


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


def test_one_measurement_where_it_is_enough(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "has_nothing_to_gain", lambda sub, target, timing: True)
    judge = ScriptedJudge({256: 1.5, 512: 2.0, 1024: 1.2})
    assert tile_of(solve(judge)) == 256
    assert judge.asked == [(256, "values"), (256, "speed")]
