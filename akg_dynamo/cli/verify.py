"""`akg verify`: any kernel against its task, by the judge that AKG's own kernels pass. Nothing of it needs a backend.

The task is the user's, and is run here; the kernel is nobody's, and is only read here: it runs in processes of the
judge, confined as far as this machine can (the answer says how far).
"""

from __future__ import annotations

import ast
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from akg_dynamo.agents.verifier import Judge, kernelbench, reading
from akg_dynamo.cli.model_file import check_device
from akg_dynamo.cli.standalone import brought, tensors_of
from akg_dynamo.core.errors import KernelFileError, TaskError
from akg_dynamo.core.types import Outcome, Verdict
from akg_dynamo.fusion.task import Task, read_task

DSLS = ("auto", "triton", "cpp", "cuda", "torch")
_BUILD_TIMEOUT_S = 600.0
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Request:
    """What is asked for. dsl: what the kernel is to be written in, or "auto" for what it seems to be.

    device: where both run; None: where the task puts its inputs.
    seed: of all that is drawn; None: one that nobody knows before.
    reproduce: whether a verdict that is not "right" comes with a file that shows why.
    sanitize: whether a kernel on a device is also run under compute-sanitizer.
    """

    task: Path
    kernel: Path
    dsl: str = "auto"
    numerics: str = "bounded"
    rtol: float = 1e-2
    device: str | None = None
    seed: int | None = None
    timing: bool = True
    reproduce: bool = False
    sanitize: bool = False


@dataclass(frozen=True)
class Found:
    """The judge's verdict, and on what."""

    verdict: Verdict
    dsl: str
    device: str
    seed: int

    @property
    def right(self) -> bool:
        """Whether the kernel computes what the task says."""
        return self.verdict.outcome is Outcome.RIGHT

    @property
    def comparable(self) -> bool:
        """Whether there is anything to be said of the kernel."""
        return self.verdict.outcome not in (Outcome.DEGENERATE, Outcome.NOT_JUDGED)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        v = self.verdict
        return {
            "right": self.right,
            "outcome": v.outcome.value,
            "detail": v.detail,
            "tricks": [{"name": t.name, "text": t.value} for t in v.tricks],
            "checked": list(v.checked),
            "refuses": list(v.refuses),
            "unjudged": list(v.unjudged),
            "timing": asdict(v.timing) if v.timing is not None else None,
            "dsl": self.dsl,
            "device": self.device,
            "seed": self.seed,
            "build_s": v.build_s,
            "judge_s": v.judge_s,
            "confined": v.protection.to_json(),
        }

    def lines(self) -> list[str]:
        """For people."""
        v = self.verdict
        if not self.right:
            tried = [f"It {t.value}." for t in v.tricks]
            return [f"{v.outcome.value}: {v.detail}", *tried, *self._open()]
        what = "plain PyTorch, no kernel of its own" if self.dsl == "torch" else self.dsl
        lines = [f"right ({what}, on {self.device}, seed {self.seed}) on these inputs: {'; '.join(v.checked)}"]
        if v.timing is not None:
            t = v.timing
            faster = "" if t.wins() else ": not faster"
            lines.append(f"{t.ratio:.2f} x the speed of Model ({t.low:.2f} to {t.high:.2f}){faster}")
            if t.cold_ratio:
                cold = f"{t.kernel_cold_us:.4g} us a call against {t.eager_cold_us:.4g}"
                lines.append(f"{t.cold_ratio:.2f} x with cold caches: {cold}")
        lines += [f"It refuses what Model takes: {text}." for text in v.refuses]
        lines += [f"Not judged: {text}." for text in v.unjudged]
        return [*lines, *self._open()]

    def _open(self) -> list[str]:
        """What this machine could not keep the kernel from."""
        return [f"Not confined here: {m.against} ({m.gap})." for m in self.verdict.protection.missing]


def run(request: Request) -> Found:
    """Judges the kernel.

    Raises:
        TaskError: the task or the device cannot be used.
        KernelFileError: the kernel's file cannot be judged as it is.
    """
    task = _task(request)
    source = _read(request.kernel)
    dsl = reading.dsl_of(source) if request.dsl == "auto" else request.dsl
    _check_kernel(request.kernel, source, task)
    seed = secrets.randbits(31) if request.seed is None else request.seed
    job = kernelbench.job(
        task,
        source,
        dsl=dsl,
        name=request.kernel.stem,
        numerics=request.numerics,
        rtol=request.rtol,
        seed=seed,
        want_timing=request.timing,
        reproduce=request.reproduce,
        sanitize=request.sanitize,
        timeout_s=_TIMEOUT_S,
        build_timeout_s=_BUILD_TIMEOUT_S,
        ordinal=torch.device(request.device).index if request.device is not None else None,
    )
    with Judge() as judge:
        verdict = kernelbench.judged(judge, job)
    return Found(verdict, dsl, job.device, seed)


def _task(request: Request) -> Task:
    check_device(request.device)
    try:
        task = read_task(request.task)
    except SystemExit as error:
        raise TaskError(f"{request.task} ends the process when it is run. A task only defines its Model.") from error
    if request.device is not None:
        task = replace(task, cases=tuple(tuple(brought(case, request.device)) for case in task.cases))
    if any(t.is_meta for t in tensors_of(list(task.cases))):
        raise TaskError(
            f"{request.task} puts inputs on the device meta, where there are no values. Choose with --device."
        )
    return task


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KernelFileError(f"{path} cannot be read: {error}") from error


def _check_kernel(path: Path, source: str, task: Task) -> None:
    """What can be said of the file without running it: whether it has a ModelNew that takes what the task gives."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = f" line {error.lineno}:" if isinstance(error, SyntaxError) and error.lineno else ""
        raise KernelFileError(f"{path}:{line} {getattr(error, 'msg', None) or error}") from error
    new = next((n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "ModelNew"), None)
    if new is None:
        raise KernelFileError(
            f"{path} has no class ModelNew. A kernel's file defines it with the constructor of Model."
        )
    keywords = [name for name, _ in task.init_kwargs]
    wrong = _misfit(new, "__init__", len(task.init_args), keywords)
    if wrong:
        raise KernelFileError(f"{path}: {wrong}, as get_init_inputs() gives them.")
    wrong = _misfit(new, "forward", len(task.cases[0]), ())
    if wrong:
        source = "get_inputs_dyn_list()" if task.dynamic else "get_inputs()"
        raise KernelFileError(f"{path}: {wrong}, as {source} gives them.")


def _misfit(new: ast.ClassDef, name: str, given: int, keywords: Sequence[str]) -> str:
    """Why a method cannot be called with so many positional arguments and these keywords; empty if it can."""
    method = next((n for n in new.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
    if method is None:
        return ""  # inherited: it is seen when it is called
    a = method.args
    positional = [p.arg for p in (*a.posonlyargs, *a.args)][1:]  # but self
    by_name = [p.arg for p in a.kwonlyargs]
    needed = positional[: len(positional) - len(a.defaults)]
    needed_by_name = [n for n, d in zip(by_name, a.kw_defaults, strict=True) if d is None]
    too_many = given > len(positional) and a.vararg is None
    missing = [n for n in (*needed[given:], *needed_by_name) if n not in keywords]
    unknown = [k for k in keywords if k not in positional + by_name] if a.kwarg is None else []
    if not (too_many or missing or unknown):
        return ""
    gives = f"{given} positional argument{'s' * (given != 1)}" + "".join(f" and {k}=…" for k in keywords)
    return f"line {method.lineno}: ModelNew.{name}({ast.unparse(a)}) does not take {gives}"
