"""The command line: ``akg``, and ``akg-optimize`` for ``akg optimize``. Exit codes are in `output`."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from akg_dynamo.cli.output import CANNOT, NO, command
from akg_dynamo.core.errors import CacheError, OptionError, UserError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Makes PyTorch models faster."
)
cache_app = typer.Typer(no_args_is_help=True, help="Look at, move and clear the kernel cache.")
app.add_typer(cache_app, name="cache")

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL.py", help="A KernelBench file, or any file with an nn.Module.")
]
Module = Annotated[
    str | None,
    typer.Option("--module", help="The model in the file: a class, a function or an instance. Default: Model."),
]  # typer reads the annotation at run time; Optional works on every Python
Inputs = Annotated[
    str | None, typer.Option(help="A function of the file that gives example inputs. Default: get_inputs.")
]
Input = Annotated[
    list[str] | None,
    typer.Option("--input", help="One example input, as f32[8,128] or i64[4,16]<1000. Repeat for more."),
]
Gate = Annotated[str, typer.Option(help="profit: only kernels that win. correct: every kernel that is right.")]
Numerics = Annotated[str, typer.Option(help="bounded, eager or fast.")]
Rtol = Annotated[float | None, typer.Option(help="The tolerance of --numerics fast.")]
Dsl = Annotated[str | None, typer.Option(help="What kernels are written in. Default: by the model's device.")]
Arch = Annotated[str, typer.Option(help="The hardware to generate for.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N: where the model runs. Default: where its file puts it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _options(**chosen: object) -> Any:
    from akg_dynamo import options

    return options.parse({name: value for name, value in chosen.items() if value is not None})


@app.command()
def optimize(
    model: ModelPath,
    *,
    module: Module = None,
    inputs: Inputs = None,
    input: Input = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: next to the model.")] = None,
    gate: Gate = "profit",
    numerics: Numerics = "bounded",
    rtol: Rtol = None,
    dsl: Dsl = None,
    arch: Arch = "native",
    device: Device = None,
    json: AsJson = False,
) -> None:
    """Write a faster version of a model, as files that need neither AKG nor torch.compile."""
    with command(json) as output:
        options = _options(gate=gate, numerics=numerics, rtol=rtol, dsl=dsl, arch=arch)
        _must_exist(model)
        from akg_dynamo.cli import host
        from akg_dynamo.cli import optimize as steps

        if options.dsl == "cpp" or (options.dsl is None and not (device or "cpu").startswith("cuda")):
            with output.step("Checking the compiler"):
                host.require_compiler()
        request = steps.Request(model, module, inputs, tuple(input or ()), out, options, device)
        done = steps.run(request, output)

        def show(console: Console) -> None:
            table = Table("kernel", "uses", "eager µs", "kernel µs", "x eager", box=None)
            for k in done.kernels:
                times = [f"{v:.1f}" if v is not None else "-" for v in (k.eager_us, k.kernel_us)]
                table.add_row(k.op, str(k.uses), *times, f"{k.ratio:.2f}" if k.ratio is not None else "not timed")
            if done.kernels:
                console.print(table)
            console.print(f"{len(done.kernels)} kernels in use, {len(done.refused)} subgraphs tried and left to torch.")
            console.print(done.note or f"The whole model: {done.end_to_end.ratio:.2f} x the original's speed.")
            console.print(f"Written: {Path(done.folder) / done.written[0] if not done.kernels else done.folder}")
            console.print(f"Report: {Path(done.folder) / 'report.md'}")

        output.result(done.as_json(), show)


def _must_exist(path: Path) -> None:
    """Before anything is imported: a misspelt path is answered at once."""
    if not path.is_file():
        raise UserError(f"{path} is not a file. Give the path of a Python file that defines the model.")


@app.command()
def explain(
    model: ModelPath,
    *,
    module: Module = None,
    inputs: Inputs = None,
    input: Input = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="List every operator that stays with torch.")] = False,
    gate: Gate = "profit",
    numerics: Numerics = "bounded",
    rtol: Rtol = None,
    dsl: Dsl = None,
    arch: Arch = "native",
    device: Device = None,
    json: AsJson = False,
) -> None:
    """Say what would be fused in a model, what is known of it, and why the rest stays with torch. Generates nothing."""
    with command(json) as output:
        options = _options(gate=gate, numerics=numerics, rtol=rtol, dsl=dsl, arch=arch)
        options = dataclasses.replace(options, generation="cached")
        _must_exist(model)
        from akg_dynamo import compiler
        from akg_dynamo.cli import model_file
        from akg_dynamo.cli import optimize as steps
        from akg_dynamo.core.naming import distinct_names
        from akg_dynamo.core.types import SplitReason
        from akg_dynamo.fusion.ops import main_device

        with output.step("Capturing the graph"):
            planned = steps.plan_model(model_file.read(model, module, inputs, input or (), device), options)
            solutions = compiler.solve([c.subgraph for c in planned.cuts], options)
        subs = {c.subgraph.digest: c.subgraph for c in planned.cuts}
        names = dict(zip(subs, distinct_names(list(subs.values())), strict=True))
        rows = []
        for digest, name in names.items():
            found = solutions[digest]
            timing = None if isinstance(found, SplitReason) else found.verdict.timing
            known = (
                str(found)
                if isinstance(found, SplitReason)
                else f"kernel: {timing.ratio:.2f} x eager"
                if timing
                else "kernel"
            )
            rows.append(
                {
                    "op": name,
                    "uses": sum(c.subgraph.digest == digest for c in planned.cuts),
                    "operators": [n.target for n in subs[digest].nodes],
                    "known": known,
                }
            )
        left = [
            {"node": n.name, "target": str(n.target), "reason": str(r)}
            for n, r in planned.plan.reasons.items()
            if n.op == "call_function"
        ]
        counts = steps.left_counts(planned)
        in_vain = options.without_effect(main_device(planned.captured.graph_module.graph))

        def show(console: Console) -> None:
            table = Table("subgraph", "uses", "operators", "known", box=None)
            for row in rows:
                table.add_row(*(str(len(v) if isinstance(v, list) else v) for v in row.values()))
            for note in in_vain:
                console.print(f"without effect: {note}")
            console.print(table)
            console.print(f"\n{len(left)} of {len(planned.operators)} operators stay with torch:")
            for reason, count in counts:
                console.print(f"  {count:5}  {reason}")
            if nodes:
                for each in left:
                    console.print(f"  {each['node']} ({each['target']}): {each['reason']}")

        found_out = {"subgraphs": rows, "left": left, "operators": len(planned.operators), "without_effect": in_vain}
        output.result(found_out, show)


@app.command()
def verify(
    task: Annotated[Path, typer.Argument(metavar="TASK.py", help="A KernelBench file: Model, get_inputs…")],
    kernel: Annotated[Path, typer.Argument(metavar="KERNEL.py", help="A file with ModelNew.")],
    *,
    dsl: Annotated[
        str, typer.Option(help="What it must be written in: auto, triton, cpp, cuda, torch (plain PyTorch).")
    ] = "auto",
    numerics: Numerics = "bounded",
    rtol: Rtol = None,
    device: Device = None,
    seed: Annotated[
        int | None, typer.Option(help="From which the judge draws its inputs. Default: another one each time.")
    ] = None,
    timing: Annotated[bool, typer.Option(help="Measure the speed as well.")] = True,
    reproduce: Annotated[
        Path | None, typer.Option(metavar="FILE.py", help="Where to write a program that shows what is wrong.")
    ] = None,
    sanitize: Annotated[
        bool, typer.Option(help="Run a right kernel for a CUDA device under compute-sanitizer, too (minutes).")
    ] = False,
    json: AsJson = False,
) -> None:
    """Judge a kernel against its task. Exit code 0: right, 1: wrong, 2: cannot be judged."""
    with command(json) as output:
        _must_exist(task)
        _must_exist(kernel)
        from akg_dynamo.cli import verify as steps

        if reproduce is not None and (reproduce.is_dir() or not reproduce.absolute().parent.is_dir()):
            raise UserError(f"--reproduce {reproduce} cannot be written. Give a file in a folder that exists.")
        if dsl not in steps.DSLS:
            raise OptionError(f"--dsl {dsl or repr(dsl)} is not known. Give one of {', '.join(steps.DSLS)}.")
        options = _options(numerics=numerics, rtol=rtol)
        request = steps.Request(
            task,
            kernel,
            dsl,
            options.numerics,
            options.rtol or 1e-2,
            device,
            seed,
            timing,
            reproduce=reproduce is not None,
            sanitize=sanitize,
        )
        with output.step("Judging"):
            found = steps.run(request)

        def show(console: Console) -> None:
            for line in found.lines():
                console.print(line)

        output.result(found.as_json(), show)
        if reproduce is not None and found.verdict.reproduction:
            try:
                reproduce.write_text(found.verdict.reproduction, encoding="utf-8")
            except OSError as error:
                output.complain(f"--reproduce {reproduce} cannot be written: {error.strerror}.")
            else:
                output.progress.print(f"{reproduce} shows it: it needs torch and nothing of AKG.")
        if not found.right:
            raise typer.Exit(NO if found.comparable else CANNOT)


@app.command()
def bench(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of KernelBench-format files.")],
    *,
    only: Annotated[str, typer.Option(help="Only problems whose folder/name matches, with * and ?.")] = "*",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N. auto: every CUDA device, or the CPU.")
    ] = "auto",
    seconds: Annotated[float, typer.Option(help="Of timing per problem.")] = 1.0,
    inductor: Annotated[bool, typer.Option(help="Time Inductor as well.")] = True,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Compile with dynamic=True.")] = False,
    gate: Gate = "profit",
    out: Annotated[Path | None, typer.Option(help="A folder for the raw times, the table and the plot.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw a plot as well (with --out; needs matplotlib).")] = False,
    timeout: Annotated[
        float,
        typer.Option(help="Seconds for each problem, after which it is killed and the next one runs; 0: no limit."),
    ] = 900.0,
    json: AsJson = False,
) -> None:
    """Time problems under eager, Inductor and AKG, interleaved.

    Exit code 1: AKG was wrong, raised, died or hung on a problem. 2: some problem could not be measured for another
    reason. What was measured is printed, and with --out kept, in any case, also when it is interrupted.
    """
    with command(json) as output:
        from akg_dynamo.cli import bench as steps

        _options(gate=gate)
        request = steps.Request(tuple(folders), only, device, seconds, inductor, dynamic, gate, out, plot, timeout)
        done = steps.measure(request, output)

        def show(console: Console) -> None:
            for text in done.lines():
                console.print(text)
            for path in done.written:
                console.print(f"Written: {path}")

        output.result(done.as_json(), show)
        for row in done.rows:
            if row.error:
                output.complain(f"{row.name}: {row.error}")
        if done.trouble:
            output.complain(done.trouble)
        if done.exit_code:
            raise typer.Exit(done.exit_code)


@app.command()
def doctor(json: AsJson = False) -> None:
    """Say what this machine has and what is missing. Exit code 1 when something that is needed is missing."""
    with command(json) as output:
        from akg_dynamo.cli import host

        with output.step("Looking around"):
            health = host.examine()

        def show(console: Console) -> None:
            table = Table(show_header=False, box=None)
            for name, value in health.facts.items():
                table.add_row(name, value)
            console.print(table)
            for device, protection in health.kept_from.items():
                console.print(f"\nwhat keeps a candidate that nobody trusts ({device}) from:")
                measures = Table(show_header=False, box=None)
                for measure in protection.measures:
                    measures.add_row(measure.against, str(measure))
                console.print(measures)
                spared = [f"{m.against} ({m.gap})" for m in health.by_rules_kept_from[device].missing]
                console.print(f"and a kernel by rules, but for: {'; '.join(spared) or 'nothing'}")
            for problem in health.missing:
                console.print(f"missing: {problem}")
            for name, why in health.optional.items():
                console.print(f"not installed: {name} (only for {why})")

        output.result(dataclasses.asdict(health), show)
        if health.missing:
            raise typer.Exit(NO)


# --------------------------------------------------------------------------------------------------------------------
# akg cache


def _store() -> Any:
    """The cache, which these commands, unlike a compilation, cannot do without."""
    from akg_dynamo.cache.store import Store

    store = Store()
    store.open_or_raise()
    return store


def _one(store: Any, name: str) -> Any:
    found = store.find(name) if name else []
    if not found:
        raise CacheError(
            f"no entry's key starts with {name!r} and none is for an operation of that name: see akg cache ls."
        )
    if len(found) > 1:
        keys = ", ".join(e.key[:12] for e in found[:5])
        raise CacheError(f"{name!r} stands for {len(found)} entries ({keys}…): give more of the key.")
    return found[0]


def _summary(entry: Any) -> Mapping[str, object]:
    best = max((w.timing.ratio for w in entry.worth.values()), default=None)
    state = (
        "quarantined" if entry.quarantined
        else "to be judged" if not entry.judged
        else "kernel" if entry.candidate is not None
        else "none"
    )  # fmt: skip
    reason = entry.reason()
    return {
        "key": entry.key,
        "op": entry.provenance.op,
        "state": state,
        "ratio": best,
        "reason": str(reason) if reason else "",
        "age_days": round((time.time() - entry.provenance.created_at) / 86400, 1)
        if entry.provenance.created_at
        else None,
    }


@cache_app.command("ls")
def cache_ls(json: AsJson = False) -> None:
    """List the entries."""
    with command(json) as output:
        store = _store()
        rows = [_summary(e) for e in store.ls()]

        def show(console: Console) -> None:
            table = Table("key", "operation", "state", "x eager", "why not", box=None)
            for row in rows:
                ratio = row["ratio"]
                table.add_row(
                    str(row["key"])[:12], str(row["op"]), str(row["state"]),
                    f"{ratio:.2f}" if isinstance(ratio, float) else "-", str(row["reason"]),
                )  # fmt: skip
            console.print(table)
            console.print(f"{len(rows)} entries, {store.size_bytes() / 1e6:.1f} MB in {store.folder}")

        output.result({"folder": str(store.folder), "entries": rows}, show)


@cache_app.command("show")
def cache_show(
    name: Annotated[str, typer.Argument(help="The start of a key, or an operation.")], json: AsJson = False
) -> None:
    """Show one entry: verdicts, where it came from, and its source."""
    with command(json) as output:
        from akg_dynamo.cache.entry import to_json

        entry = _one(_store(), name)

        def show(console: Console) -> None:
            for key, value in _summary(entry).items():
                console.print(f"{key}: {value}")
            for device, worth in entry.worth.items():
                t = worth.timing
                console.print(f"on {device}: {t.ratio:.2f} x eager ({t.low:.2f} to {t.high:.2f})")
            if entry.right is not None:
                console.print(f"{entry.right.outcome.value}; checked: {'; '.join(entry.right.checked)}")
            if entry.candidate is not None:
                console.print(f"\n{entry.candidate.source}")

        output.result(to_json(entry), show)


@cache_app.command("clear")
def cache_clear(
    name: Annotated[str | None, typer.Argument(help="One entry's key or operation. Default: everything.")] = None,
    json: AsJson = False,
) -> None:
    """Remove one entry, or everything, also from a damaged folder."""
    with command(json) as output:
        from akg_dynamo.cache.store import Store

        if name is None:
            store = Store()
            count = store.clear()
        else:
            store = _store()
            count = store.clear([_one(store, name).key])
        output.result({"removed": count}, lambda console: console.print(f"{count} entries removed from {store.folder}"))


@cache_app.command("check")
def cache_check(json: AsJson = False) -> None:
    """Look for damage; damaged entries are dropped. Exit code 1 when there was any."""
    with command(json) as output:
        problems = _store().check()
        output.result({"problems": problems}, lambda console: console.print("\n".join(problems) or "sound"))
        if problems:
            raise typer.Exit(NO)


@cache_app.command("export")
def cache_export(file: Annotated[Path, typer.Argument(help="The file to write.")], json: AsJson = False) -> None:
    """Write every kernel to one file."""
    with command(json) as output:
        count = _store().export(file)
        output.result({"exported": count}, lambda console: console.print(f"{count} kernels in {file}"))


@cache_app.command("import")
def cache_import(
    file: Annotated[Path, typer.Argument(help="A file by akg cache export.")], json: AsJson = False
) -> None:
    """Add the kernels of an exported file. They are judged here before any is used."""
    with command(json) as output:
        count = _store().import_(file)
        output.result(
            {"imported": count}, lambda console: console.print(f"{count} kernels imported, to be judged on use")
        )


def _ready() -> None:
    """A model's file that crashes the process is named, and text that a terminal cannot show is no crash."""
    with contextlib.suppress(OSError, ValueError):  # no standard error to write to
        faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Entry point of ``akg``."""
    _ready()
    app()


def optimize_main() -> None:
    """Entry point of ``akg-optimize``."""
    _ready()
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command()(optimize)
    single()
