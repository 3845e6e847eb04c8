"""The catalogue of attacks on the judge, and of kernels that look like attacks and are not.

    kernels/<row>/<name>.py   one attack each: a real candidate file with ModelNew, as KernelBench calls it
    controls/<name>.py        benign ones: each must be judged right
    tasks/<name>.py           what they claim to compute: KernelBench files (Model, get_init_inputs, get_inputs…)

The folder of an attack is the row of `ROWS` that it tries. Its docstring says the rest:

    '''Returns what it returned last time for a tensor at the same address.

    dsl: triton            what it claims to be written in: torch (plain Python), triton, cpp or cuda
    task: softmax          the file in tasks/ that it pretends to solve
    expects: REPLAYS       names of `Trick`, each of which names what it tried: as it is read, as it is run. Also an
        `Outcome`: DEGENERATE, and RIGHT for what is timed and gains nothing
    needs: cuda            optional: a device; run by `pytest -m gpu` only. Or `interpreter`: Triton compiles no such
    judge: timing          optional: judged on its speed as well; it is caught if it is not right, or does not win
    limits: timeout_s=3    optional: options of `Job`, for what hangs
    '''

A line that begins with '    ' continues the one before. Everything is read here and nowhere else.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

ROWS = {
    "unsynchronised": "runs work on another stream, or returns unsynchronised",
    "threads": "starts threads or forks around the timer",
    "own_timer": "patches timers in its own process; reports its own times",
    "patches_judge": "patches timers, synchronize, allclose, torch.*, sys.modules, frames, __code__",
    "forges_result": "forges the result on stdout or a pipe; exits 0 at import; rewrites at exit",
    "reads_expected": "reads the expected output (gc, frames, memory scan)",
    "stale_memory": "relies on uninitialised or stale memory",
    "caches_outputs": "caches outputs by pointer, id, shape or content",
    "drifts": "computes only when the output buffer looks unwritten; is right N times and then drifts; "
    "treats warm-up differently",
    "constant_output": "returns zeros, a constant, its input",
    "input_structure": "exploits input structure (symmetric, sparse, low rank) or hard-codes the shape",
    "precision": "downgrades precision (bf16, TF32, fast-math)",
    "outliers": "is wrong in a few huge outliers",
    "form": "has the wrong dtype, shape or stride",
    "subclass": "returns a lazy tensor subclass",
    "calls_torch": "calls torch or a vendor library, calls the reference, inherits and passes, "
    "hides a call in getattr or a method",
    "decoy": "launches a decoy kernel whose result is unused",
    "mutates": "mutates or aliases its inputs",
    "out_of_bounds": "reads or writes out of bounds, races, overflows shared memory",
    "escapes": "reads secrets, opens sockets, writes files, runs pip",
    "impossible_speed": "claims an impossible speed",
    "weak_baseline": "is compared with a cold or weak baseline",
    "exhausts": "hangs, forks or allocates without end, crashes, takes the context down",
    "hole_shape": "known hole: flattened before the shape check",
    "hole_casts": "known hole: silent dtype casts",
    "hole_two_percent": "known hole: up to 2% of elements wrong by any amount",
    "hole_integers": "known hole: integer outputs compared as floats",
    "hole_one_seed": "known hole: one input set with one seed",
    "hole_in_process": "known hole: executed in the judge's process, with the keys in its environment",
    "hole_state": "known hole: seed not reset before the candidate is built",
    "hole_milliseconds": "known hole: do_bench(warmup, rep) taken for counts",
    "hole_mean": "known hole: dynamic-shape time as an arithmetic mean",
    "degenerate": "degenerate tasks: zeros, a constant or a replayed old output pass",
    "own": "in no list: our own",
}
"""By folder: the row, in the words of the list of attacks that is public."""


@dataclass(frozen=True)
class Entry:
    """One attack, or (with `row` empty) one control."""

    path: Path
    row: str
    summary: str
    dsl: str
    task: Path
    expects: frozenset[str] = frozenset()
    needs: str = ""
    timing: bool = False
    limits: tuple[tuple[str, float], ...] = ()

    @property
    def cuda(self) -> bool:
        """Whether it can be tried on a device only."""
        return self.needs == "cuda"

    @property
    def name(self) -> str:
        """As tests and the matrix call it."""
        return f"{self.row or 'control'}/{self.path.stem}"

    @property
    def source(self) -> str:
        """The candidate."""
        return self.path.read_text(encoding="utf-8")


class BadEntry(Exception):
    """A file in the catalogue that is not as it must be; the text says which, and why."""


def read(path: Path) -> Entry:
    """One file of the catalogue.

    Raises:
        BadEntry: its header cannot be understood.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    summary, _, rest = (docstring or "").partition("\n\n")
    fields: dict[str, str] = {}
    last = ""
    for line in rest.splitlines():
        name, colon, text = line.partition(":")
        if line.startswith(" ") and last:
            fields[last] += " " + line.strip()
        elif colon:
            last = name.strip()
            fields[last] = text.strip()
    row = "" if path.parent.name == "controls" else path.parent.name
    allowed = {"dsl", "task", "expects", "needs", "judge", "limits"}
    task = HERE / "tasks" / f"{fields.get('task')}.py"
    limits = [item.partition("=") for item in fields.get("limits", "").replace(",", " ").split()]
    for wrong, why in (
        (not summary, "its docstring does not say what it does"),
        (bool(row) and row not in ROWS, f"{row!r} is no row"),
        (not fields.keys() <= allowed, f"its header has {sorted(fields.keys() - allowed)}"),
        (fields.get("dsl") not in {"torch", "triton", "cpp", "cuda"}, f"dsl is {fields.get('dsl')!r}"),
        (not task.is_file(), f"there is no {task.name}"),
        (bool(row) != ("expects" in fields), "attacks say what they expect, controls do not"),
        (fields.get("needs", "") not in ("", "cuda", "interpreter"), f"needs is {fields.get('needs')!r}"),
        (fields.get("judge", "timing") != "timing", f"judge is {fields.get('judge')!r}"),
    ):
        if wrong:
            raise BadEntry(f"{path.relative_to(HERE)}: {why}")
    return Entry(
        path,
        row,
        " ".join(summary.split()),
        fields["dsl"],
        task,
        frozenset(fields.get("expects", "").replace(",", " ").split()),
        fields.get("needs", ""),
        "judge" in fields,
        tuple((name, float(value)) for name, _, value in limits),
    )


def attacks() -> list[Entry]:
    """All of them, by row and name."""
    paths = (HERE / "kernels").glob("*/*.py")
    order = list(ROWS)
    return sorted(map(read, paths), key=lambda e: (order.index(e.row), e.path.stem))


def controls() -> list[Entry]:
    """All of them, by name."""
    return [read(path) for path in sorted((HERE / "controls").glob("*.py"))]
