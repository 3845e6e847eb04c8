"""What a wrong output looks like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from akg_dynamo.agents.verifier.answers import check_answers, check_call, trick_of_error
from akg_dynamo.agents.verifier.diagnosis import diagnose
from akg_dynamo.agents.verifier.workers import Failed
from akg_dynamo.core.types import Trick

WANT = torch.randn(40, 50, generator=torch.Generator().manual_seed(1))
INPUT = torch.randn(40, 50, generator=torch.Generator().manual_seed(2))


def changed(at: object, value: float) -> torch.Tensor:
    out = WANT.clone()
    out[at] = value  # type: ignore[index]
    return out


OUTPUTS: dict[str, tuple[Callable[[], torch.Tensor], Trick | None]] = {
    "right": (WANT.clone, None),
    "another order of summation": (lambda: WANT * (1 + 2e-7), None),
    "zeros": (lambda: torch.zeros(40, 50), Trick.CONSTANT),
    "ones": (lambda: torch.ones(40, 50), Trick.CONSTANT),
    "NaN throughout": (lambda: torch.full((40, 50), float("nan")), Trick.STALE_MEMORY),
    "its input": (INPUT.clone, Trick.CONSTANT),
    "NaN in a row": (lambda: changed(3, float("nan")), Trick.STALE_MEMORY),
    "what fresh memory holds": (lambda: changed(3, 3.3961395e38), Trick.STALE_MEMORY),
    "one element": (lambda: changed((3, 4), 9.0), Trick.OUTLIERS),
    "bfloat16": (lambda: WANT.bfloat16().float(), Trick.PRECISION),
    "half of it": (lambda: changed(slice(0, 20), 0.5), Trick.VALUES),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_diagnosis(name: str) -> None:
    make, trick = OUTPUTS[name]
    assert diagnose([make()], [INPUT], [WANT]) is trick


def test_integers() -> None:
    want = torch.arange(100)
    assert diagnose([want + (want == 7)], [], [want]) is Trick.OUTLIERS
    assert diagnose([want + 1], [], [want]) is Trick.VALUES
    assert diagnose([want.clone()], [], [want]) is None


OUTPUT = {"dtype": "float32", "device": "cpu", "shape": [2], "stride": [1]}
FORGED = [
    None, {}, [], {"outputs": 3}, {"outputs": [3]}, {"outputs": [{}]}, {"outputs": [{**OUTPUT, "shape": "2"}]},
    {"outputs": [{**OUTPUT, "stride": [1.5]}]}, {"bad": 3}, {"bad": "x", "trick": "NO_SUCH"}, {"raised": ["x"]},
]  # fmt: skip


@pytest.mark.parametrize("call", FORGED, ids=repr)
def test_a_call_of_another_form_is_forged(call: object) -> None:
    with pytest.raises(Failed) as failed:
        check_call(call)
    assert failed.value.tricks == (Trick.FORGES,)


def test_answers_are_as_many_as_were_asked_for() -> None:
    call = {"outputs": [OUTPUT]}
    check_answers({"answers": [[call], [call, call]]}, [1, 2])
    for answers in (None, [], [[call]], [[call], [call]], [[call], [call, 3]], "x"):
        with pytest.raises(Failed):
            check_answers({"answers": answers}, [1, 2])


def test_errors_tell_what_was_tried() -> None:
    assert trick_of_error("PermissionError: [Errno 13] Permission denied: '/etc'") == (Trick.ESCAPES,)
    assert trick_of_error("MemoryError: ") == (Trick.EXHAUSTS,)
    assert trick_of_error("ValueError: no") == (Trick.VALUES,)
