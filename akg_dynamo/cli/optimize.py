"""`akg optimize`: from a model's file to a faster file, written once it has proved itself in a process of its own."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx

from akg_dynamo import compiler, exported, integrate
from akg_dynamo.cli import contract, folder, model_file, standalone
from akg_dynamo.cli.model_file import ModelFile
from akg_dynamo.cli.output import Output
from akg_dynamo.core.errors import JudgeError, UserError
from akg_dynamo.core.naming import distinct_names
from akg_dynamo.core.types import Kernel, SplitReason
from akg_dynamo.fusion.extract import Cut, extract
from akg_dynamo.fusion.ops import classify, main_device
from akg_dynamo.fusion.partition import FusionPlan, plan
from akg_dynamo.options import Options
from akg_dynamo.report.markdown import EndToEnd, KernelRow, Optimized, RefusedRow

_FRESH_S = 1200


@dataclass(frozen=True)
class Request:
    """What the command line said."""

    path: Path
    module: str | None
    inputs: str | None
    specs: tuple[str, ...]
    out: Path | None
    options: Options
    device: str | None = None


@dataclass(frozen=True)
class Planned:
    """A captured model and what was cut out of it."""

    captured: exported.Captured
    plan: FusionPlan
    cuts: list[Cut]

    @property
    def operators(self) -> list[fx.Node]:
        """The nodes that call something."""
        return [n for n in self.captured.graph_module.graph.nodes if n.op == "call_function"]


def plan_model(model: ModelFile, options: Options) -> Planned:
    """Captures a model's inference graph and plans what to fuse."""
    captured = exported.capture(model.model, model.args, model.kwargs, model.modes)
    target = options.target_for(main_device(captured.graph_module.graph))
    planned = plan(captured.graph_module, target=target, options=options)
    return Planned(captured, planned, extract(captured.graph_module, planned))


def left_counts(planned: Planned) -> list[tuple[str, int]]:
    """Why nodes were not chosen for any kernel, the most frequent reason first."""
    counts = Counter(reason.kind.value for node, reason in planned.plan.reasons.items() if node.op == "call_function")
    return counts.most_common()


def run(request: Request, out: Output) -> Optimized:
    """Everything, in order. What existed before is replaced last, and kept in ``backup/``."""
    with out.step("Reading the model"):
        model = model_file.read(request.path, request.module, request.inputs, request.specs, request.device)
    target = request.out or request.path.parent
    folder.check_model_name(target, request.path)
    with out.step("Capturing the graph"):
        planned = plan_model(model, request.options)
    with out.step(f"Generating and judging kernels for {len({c.subgraph.digest for c in planned.cuts})} subgraphs"):
        solutions = compiler.solve([c.subgraph for c in planned.cuts], request.options)
    try:
        target.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".akg-", dir=target))
    except OSError as error:
        raise UserError(f"cannot write into {target}: {error.strerror}. Choose another folder with --out.") from error
    try:
        with out.step("Writing the files and running them on their own"):
            pieces, refused = _pieces(planned.cuts, solutions)
            named = [(dataclasses.replace(p, op=folder.own_name(p, target, request.path)), k) for p, k in pieces]
            return _write(request, model, planned, (named, refused), (staging, target))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _pieces(
    cuts: Sequence[Cut], solutions: dict[str, Kernel | SplitReason]
) -> tuple[list[tuple[integrate.Piece, Kernel]], list[RefusedRow]]:
    subs = {c.subgraph.digest: c.subgraph for c in cuts}
    names = dict(zip(subs, distinct_names(list(subs.values())), strict=True))
    uses = Counter(c.subgraph.digest for c in cuts)
    pieces, refused = [], []
    for digest, name in names.items():
        solution = solutions[digest]
        if isinstance(solution, SplitReason):
            refused.append(RefusedRow(name, uses[digest], len(subs[digest].nodes), str(solution)))
        else:
            of_digest = [c for c in cuts if c.subgraph.digest == digest]
            pieces += [(integrate.Piece(cut, name, solution.candidate), solution) for cut in of_digest]
    return pieces, refused


def _write(
    request: Request,
    model: ModelFile,
    planned: Planned,
    found: tuple[list[tuple[integrate.Piece, Kernel]], list[RefusedRow]],
    folders: tuple[Path, Path],
) -> Optimized:
    """Writes the files into the staging folder, lets them prove themselves there, and moves them into place."""
    (pieces, refused), (staging, target) = found, folders
    name = folder.model_file_name(request.path)
    (staging / name).write_text(_text(planned, model, [p for p, _ in pieces], note=""))
    for piece, _ in pieces:
        (staging / folder.kernel_file_name(piece.op)).write_text(piece.text)
    ran = _fresh(model, staging / name, staging, request.device)
    if ran.wrong:
        raise JudgeError(
            f"the written file does not compute what {request.path} computes: {ran.wrong}. Nothing was written. "
            "Each kernel alone was right: this is a defect of AKG, or a model that amplifies rounding without bound."
        )
    note = ""
    end_to_end = EndToEnd(error=ran.error, **ran.times)
    if not pieces:
        note = "No kernel won against torch: forward is the original one."
    elif request.options.gate == "profit" and end_to_end.slower:
        took = f"{1 / end_to_end.ratio:.2f} x the original's time"
        note = f"Kernels won alone, but the whole model took {took} with them: forward is the original one."
        refused += [
            RefusedRow(p.op, 1, len(p.cut.subgraph.nodes), "won alone, but the whole model was slower")
            for p, _ in pieces
        ]
        pieces = []
        for leftover in staging.glob("*_generated.py"):
            leftover.unlink()
        (staging / name).write_text(_text(planned, model, [], note))
    done = Optimized(
        model=str(request.path),
        inputs=tuple(_describe(v) for v in standalone.tensors_of([model.args, model.kwargs])),
        gate=request.options.gate,
        numerics=request.options.numerics,
        kernels=tuple(_rows(pieces)),
        refused=tuple(refused),
        left=tuple(left_counts(planned)),
        operators=len(planned.operators),
        covered=len({n for p, _ in pieces for n in p.cut.nodes if classify(n).computes}),
        end_to_end=end_to_end,
        note=note,
        folder=str(target),
        written=tuple(sorted(p.name for p in staging.glob("*_generated.py"))),
        replaced=(),
    )
    return folder.promote(done, staging, target)


def _text(planned: Planned, model: ModelFile, pieces: list[integrate.Piece], note: str) -> str:
    return integrate.write(
        planned.captured, pieces, model=model.model, model_file=model.path, user_module=model.module.__name__, note=note
    )


def _rows(pieces: list[tuple[integrate.Piece, Kernel]]) -> list[KernelRow]:
    uses = Counter(p.op for p, _ in pieces)
    rows = {p.op: KernelRow.of(p.op, uses[p.op], p.cut.subgraph, kernel) for p, kernel in pieces}
    return list(rows.values())


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _fresh(model: ModelFile, written: Path, scratch: Path, device: str | None) -> contract.Found:
    """Values and times of the written file against the original, in a new process that cannot import AKG."""
    inputs = scratch / "inputs.pt"
    torch.save({"args": model.args, "kwargs": model.kwargs}, inputs)
    request = {
        "original": str(model.path.resolve()), "written": str(written.resolve()), "name": model.name,
        "inputs": str(inputs.resolve()), "from_model": not model.kernelbench, "eval": True, "time": True,
        "device": device,
    }  # fmt: skip
    try:
        return contract.run(request, scratch, _FRESH_S)
    except contract.CannotRun as error:
        raise JudgeError(f"the written file {error}, in a process of its own. Nothing was written.") from error
