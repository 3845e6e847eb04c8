"""Runs a written file beside its original, in a process that does not have AKG, and judges what both gave.

The judge's contract, for whole models: error against fp64 at most twice the original's own, by RMS and maximum, over
every tensor that a call returns or writes. Integers must be equal, NaN and Inf where the original or fp64 has them.

The floor counts in what the original in fp64 gives on absolute inputs, no further from its results than a sum of a few
thousand terms of either sign would be: through many layers, absolute values say nothing any more. Where results are
float64 there are no more digits to compare with: the original's own error is that of the same model in float32, scaled,
or what reversing its inputs changes.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch

from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.numerics import Contract, Expected, Rule
from akg_dynamo.cli import standalone

_MOST_CANCELLED = 64.0
"""How many times its largest result may the terms be that results came of."""


class Outcome(TypedDict):
    """The tensors of one set of inputs.

    exact: the original's in fp64, None if it cannot be run so. absolute: the same on absolute inputs.
    double_error: how far the original itself may be off, where it gives float64.
    """

    got: list[torch.Tensor]
    expected: list[torch.Tensor]
    exact: list[torch.Tensor] | None
    absolute: list[torch.Tensor] | None
    double_error: list[torch.Tensor] | None


@dataclass(frozen=True)
class Found:
    """What running both showed. `wrong` is empty for a file that is right on these inputs.

    error: the largest RMS difference from the original, relative to the values' RMS, of any tensor.
    """

    wrong: str
    error: float
    inputs: int
    times: dict[str, float]


class CannotRun(Exception):
    """The process gave no answer; the text says why."""


def run(request: dict[str, Any], folder: Path, timeout_s: float) -> Found:
    """Has `standalone` run a request, in `folder`, and compares.

    Raises:
        CannotRun: it did not finish, or one of the files raises.
    """
    outcomes, path = folder / "outcomes.pt", folder / "request.json"
    path.write_text(json.dumps({**request, "outcomes": str(outcomes.resolve())}))
    # run_path, not the path itself: the program's own folder must not be importable
    start = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-c", start, str(Path(standalone.__file__).resolve()), str(path.resolve())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=folder, check=False)
    except subprocess.TimeoutExpired:
        raise CannotRun(f"did not finish within {timeout_s:g} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        silent = f"exit code {done.returncode}, and it said nothing"
        raise CannotRun(f"fails: {(done.stderr.strip().splitlines() or [silent])[-1]}")
    found = torch.load(outcomes, weights_only=True)
    outcomes.unlink()
    return Found(wrong(found), difference(found), len(found), json.loads(lines[-1]))


def wrong(outcomes: Sequence[Outcome]) -> str:
    """What breaks the contract, or nothing."""
    elements: dict[int, int] = {}
    for outcome in outcomes:
        got, expected = outcome["got"], outcome["expected"]
        if len(got) != len(expected):
            return f"{len(got)} output tensors, the original has {len(expected)}"
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            if a.dtype != b.dtype or a.shape != b.shape:
                return f"output {i}: {a.dtype}{list(a.shape)}, the original has {b.dtype}{list(b.shape)}"
            elements[i] = elements.get(i, 0) + b.numel()
    plain = _breach(outcomes, elements, relative=False)
    return plain if plain and _breach(outcomes, elements, relative=True) else ""


def _breach(outcomes: Sequence[Outcome], elements: dict[int, int], *, relative: bool) -> str:
    """By the largest and the RMS error, or by the errors relative to each element's magnitude."""
    for i, count in elements.items():
        few = count < plan.SMALL_OUTPUT and len(outcomes) < plan.POOLED_SEEDS
        contract = Contract(Rule.BOUNDED, 0.0, plan.UNPOOLED_SLACK if few else 1.0, relative=relative)
        for n, outcome in enumerate(outcomes):
            got, expected = outcome["got"][i], outcome["expected"][i]
            exact = outcome["exact"][i] if outcome["exact"] is not None else expected
            oracle = exact if exact.shape == expected.shape else expected
            known = Expected(expected, oracle)
            if expected.dtype == torch.float64:
                known.oracle, known.eager_error = expected, _error_in_double(outcome, i)
            absolute = functools.partial(_magnitude, outcome, i, known.oracle)
            reason = contract.add(i, got, known, f"set {n} of the inputs", absolute)
            if reason is not None:
                return reason
        reason = contract.finish()
        if reason is not None:
            return reason
    return ""


def _magnitude(outcome: Outcome, i: int, oracle: torch.Tensor) -> torch.Tensor:
    """How large the values are that each element came of."""
    own = oracle.abs()
    found = outcome["absolute"][i] if outcome["absolute"] is not None else own
    if found.shape != own.shape or not own.numel() or not own.is_floating_point():
        return own
    most = _MOST_CANCELLED * own.nan_to_num(0.0, 0.0, 0.0).amax()
    return torch.fmax(own, found.abs().nan_to_num(0.0, 0.0, 0.0).clamp(max=most))


def _error_in_double(outcome: Outcome, i: int) -> torch.Tensor:
    """What the original's own error may be, where its results are all that is known."""
    expected, error = outcome["expected"][i], outcome["double_error"]
    return torch.zeros_like(expected) if error is None else 1.5 * error[i]


def difference(outcomes: Sequence[Outcome]) -> float:
    """The largest RMS of a tensor's difference from the original's, relative to the RMS of the values."""
    worst = 0.0
    for outcome in outcomes:
        for got, expected in zip(outcome["got"], outcome["expected"], strict=False):
            if not expected.is_floating_point() or got.shape != expected.shape:
                continue
            a, b = got.double(), expected.double()
            finite = a.isfinite() & b.isfinite()
            if finite.any():
                error = (a - b)[finite].square().mean().sqrt().item()
                scale = b[finite].square().mean().sqrt().item()
                worst = max(worst, error / scale if scale else error)
    return worst
