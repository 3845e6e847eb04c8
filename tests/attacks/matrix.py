"""The catch matrix: what came of every attack and control, kept with the hardware, and docs/judge.md made of it.

python -m tests.attacks.matrix               # run what a CPU can run, and write the results and the document
python -m tests.attacks.matrix --device cuda # what is for a device
python -m tests.attacks.matrix --only own    # those whose names contain that; the others keep their results
python -m tests.attacks.matrix --render      # only the document, of the results that are there

Each result is written as soon as it is there: a run that is cut short is gone on with by the next one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from akg_dynamo.agents import verifier
from akg_dynamo.agents.verifier import Judge
from akg_dynamo.core.types import Outcome, Trick

from .catalogue import HERE, ROWS, Entry, attacks, controls
from .trial import Trial, by_reading, by_running

RESULTS = HERE / "results"
DOCUMENT = HERE.parents[1] / "docs" / "judge.md"
RAISED = "RAISED"
"""What came of an entry that could not be tried: neither caught nor passed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", default="")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not arguments.render:
        arguments.results.mkdir(exist_ok=True, parents=True)
        run(arguments.device, arguments.results / f"{arguments.device}.json", arguments.only)
    if arguments.results == RESULTS:
        DOCUMENT.write_text(render())


def entries_for(device: str) -> list[Entry]:
    """What is tried there: on a device, what is for it, and the Triton and plain ones once more, compiled."""
    everything = [*attacks(), *controls()]
    if device == "cpu":
        return [e for e in everything if not e.cuda]
    return [e for e in everything if e.cuda or (e.dsl in ("triton", "torch") and not e.timing and not e.needs)]


def run(device: str, path: Path, only: str = "") -> None:
    """Try them all, or some, and keep what comes of each there.

    All: after a run that was cut short, those that it has not tried.
    """
    entries = {e.name: e for e in entries_for(device)}
    before = json.loads(path.read_text()) if path.exists() else {"trials": {}}
    kept = before["trials"] if only or not before.get("complete", True) else {}
    trials = {name: t for name, t in kept.items() if name in entries and (only or t["run"] != [RAISED])}
    chosen = [e for name, e in entries.items() if (only in name if only else name not in trials)]
    found: dict[str, Any] = {"hardware": _hardware(device), "complete": False, "protection": [], "trials": trials}
    with Judge() as judge:
        judge.wait_ready()
        found["protection"] = judge.protection(device).to_json()
        for i, (name, trial) in enumerate(_tried(judge, chosen, device)):
            trials[name] = trial
            found["complete"] = trials.keys() == entries.keys()
            _write(path, found)
            print(f"{i + 1}/{len(chosen)} {name}: {', '.join(trial['run'])}", file=sys.stderr, flush=True)


def _tried(judge: Judge, entries: Sequence[Entry], device: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What came of each. One that cannot be tried, for whatever reason, is a result too: the others are tried."""
    version = _version()
    for entry in entries:
        try:
            trial = by_running(judge, entry, device)
        except Exception as error:  # noqa: BLE001 - reported as what came of the entry
            trial = Trial(entry.name, by_reading(entry), (RAISED,), f"{type(error).__name__}: {error}")
        said = {"read": list(trial.read), "run": list(trial.run), "detail": _anywhere(trial.detail)[:300]}
        yield entry.name, {**said, "version": version}


def _write(path: Path, found: dict[str, Any]) -> None:
    """All or nothing: whoever is stopped meanwhile has what was there before."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(beside, path)


def _version() -> str:
    """Of what judges: results of one version are results of one judge."""
    digest = hashlib.sha256()
    folder = Path(verifier.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _anywhere(text: str) -> str:
    """A verdict's text without the paths of the machine that gave it."""
    for path, name in ((sys.prefix, "<python>"), (str(HERE.parents[1]), "."), (tempfile.gettempdir(), "<tmp>")):
        text = text.replace(path, name)
    return text


def _hardware(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, driver's CUDA {torch.version.cuda}"
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    kernel = platform.release().partition("-")[0]
    return f"{names[0] if names else platform.machine()}, {len(names)} threads, Linux {kernel}"


def render() -> str:
    """The document, of the catalogue and the results."""
    parts = [_INTRODUCTION]
    for device in ("cpu", "cuda"):
        path = RESULTS / f"{device}.json"
        if path.exists():
            parts.append(_section(device, json.loads(path.read_text())))
        else:
            parts.append(f"## On {_NAMES[device]}\n\nNot run yet.\n")
    parts.append(_catalogue())
    return "\n".join(parts)


_NAMES = {"cpu": "a CPU", "cuda": "a GPU"}
_INTRODUCTION = """# What the judge catches

Made by `make judge-matrix`; do not edit. The attacks and controls are files in `tests/attacks/`.

A kernel is **caught** when the verdict names what it tried. Each attack is tried by *reading* its source only (it is
not run), by *running* it only (the screen that reads is off), and a control must pass both. Reading and running are
independent: what one misses, the other has to see.
"""


def _section(device: str, found: dict[str, Any]) -> str:
    trials = {name: Trial(name, tuple(t["read"]), tuple(t["run"]), t["detail"]) for name, t in found["trials"].items()}
    entries = entries_for(device)
    tried = [(e, trials[e.name]) for e in entries if e.name in trials]
    lines = [f"## On {_NAMES[device]}", "", f"{found['hardware']}.{found.get('note', '')}", ""]
    lines += [
        "| what is tried | attacks | caught | by reading only | by running only | by both |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    totals = [0] * 5
    for row, text in ROWS.items():
        of_row = [(e, t) for e, t in tried if e.row == row]
        if not of_row:
            continue
        counts = _counts(of_row)
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
        lines.append(f"| {text} | {' | '.join(map(str, counts))} |")
    lines.append(f"| **all** | {' | '.join(f'**{n}**' for n in totals)} |")
    benign = [t for e, t in tried if not e.row]
    passed = sum(t.passed for t in benign)
    lines += ["", f"Controls that passed: **{passed} of {len(benign)}**."]
    lines += _exceptions(entries, tried)
    versions = {t.get("version") for t in found["trials"].values()}
    lines += ["", f"Tried by {len(versions)} versions of the judge, one after another."] if len(versions) > 1 else []
    lines += ["", "What candidates were confined by:", ""]
    lines += [
        f"- {m['against']}: {m['how'] or 'nothing here'}" + (f" ({m['gap']})" if m["gap"] else "")
        for m in found["protection"]
    ]
    return "\n".join([*lines, ""])


def _exceptions(entries: Sequence[Entry], tried: Sequence[tuple[Entry, Trial]]) -> list[str]:
    """Whatever is not as it should be, by name."""
    raised = [(e, t) for e, t in tried if t.run == (RAISED,)]
    others = [(e, t) for e, t in tried if (e, t) not in raised]
    missed = [(e, t) for e, t in others if e.row and not (t.caught(e, "read") or t.caught(e, "run"))]
    for_each = {
        "Judged right": [(e, t) for e, t in missed if t.run in (("RIGHT",), ("WON",))],
        "Not right, but named otherwise": [(e, t) for e, t in missed if t.run not in (("RIGHT",), ("WON",))],
        "Did not pass": [(e, t) for e, t in others if not e.row and not t.passed],
        "Could not be tried": raised,
    }
    lines = []
    for what, those in for_each.items():
        if those:
            said = "; ".join(f"{e.name} ({', '.join(t.run[1:]) or t.detail or t.run[0]})" for e, t in those)
            lines += ["", f"{what}: {said}."]
    missing = sorted({e.name for e in entries} - {e.name for e, _ in tried})
    return [*lines, *(["", f"Not tried there yet: {', '.join(missing)}."] if missing else [])]


def _counts(of_row: Sequence[tuple[Entry, Trial]]) -> list[int]:
    by = [(t.caught(e, "read"), t.caught(e, "run")) for e, t in of_row]
    read, run, both = (sum(pair == want for pair in by) for want in ((True, False), (False, True), (True, True)))
    return [len(by), read + run + both, read, run, both]


def _catalogue() -> str:
    """Every file, and what it tries."""
    known = {t.name: t.value for t in Trick} | {o.name: o.value for o in Outcome}
    lines = ["## The attacks", "", "| file | written in | what it does | may be named |", "|---|---|---|---|"]
    for entry in attacks():
        names = "; ".join(known[n] for n in sorted(entry.expects))
        lines.append(f"| {entry.name} | {entry.dsl}{' (GPU)' if entry.cuda else ''} | {entry.summary} | {names} |")
    lines += ["", "## The controls", "", "| file | written in | what it does |", "|---|---|---|"]
    lines += [f"| {e.path.stem} | {e.dsl}{' (GPU)' if e.cuda else ''} | {e.summary} |" for e in controls()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
