"""What a candidate's process may say: anything of another form than its worker's words was not said by the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from akg_dynamo.agents.verifier.workers import Failed
from akg_dynamo.core.types import Outcome, Trick

_USED_UP = (
    "can't allocate memory", "not enough memory", "Cannot allocate memory", "bad_alloc", "can't start new thread",
    "File too large", "No space left", "Too many open files", "Resource temporarily unavailable",
)  # fmt: skip
_FIELDS = (("dtype", str), ("device", str), ("shape", list), ("stride", list))


def check_answers(answer: Mapping[str, Any], calls: Sequence[int]) -> None:
    """Raise `Failed` unless that describes so many calls of each case."""
    said = answer.get("answers")
    if not _is_list(said, list) or [len(each) for each in said or []] != list(calls):
        raise _forged()
    for each in said or []:
        for call in each:
            check_call(call)


def check_call(call: Any) -> None:
    """Raise `Failed` unless that describes a call: what it raised, what is bad about it, or its outputs."""
    if not isinstance(call, dict) or not call.keys() & {"raised", "bad", "outputs"}:
        raise _forged()
    texts = [call[name] for name in ("raised", "bad") if name in call]
    outputs = call.get("outputs", [])
    described = _is_list(outputs, dict) and all(isinstance(o.get(n), kind) for o in outputs for n, kind in _FIELDS)
    sizes = described and all(_is_list(o[n], int) for o in outputs for n in ("shape", "stride"))
    if not (sizes and _is_list(texts, str) and call.get("trick", Trick.FORM.name) in Trick.__members__):
        raise _forged()


def trick_of_error(text: str) -> tuple[Trick, ...]:
    """What a candidate seems to have tried that raised this."""
    if text.startswith(("SystemExit", "KeyboardInterrupt")):
        return (Trick.FORGES,)
    refused = ("PermissionError", "gaierror", "ConnectionRefusedError", "ConnectionError", "URLError")
    if text.startswith(refused) or "Operation not permitted" in text or "Read-only file system" in text:
        return (Trick.ESCAPES,)
    if text.startswith(("MemoryError", "OutOfMemoryError", "RecursionError")) or any(said in text for said in _USED_UP):
        return (Trick.EXHAUSTS,)
    return (Trick.VALUES,)


def _is_list(value: Any, of: type) -> bool:
    return isinstance(value, list) and all(isinstance(v, of) for v in value)


def _forged() -> Failed:
    return Failed(Outcome.REJECTED, "an answer of another form than the worker's", Trick.FORGES)
