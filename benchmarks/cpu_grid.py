"""Speed on the CPU over benchmarks/problems: eager, Inductor, AKG and the standalone ModelNew, interleaved.

    python benchmarks/cpu_grid.py [--quick] [--only PATTERN] [--seconds 2]

Every problem is checked for its values first. What the table claims, and this program exits 1 without:
  * over all problems, the geometric mean of AKG's speed over Inductor's is at least 1;
  * from 16 MB of tensors up, nothing is below 0.98 of eager's speed, unless the interval includes 1;
  * below 16 MB, the time of a call is at most Inductor's, unless the interval includes 1;
  * ModelNew, called directly, is at least 0.98 of eager's speed at every size, unless the interval includes 1.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from measure import Ratio, Rounds, environment, geometric_mean, interleave  # noqa: E402

PROBLEMS = HERE / "problems"
LARGE_BYTES = 16 * 2**20
QUICK = (
    "broadcast/bias_gelu_fp32_64kb",
    "elementwise/add_relu_scale_fp32_1kb",
    "elementwise/swiglu_bf16_16mb",
    "layout/transpose_add_fp32_1mb",
    "loss/cross_entropy_fp32_16mb",
    "mixed/dequantize_int8_4mb",
    "norm/layer_norm_fp32_4mb",
    "reduction/column_mean_square_fp32_1mb",
    "reduction/row_sum_fp32_16mb",
    "softmax/softmax_fp32_4mb",
)


@dataclass(frozen=True)
class Row:
    """One problem's result. `rounds` is None when a contender's values were wrong: then nothing was timed."""

    name: str
    tensor_bytes: int
    rounds: Rounds | None
    wrong: tuple[str, ...]

    def ratio(self, baseline: str, name: str) -> Ratio | None:
        """The baseline's time over the contender's; None where one of them is missing."""
        if self.rounds is None or baseline not in self.rounds.us or name not in self.rounds.us:
            return None
        return self.rounds.ratio(baseline, name)

    @property
    def large(self) -> bool:
        """Whether its largest tensor has 16 MB or more."""
        return self.tensor_bytes >= LARGE_BYTES

    def missed(self) -> list[str]:
        """The claims that this problem breaks."""
        if self.wrong:
            return [f"wrong: {', '.join(self.wrong)}"]
        checks = [("modelnew", "eager", 0.98), ("akg", "eager", 0.98) if self.large else ("akg", "inductor", 1.0)]
        out = []
        for name, baseline, bound in checks:
            ratio = self.ratio(baseline, name)
            if ratio is None:
                out.append(f"no {name}")
            elif not ratio.at_least(bound):
                out.append(f"{name} {ratio} of {baseline}")
        return out


def load(path: Path, name: str) -> ModuleType:
    """A Python file as a module of that name; what it imports from beside it is not left to others of the same name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # a generated model imports its kernels from beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
        for other, loaded in list(sys.modules.items()):
            file = getattr(loaded, "__file__", None)
            if other != name and file and Path(file).parent == path.parent:
                del sys.modules[other]
    return module


def tensors(value: object) -> tuple[torch.Tensor, ...]:
    """What a model returned, as tensors."""
    return (value,) if isinstance(value, torch.Tensor) else tuple(value)  # type: ignore[arg-type]


def close(actual: object, expected: object, exact: object) -> bool:
    """Whether `actual` is as near to the fp64 result as eager's is, to a factor of 2 and a few units in the last place.

    Where the exact result is not at hand (integers), equality with eager's result is asked for.
    """
    for a, e, x in zip(tensors(actual), tensors(expected), tensors(exact), strict=True):
        if (a.shape, a.stride(), a.dtype) != (e.shape, e.stride(), e.dtype):
            return False
        if not e.is_floating_point():
            if not torch.equal(a, e):
                return False
            continue
        a64, e64, x64 = a.double(), e.double(), x.double()
        finite = x64.isfinite()
        if not torch.equal(a64[~finite].nan_to_num(), e64[~finite].nan_to_num()):
            return False
        scale = x64[finite].abs().max() if finite.any() else torch.tensor(0.0)
        allowed = 2 * (e64 - x64)[finite].abs().max().nan_to_num() if finite.any() else scale
        error = (a64 - x64)[finite].abs().max() if finite.any() else scale
        if error > allowed + 4 * torch.finfo(e.dtype).eps * scale:
            return False
    return True


def exact_result(model: nn.Module, inputs: list[torch.Tensor], expected: object) -> object:
    """The model in fp64 on the same values."""
    if not any(t.is_floating_point() for t in tensors(expected)):
        return expected
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    return copy.deepcopy(model).double()(*wide)


def standalone(path: Path, folder: Path) -> type[nn.Module] | None:
    """`ModelNew` of the file that akg-optimize writes for the problem, or None if it wrote none."""
    command = [str(Path(sys.executable).with_name("akg-optimize")), str(path), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    written = folder / f"{path.stem}_generated.py"
    if done.returncode != 0 or not written.is_file():
        print(f"akg-optimize {path.name}: exit {done.returncode}\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    found: type[nn.Module] = load(written, f"{path.stem}_generated").ModelNew
    return found


def run(path: Path, seconds: float) -> Row:
    """One problem: check the values of all contenders, then time them."""
    name = f"{path.parent.name}/{path.stem}"
    torch._dynamo.reset()
    torch.manual_seed(0)
    problem = load(path, f"problem_{path.stem}")
    model = problem.Model(*problem.get_init_inputs())
    inputs = problem.get_inputs()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        contenders: dict[str, Callable[..., object]] = {
            "eager": model,
            "inductor": torch.compile(model, backend="inductor"),
            "akg": torch.compile(model, backend="akg"),
        }
        cls = standalone(path, Path(folder))
        if cls is not None:
            new = cls(*problem.get_init_inputs())
            new.load_state_dict(model.state_dict())
            contenders["modelnew"] = new
        expected = model(*inputs)
        exact = exact_result(model, inputs, expected)
        wrong = [who for who, call in contenders.items() if not close(call(*inputs), expected, exact)]
        # Inductor's own deviations are its affair: it is timed all the same.
        ours = tuple(who for who in wrong if who != "inductor")
        size = max(t.numel() * t.element_size() for t in (*inputs, *tensors(expected)))
        del expected, exact
        rounds = None
        if not ours:
            calls = {who: (lambda f=call: f(*inputs)) for who, call in contenders.items()}
            rounds = interleave(calls, seconds=seconds)
    return Row(name, size, rounds, ours)


def line(row: Row) -> str:
    """The row of the table."""
    cells = [row.name, f"{row.tensor_bytes / 1024:,.0f}"]
    if row.rounds is None:
        cells += ["", "", "", ""]
    else:
        us = {name: row.rounds.median_us(name) for name in row.rounds.us}
        cells += [f"{us[name]:,.1f}" if name in us else "" for name in ("eager", "inductor", "akg", "modelnew")]
    pairs = (("eager", "akg"), ("inductor", "akg"), ("eager", "modelnew"))
    cells += [str(row.ratio(baseline, name) or "") for baseline, name in pairs]
    return f"| {' | '.join(cells)} | {'; '.join(row.missed())} |"


HEADER = (
    "| problem | KB | eager us | Inductor us | AKG us | ModelNew us | AKG over eager | AKG over Inductor "
    "| ModelNew over eager | missed |\n|---|---:|---:|---:|---:|---:|---|---|---|---|"
)


def summary(rows: list[Row]) -> tuple[list[str], bool]:
    """Lines for below the table, and whether everything claimed holds."""
    over_inductor = [r.mid for row in rows if (r := row.ratio("inductor", "akg"))]
    over_eager = [r.mid for row in rows if (r := row.ratio("eager", "akg"))]
    mean = geometric_mean(over_inductor)
    missed = [row for row in rows if row.missed()]
    lines = [
        f"problems: {len(rows)}, timed: {sum(row.rounds is not None for row in rows)}",
        f"geometric mean of AKG's speed: {mean:.3f} of Inductor's, {geometric_mean(over_eager):.3f} of eager's",
        f"problems that miss a claim: {len(missed)}",
    ]
    return lines, mean >= 1.0 and not missed


def main() -> int:
    """Run, print the table, and keep table and raw times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK)} problems only")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="as in group/name, with * and ?")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing per problem")
    args = parser.parse_args()
    about = environment()
    paths = []
    for path in sorted(PROBLEMS.glob("*/*.py")):
        name = f"{path.parent.name}/{path.stem}"
        if fnmatch.fnmatch(name, args.only) and (not args.quick or name in QUICK):
            paths.append(path)
    if not paths:
        parser.error(f"no problem matches {args.only!r}")
    print(HEADER, flush=True)
    rows = []
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    stem = f"cpu_grid_{datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')}"
    for path in paths:
        try:
            rows.append(run(path, args.seconds))
        except Exception as error:  # noqa: BLE001 - one problem's failure is its row: the others are measured all the same
            rows.append(Row(f"{path.parent.name}/{path.stem}", 0, None, (f"{type(error).__name__}: {error}",)))
        print(line(rows[-1]), flush=True)
        _keep(rows, about, results / stem)
    lines, holds = summary(rows)
    print("\n" + "\n".join(lines))
    return 0 if holds else 1


def _keep(rows: list[Row], about: dict[str, object], stem: Path) -> None:
    """Write table and raw times of what is measured so far."""
    lines, _ = summary(rows)
    about_text = "\n".join(f"- {key}: {value}" for key, value in about.items())
    table = "\n".join([HEADER, *map(line, rows)])
    stem.with_suffix(".md").write_text(f"# CPU grid\n\n{about_text}\n\n{table}\n\n" + "\n".join(lines) + "\n")
    raw = [
        {
            "problem": row.name,
            "tensor_bytes": row.tensor_bytes,
            "wrong": row.wrong,
            "us": dict(row.rounds.us) if row.rounds else None,
        }
        for row in rows
    ]
    stem.with_suffix(".json").write_text(json.dumps({"environment": about, "problems": raw}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
