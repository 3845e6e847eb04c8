"""KernelBench files as jobs: a task is traced into the subgraph it computes, and judged like any other.

    task = read_task("task.py")
    verdict = judge.submit(job(task, Path("kernel.py").read_text(), dsl="triton")).result()

Nothing is compiled, and the candidate is only text here. The task is the user's, and is run: in this process to be
traced, in the judge's to draw its parameters and its own inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind

from akg_dynamo.agents.verifier.gradients import passes
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.judge import Judge
from akg_dynamo.agents.verifier.model_call import FIRST_SEED, ModelCall
from akg_dynamo.agents.verifier.model_inputs import alike
from akg_dynamo.core.errors import TaskError
from akg_dynamo.core.types import Candidate, Outcome, Subgraph, SymInt, Verdict
from akg_dynamo.fusion.extract import whole
from akg_dynamo.fusion.task import Task

SCREENS = frozenset({"reading", "running"})


def job(task: Task, source: str, *, dsl: str, name: str = "kernel", **options: Any) -> Job:
    """The job of judging that source against a task; it trusts nothing unless told otherwise.

    Raises:
        TaskError: the task cannot be traced, or cannot be judged at all.
    """
    subgraph, call = trace(task, interpreted=dsl == "triton" and task_device(task) == "cpu")
    chosen = {"trusted": False, "screens": SCREENS, **options}
    backward = passes(task, call, task_device(task))
    return Job(subgraph, Candidate(name, source, dsl), model=call, backward=backward, **chosen)


def judged(judge: Judge, asked: Job) -> Verdict:
    """The verdict; who wins is timed again on fresh data, and that is the timing that counts."""
    (first,) = judge.judge([asked])
    if first.timing is None or not first.timing.wins():
        return first
    (again,) = judge.judge([replace(asked, want_values=False, want_cold=True, seed=asked.seed + 1)])
    if again.outcome is not Outcome.RIGHT:
        return again
    return replace(first, timing=again.timing)


def task_device(task: Task) -> str:
    """Where its inputs are."""
    kinds = {t.device.type for case in task.cases for t in case if isinstance(t, torch.Tensor)}
    return kinds.pop() if len(kinds) == 1 else "cpu"


def trace(task: Task, *, interpreted: bool = False) -> tuple[Subgraph, ModelCall]:
    """The subgraph that a task computes, and how a ModelNew is called for it."""
    torch.manual_seed(FIRST_SEED)
    model = task.model()
    device = task_device(task)
    model.to(device)
    _check_deterministic(task, model)
    dynamic = _varying(task.cases) if task.dynamic else None
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(model, tuple(task.cases[0]), strict=False, dynamic_shapes=dynamic)
            exported = exported.run_decompositions({})
    except Exception as error:  # whatever a user's code raises, and whatever tracing does
        first = str(error).strip().partition("\n")[0]
        raise TaskError(f"{task.path or task.name} cannot be traced: {type(error).__name__}: {first}") from error
    return _subgraph(task, exported, interpreted)


def _sizes(
    subgraph: Subgraph, inputs: Sequence[torch.fx.Node], signature: ExportGraphSignature, task: Task
) -> dict[str, tuple[int, ...]]:
    """The value of each symbol in each set of the task's inputs."""
    position = {n.name: i for i, n in enumerate(inputs)}
    users = [getattr(s.arg, "name", "") for s in signature.input_specs if s.kind is InputKind.USER_INPUT]
    found: dict[str, tuple[int, ...]] = {}
    for name, values in zip(users, zip(*task.cases, strict=True), strict=True):
        if name in position and all(isinstance(v, torch.Tensor) for v in values):
            for d, dim in enumerate(subgraph.inputs[position[name]].shape):
                if isinstance(dim, str):
                    found.setdefault(dim, tuple(v.shape[d] for v in values))
    return found


def _number(values: Sequence[Any], sizes: dict[str, tuple[int, ...]], where: str) -> Any:
    """What an argument that is no tensor is: always the same, or one of the sizes."""
    if all(v == values[0] for v in values):
        return values[0]
    for symbol, known in sizes.items():
        if known == tuple(values) and symbol.isidentifier():
            return SymInt(symbol)
    raise TaskError(f"{where}: an input is the number {values[0]} in one set and {values[1]} in another, and no size")


def _check_deterministic(task: Task, model: torch.nn.Module) -> None:
    def outputs() -> list[torch.Tensor]:
        with torch.no_grad():
            copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in task.cases[0]]
            found = model(*copies)
        return [t for t in (found if isinstance(found, list | tuple) else [found]) if isinstance(t, torch.Tensor)]

    before = {name: t.clone() for name, t in model.state_dict().items()}
    torch.manual_seed(1)
    first = outputs()
    model.load_state_dict(before)
    torch.manual_seed(2)
    if not all(map(alike, first, outputs())):
        raise TaskError(
            f"{task.path or task.name} gives different outputs for the same inputs (it draws random numbers): no "
            "kernel can be compared with it. Put what is random into get_inputs()."
        )
    model.load_state_dict(before)


def _varying(cases: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """For `torch.export`: the dims in which the sets of inputs differ."""
    found: list[Any] = []
    for values in zip(*cases, strict=True):
        if not isinstance(values[0], torch.Tensor):
            found.append(None)
            continue
        sizes = zip(*(v.shape for v in values), strict=True)
        found.append({d: torch.export.Dim.AUTO for d, n in enumerate(sizes) if len(set(n)) > 1})
    return tuple(found)


def _subgraph(task: Task, exported: torch.export.ExportedProgram, interpreted: bool) -> tuple[Subgraph, ModelCall]:
    signature: ExportGraphSignature = exported.graph_signature
    graph = exported.graph
    by_name = {n.name: n for n in graph.nodes}
    where = str(task.path or task.name)
    returned, updated, updates = [], [], []
    for out in signature.output_specs:
        node = by_name.get(getattr(out.arg, "name", ""))
        if out.kind is OutputKind.BUFFER_MUTATION:
            assert node is not None
            updated.append(node)
            updates.append(str(out.target))
        elif out.kind is OutputKind.USER_OUTPUT and node is not None and isinstance(node.meta["val"], torch.Tensor):
            returned.append(node)
        elif out.kind is OutputKind.USER_INPUT_MUTATION:
            raise TaskError(f"{where}: Model writes into its input; a task computes new tensors")
        else:
            raise TaskError(f"{where}: Model returns what is not a tensor, or a list of tensors")
    subgraph, inputs = whole(graph, [*returned, *updated])
    sizes = {d for s in subgraph.inputs for d in s.shape}
    if any(s.name not in sizes for s in subgraph.symbols):
        raise TaskError(f"{where}: the shape of what Model returns depends on the values of its inputs")
    position = {n.name: i for i, n in enumerate(inputs)}
    state: list[tuple[str, int]] = []
    made: list[tuple[str, int]] = []
    constants, arguments = [], []
    given = iter(zip(*task.cases, strict=True))
    found = _sizes(subgraph, inputs, signature, task)
    for spec in signature.input_specs:
        i = position.get(getattr(spec.arg, "name", ""))
        if spec.kind is InputKind.USER_INPUT:
            values = next(given)
            if i is None and isinstance(values[0], list | tuple | dict):
                raise TaskError(
                    f"{where}: an input is a {type(values[0]).__name__}; give tensors and numbers one by one"
                )
            arguments.append((i, None if i is not None else _number(values, found, where)))
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and i is not None:
            (state if spec.persistent is not False else made).append((str(spec.target), i))
        elif spec.kind is InputKind.CONSTANT_TENSOR and i is not None:
            constants.append((i, exported.constants[str(spec.target)].detach().clone()))
    if not returned:
        raise TaskError(f"{where}: Model returns no tensor")
    with torch.no_grad():
        single = exported.call_spec.out_spec.is_leaf()
    bare = replace(task, cases=())
    return subgraph, ModelCall(
        bare, tuple(state), tuple(constants), tuple(arguments), tuple(updates), single, interpreted, tuple(made)
    )
