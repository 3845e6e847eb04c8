"""What the judge costs, as a table of what `judge.py` has kept: written beside each of its files of raw figures.

python benchmarks/judge_table.py [FILE.json ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
_MIB = 1 << 20


def text(found: Mapping[str, Any]) -> str:
    """The parts that there are. `commits`, where it was put there, says of which code each of them is."""
    parts = {"costs": _costs, "itself": _itself, "breaking": _breaking, "batch": _batch, "growth": _growth}
    about = found["environment"]
    machine = about.get("device") or f"{about['cpu']}, {about['cores']} cores"
    versions = [f"{name} {about[name]}" for name in ("torch", "triton", "cuda") if name in about]
    lines = [f"# What the judge costs: {machine}, {', '.join(versions)}"]
    for name, part in parts.items():
        if name in found:
            title, *rest = part(found[name])
            commit = found.get("commits", {}).get(name)
            lines += ["", f"{title} (at {commit})" if commit else title, *rest]
    wrong = found.get("wrong", [])
    lines += ["", "Everything is as it must be." if not wrong else "Not as it must be: " + "; ".join(wrong)]
    return "\n".join(lines) + "\n"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|---|" + "--:|" * (len(names) - 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _costs(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## A verdict on a kernel by rules, milliseconds"
    yield ""
    phases = list(found["rows"][0]["phases_ms"])
    rows = []
    for row in found["rows"]:
        each = [f"{row['phases_ms'][phase]:.1f}" for phase in phases]
        rows.append([row["problem"], f"{row['first_ms']:.0f}", f"{row['median_ms']:.0f}", *each])
    yield from _table(["problem", "first", "median", *phases], rows)
    yield ""
    yield (
        f"Median of all: {found['median_ms']:.0f} (limit {found['limit_ms']:.0f}), largest {found['largest_ms']:.0f}. "
        "Its build is not counted."
    )


def _itself(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Eager against itself"
    yield ""
    rows = []
    for row in found:
        ratios = row["ratios"]
        spread = f"{ratios[0]:.3f} … {ratios[len(ratios) // 2]:.3f} … {ratios[-1]:.3f}"
        who = "by rules" if row["trusted"] else "not trusted"
        rows.append([f"{row['problem']}, {who}", f"{row['won']} of {len(ratios)}", spread, f"{row['ms_each']:.0f}"])
    yield from _table(["problem", "won", "ratios: least, median, largest", "ms each"], rows)


def _breaking(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Candidates that do not return"
    yield ""
    rows = [[r["kernel"], r["outcome"], f"{r['seconds']:.2f}", f"{r['next_s']:.2f}"] for r in found]
    yield from _table(["candidate", "verdict", "after, s", "the next one's verdict, s"], rows)


def _held(before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str]) -> Iterator[str]:
    rows = [
        [
            name,
            str(held["processes"]),
            str(held["files"]),
            f"{held['memory_bytes'] / _MIB:.0f}",
            f"{held['device_bytes'] / _MIB:.0f}",
        ]
        for name, held in zip(names, (before, after), strict=True)
    ]
    yield from _table(["", "processes", "open files", "memory, MiB", "device memory, MiB"], rows)


def _batch(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {found['candidates']} candidates in one batch, {found['seconds']:.1f} s"
    yield ""
    yield from _held(found["before"], found["after"], ("before", "after"))


def _growth(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {found['verdicts']} verdicts ({found['share']:+.1%} of memory)"
    yield ""
    yield from _held(found["after_100"], found["after_all"], ("after 100", f"after {found['verdicts']}"))


def write(path: Path) -> None:
    """The table of that file, beside it."""
    path.with_suffix(".md").write_text(text(json.loads(path.read_text())))


if __name__ == "__main__":
    for each in map(Path, sys.argv[1:] or sorted(RESULTS.glob("judge_*.json"))):
        write(each)
