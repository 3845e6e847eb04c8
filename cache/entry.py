"""What the cache keeps for one key, and its JSON form.

Text from outside (an imported file) is parsed by pydantic. A row of our own database is trusted only when its digest
matches, and is then rebuilt directly: importing pydantic alone costs 50 ms, a fifth of what a warm start may take.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from akg_dynamo.core.errors import CacheError
from akg_dynamo.core.types import Candidate, Outcome, SplitReason, SplitReasonType, Timing

FORMAT = 1
"""Changes whenever an older entry could be misread."""

DAY_S = 86_400.0
NO_GAIN_TTL_S = 14 * DAY_S
"""A loss was measured on a machine in some state; it is measured again after this long."""

TRANSIENT_TTL_S = DAY_S
"""A build that failed or a judge that ran out of time may be the host's fault."""


@dataclass(frozen=True)
class Right:
    """The *right* verdict: what was found, and on which inputs."""

    outcome: Outcome
    detail: str = ""
    checked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Worth:
    """The *worth it* verdict on one device, and when it was measured (seconds since the epoch)."""

    timing: Timing
    at: float

    def expired(self, now: float) -> bool:
        """ "No gain" expires; a win stands until it is contradicted."""
        return not self.timing.wins() and now - self.at > NO_GAIN_TTL_S


@dataclass(frozen=True)
class Provenance:
    """Where an entry came from, for people who look at the cache."""

    op: str = ""
    made_by: str = "rules"
    generator: str = ""
    torch: str = ""
    host: str = ""
    created_at: float = 0.0
    build_s: float = 0.0
    judge_s: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A kernel with its verdicts, or the reason there is none.

    judged: False for an imported entry, whose kernel must be judged here before it is used.
    refusal: set in a negative entry. expires_at: when a negative entry stops holding (None: as long as its key).
    quarantined: not empty when this kernel took a process down or raised at run time: never run it again.
    """

    key: str
    subgraph: str
    candidate: Candidate | None = None
    right: Right | None = None
    worth: Mapping[str, Worth] = field(default_factory=dict)
    refusal: SplitReason | None = None
    expires_at: float | None = None
    quarantined: str = ""
    judged: bool = True
    provenance: Provenance = Provenance()

    @property
    def usable(self) -> bool:
        """Whether the kernel may be run: right, judged here, and not quarantined."""
        return (
            self.candidate is not None
            and self.judged
            and not self.quarantined
            and self.right is not None
            and self.right.outcome is Outcome.RIGHT
        )

    def timing(self, device: str, now: float | None = None) -> Timing | None:
        """The timing on this device that still holds, if any."""
        worth = self.worth.get(device)
        if worth is None or worth.expired(time.time() if now is None else now):
            return None
        return worth.timing

    def reason(self) -> SplitReason | None:
        """Why there is nothing to run, for the ones who asked; None when the kernel is usable or still to be judged."""
        if self.quarantined:
            return SplitReason(SplitReasonType.RAISED, f"quarantined: {self.quarantined}")
        return self.refusal

    def expired(self, now: float | None = None) -> bool:
        """Whether a negative entry no longer holds."""
        return self.expires_at is not None and (time.time() if now is None else now) > self.expires_at


def refused(key: str, subgraph: str, reason: SplitReason, provenance: Provenance = Provenance()) -> Entry:
    """A negative entry. What may be the host's fault is forgotten after a day, "no gain" after two weeks."""
    ttl = {SplitReasonType.BUILD: TRANSIENT_TTL_S, SplitReasonType.NO_GAIN: NO_GAIN_TTL_S}.get(reason.kind)
    expires = None if ttl is None else time.time() + ttl
    return Entry(key, subgraph, refusal=reason, expires_at=expires, provenance=provenance)


# --------------------------------------------------------------------------------------------------------------------
# JSON


def to_json(entry: Entry) -> dict[str, Any]:
    """Plain JSON values: enums by name."""
    data = dataclasses.asdict(dataclasses.replace(entry, worth=dict(entry.worth)))
    if entry.right is not None:
        data["right"]["outcome"] = entry.right.outcome.name
    if entry.refusal is not None:
        data["refusal"]["kind"] = entry.refusal.kind.name
    return data


def _rebuild(data: dict[str, Any]) -> Entry:
    """The inverse of `to_json` for text that our own digest vouches for."""
    candidate, right, refusal = data["candidate"], data["right"], data["refusal"]
    return Entry(
        key=data["key"],
        subgraph=data["subgraph"],
        candidate=None if candidate is None else Candidate(**candidate),
        right=None if right is None else Right(Outcome[right["outcome"]], right["detail"], tuple(right["checked"])),
        worth={name: Worth(Timing(**w["timing"]), w["at"]) for name, w in data["worth"].items()},
        refusal=None if refusal is None else SplitReason(SplitReasonType[refusal["kind"]], refusal["detail"]),
        expires_at=data["expires_at"],
        quarantined=data["quarantined"],
        judged=data["judged"],
        provenance=Provenance(**data["provenance"]),
    )


def seal(entry: Entry) -> str:
    """One row's text: a line with the format and the digest of what follows, then the JSON."""
    body = json.dumps(to_json(entry), sort_keys=True, ensure_ascii=True)
    return f"akg{FORMAT} {hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def unseal(text: object, key: str) -> Entry:
    """Reads a row back. CacheError when it is not exactly what `seal` wrote for this key."""
    if not isinstance(text, str):
        raise CacheError("not text")
    header, _, body = text.partition("\n")
    if header != f"akg{FORMAT} {hashlib.sha256(body.encode()).hexdigest()}":
        raise CacheError("the digest does not match, or the format is an older one")
    try:
        entry = _rebuild(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(f"not an entry: {error!r}") from error
    if entry.key != key:
        raise CacheError("filed under another entry's key")
    return entry


def parse_outside(data: object) -> Entry:
    """An entry from a file someone handed over, validated field by field. CacheError says what is wrong with it."""
    import pydantic

    if not isinstance(data, dict):
        raise CacheError("an entry is not a JSON object")
    known = {f.name for f in dataclasses.fields(Entry)}
    if unknown := sorted(set(data) - known):
        raise CacheError(f"unknown field {unknown[0]!r}")
    fields: dict[str, Any] = dict(data)
    for part, enum_type, name in (("right", Outcome, "outcome"), ("refusal", SplitReasonType, "kind")):
        inner = fields.get(part)
        if isinstance(inner, dict) and inner.get(name) in enum_type.__members__:
            fields[part] = {**inner, name: enum_type[inner[name]].value}
    try:
        return pydantic.TypeAdapter(Entry).validate_python(fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the entry"
        raise CacheError(f"{where}: {first['msg']}") from error
