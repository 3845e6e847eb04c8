"""Tasks: subgraphs as KernelBench files, and KernelBench files as tasks.

A KernelBench file defines `Model` (an nn.Module), `get_init_inputs()` and `get_inputs()`, or, where sizes vary,
`get_inputs_dyn_list()`: one list of inputs per set of sizes. It needs torch and whatever else it imports, never AKG.
With `GRADIENTS = True`, or inputs that require gradients, its backward pass is part of the task.
"""

from __future__ import annotations

import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from akg_dynamo.core.errors import TaskError
from akg_dynamo.core.types import Dim, Ref, Subgraph, TensorSpec
from akg_dynamo.fusion.reference import body, input_names, refs


@dataclass(frozen=True)
class Task:
    """One thing to make faster.

    cases: example inputs for each set of sizes (one set unless the task is `dynamic`).
    init_args, init_kwargs: what `Model` is built with.
    gradients: whether its backward pass is part of it: an input requires them, or the file says `GRADIENTS = True`.
    """

    name: str
    source: str = field(repr=False)
    dynamic: bool
    cases: tuple[tuple[Any, ...], ...] = field(repr=False)
    init_args: tuple[Any, ...] = ()
    init_kwargs: tuple[tuple[str, Any], ...] = ()
    path: Path | None = None
    gradients: bool = False

    def model(self) -> torch.nn.Module:
        """A new instance of the task's `Model`, in a module of its own."""
        where = str(self.path) if self.path else f"<task {self.name}>"
        return _build(_execute(self.source, where), list(self.init_args), dict(self.init_kwargs), where)

    def draw(self) -> tuple[tuple[Any, ...], ...]:
        """Its example inputs once more, from torch's random numbers as they are now."""
        where = str(self.path) if self.path else f"<task {self.name}>"
        return _cases(_execute(self.source, where), where, self.dynamic)


# --------------------------------------------------------------------------------------------------------------------
# Reading


def read_task(path_or_text: Path | str) -> Task:
    """Reads a KernelBench file (a path) or text, and runs it once on its own inputs. TaskError says what is wrong."""
    path, source, where = _load(path_or_text)
    module = _execute(source, where)
    if not isinstance(getattr(module, "Model", None), type):
        raise TaskError(f"{where} defines no class Model: a task needs `class Model(torch.nn.Module)`")
    args, kwargs = _init_inputs(module, where)
    dynamic = hasattr(module, "get_inputs_dyn_list")
    cases = _cases(module, where, dynamic)
    model = _build(module, args, kwargs, where)
    for case in cases:
        _try(model, case, where)
    name = path.stem if path else "task"
    gradients = bool(getattr(module, "GRADIENTS", False)) or any(
        isinstance(a, torch.Tensor) and a.requires_grad for case in cases for a in case
    )
    return Task(name, source, dynamic, cases, tuple(args), tuple(kwargs.items()), path, gradients)


def _load(path_or_text: Path | str) -> tuple[Path | None, str, str]:
    if isinstance(path_or_text, str) and "\n" in path_or_text:
        return None, path_or_text, "<task>"
    path = Path(path_or_text)
    try:
        return path, path.read_text(encoding="utf-8"), str(path)
    except FileNotFoundError as e:
        raise TaskError(f"there is no file {path}") from e
    except (OSError, UnicodeDecodeError) as e:
        raise TaskError(f"cannot read {path}: {e}") from e


def _execute(source: str, where: str) -> ModuleType:
    """Runs a user's file as a module of its own."""
    try:
        code = compile(source, where, "exec")
    except (SyntaxError, ValueError) as e:
        line = f":{e.lineno}" if isinstance(e, SyntaxError) and e.lineno else ""
        raise TaskError(f"{where}{line}: {getattr(e, 'msg', None) or e}") from e
    name = f"akg_task_{abs(hash((where, source))):x}"
    module = ModuleType(name)
    module.__file__ = where
    linecache.cache[where] = (len(source), None, source.splitlines(keepends=True), where)
    sys.modules[name] = module  # dataclasses and pickling look their module up
    if spec_from := importlib.util.spec_from_loader(name, loader=None):
        module.__spec__ = spec_from
    _users(lambda: exec(code, module.__dict__), where, "running the file")
    return module


def _users(call: Callable[[], Any], where: str, doing: str) -> Any:
    """Calls the user's code; whatever it raises becomes a TaskError that points into the file."""
    try:
        return call()
    except TaskError:
        raise
    except Exception as e:  # whatever a user's code raises
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == where]
        at = f":{lines[-1]}" if lines else ""
        raise TaskError(f"{where}{at}: {doing} raised {type(e).__name__}: {e}") from e


def _init_inputs(module: ModuleType, where: str) -> tuple[list[Any], dict[str, Any]]:
    get = getattr(module, "get_init_inputs", None)
    if get is None:
        return [], {}
    given = _users(get, where, "get_init_inputs()")
    if isinstance(given, dict):
        return [], given
    if not isinstance(given, list | tuple):
        raise TaskError(f"{where}: get_init_inputs() must return a list, not {type(given).__name__}")
    if len(given) == 2 and isinstance(given[0], list | tuple) and isinstance(given[1], dict):
        return list(given[0]), given[1]
    return list(given), {}


def _cases(module: ModuleType, where: str, dynamic: bool) -> tuple[tuple[Any, ...], ...]:
    function = "get_inputs_dyn_list" if dynamic else "get_inputs"
    get = getattr(module, function, None)
    if get is None:
        raise TaskError(f"{where} has no get_inputs(): a task gives example inputs (or get_inputs_dyn_list())")
    given = _users(get, where, f"{function}()")
    if not isinstance(given, list | tuple):
        raise TaskError(f"{where}: {function}() must return a list, not {type(given).__name__}")
    if not dynamic:
        return (tuple(given),)
    if not given or not all(isinstance(case, list | tuple) for case in given):
        raise TaskError(f"{where}: get_inputs_dyn_list() must return a list of lists of inputs, one per set of sizes")
    return tuple(tuple(case) for case in given)


def _build(module: ModuleType, args: list[Any], kwargs: dict[str, Any], where: str) -> torch.nn.Module:
    model = module.Model
    problem = _misfit(model, args, kwargs)
    if problem:
        raise TaskError(f"{where}: Model() does not take what get_init_inputs() gives: {problem}")
    built = _users(lambda: model(*args, **kwargs), where, "Model()")
    if not isinstance(built, torch.nn.Module):
        raise TaskError(f"{where}: Model is not a torch.nn.Module")
    return built


def _misfit(function: Callable[..., Any], args: list[Any] | tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as e:
        return str(e)
    except ValueError:
        return ""  # a signature that Python cannot see
    return ""


def _try(model: torch.nn.Module, case: tuple[Any, ...], where: str) -> None:
    problem = _misfit(model.forward, case, {})
    if problem:
        raise TaskError(f"{where}: forward() does not take the {len(case)} inputs given: {problem}")

    def run() -> object:
        with torch.no_grad():
            return model(*case)

    _users(run, where, "forward()")


# --------------------------------------------------------------------------------------------------------------------
# Writing


def to_task(sub: Subgraph, name: str) -> Task:
    """A subgraph as a KernelBench file that runs with torch alone."""
    source = _source(sub, name)
    cases = _cases(_execute(source, f"<task {name}>"), f"<task {name}>", bool(sub.symbols))
    return Task(name, source, bool(sub.symbols), cases)


def _source(sub: Subgraph, name: str) -> str:
    inputs = input_names(sub)
    parameters = ", ".join([*inputs, *(s.name for s in sub.symbols)])
    operators = ", ".join(dict.fromkeys(n.target.split(".")[1] for n in sub.nodes if n.target != "getitem"))
    lines = [
        f'"""{name}: {operators}."""'.replace("\\", ""),
        "",
        "import torch",
        "from torch import device, nn",
        "",
        "",
    ]
    if "device(" not in "\n".join(body(sub)):
        lines[3] = "from torch import nn"
    lines += ["class Model(nn.Module):", f"    def forward(self, {parameters}):"]
    lines += [f"        # {n}: {s.dtype}{_list(s.shape)}" for n, s in zip(inputs, sub.inputs, strict=True)]
    lines += ["        " + line for line in body(sub)]
    makers = [_maker(sub, i) for i in range(len(sub.inputs))]
    strided = any("_strided(" in m for m in makers)
    if strided:
        lines += ["", "", *_STRIDED]
    lines += ["", "", "def get_init_inputs():", "    return []", "", ""]
    names = [s.name for s in sub.symbols]
    head = f"def _inputs({', '.join(names)}):" if names else "def get_inputs():"
    lines += [head, "    torch.manual_seed(0)", "    return ["]
    lines += [f"        {m}," for m in makers]
    if names:
        lines += [f"        {', '.join(names)},"]
    lines += ["    ]"]
    if names:
        sizes = _size_sets(sub)
        lines += ["", "", "def get_inputs_dyn_list():", "    return ["]
        lines += [f"        _inputs({', '.join(map(str, s))})," for s in sizes]
        lines += ["    ]"]
    return "\n".join(lines) + "\n"


_STRIDED = [
    "def _strided(values, shape, stride):",
    '    """The leading values, laid out in memory as the stride says."""',
    "    return torch.as_strided(values, shape, stride)",
]


def _list(dims: tuple[Dim, ...]) -> str:
    return "[" + ", ".join(map(str, dims)) + "]"


def _contiguous(spec: TensorSpec) -> bool:
    # products of symbols are written in too many ways to compare as text: compare them at odd values
    values = {f"s{i}": 97 + 12 * i for i in range(64)}
    shape = [evaluate(d, values) for d in spec.shape]
    stride = [evaluate(d, values) for d in spec.stride]
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def evaluate(dim: Dim, symbols: dict[str, int]) -> int:
    """A dim's value."""
    if isinstance(dim, int):
        return dim
    return int(eval(dim, {"__builtins__": {}, "min": min, "max": max}, symbols))  # our own text: sizes only


def _size_sets(sub: Subgraph) -> list[tuple[int, ...]]:
    """The traced sizes, and others inside the bounds: smaller, and off every tile boundary."""
    sets = []
    for halves, more in ((0, 0), (1, 1), (0, 3)):
        sizes = []
        for s in sub.symbols:
            value = max((s.hint >> halves) + more, s.lo)
            sizes.append(value if s.hi is None else min(value, s.hi))
        sets.append(tuple(sizes))
    return list(dict.fromkeys(sets))


def _maker(sub: Subgraph, index: int) -> str:
    """An expression that makes an example of one input."""
    spec = sub.inputs[index]
    if _contiguous(spec):
        return _values(sub, index, _list(spec.shape))
    extent = " + ".join(["1", *(f"({n} - 1) * ({t})" for n, t in zip(spec.shape, spec.stride, strict=True) if t != 0)])
    if not sub.symbols:
        extent = str(eval(extent, {"__builtins__": {}}))
    return f"_strided({_values(sub, index, f'[{extent}]')}, {_list(spec.shape)}, {_list(spec.stride)})"


def _values(sub: Subgraph, index: int, shape: str) -> str:
    dtype = sub.inputs[index].dtype
    if dtype == "bool":
        return f"torch.rand({shape}) > 0.5"
    if "int" in dtype:
        limit = _index_limit(sub, index)
        # without a known range: small and never zero, for something may divide by it
        low, high = ("0", limit) if limit is not None else ("1", "9")
        return f"torch.randint({low}, {high}, {shape}, dtype=torch.{dtype})"
    draw = "rand" if _needs_unit_interval(sub, index) else "randn"
    suffix = "" if dtype == "float32" else f", dtype=torch.{dtype}"
    return f"torch.{draw}({shape}{suffix})"


_UNIT = frozenset(
    {"binary_cross_entropy", "binary_cross_entropy_backward", "log", "log2", "log10", "sqrt", "rsqrt", "acos", "asin"}
)


def _needs_unit_interval(sub: Subgraph, index: int) -> bool:
    return any(
        n.target.split(".")[1:2] and n.target.split(".")[1] in _UNIT and index in refs(n.args) for n in sub.nodes
    )


_FLOWS = frozenset(
    {
        "_to_copy", "_unsafe_view", "alias", "clamp", "clamp_max", "clamp_min", "clone", "detach", "expand", "permute",
        "select", "slice", "squeeze", "t", "transpose", "unsqueeze", "view", "where",
    }
)  # fmt: skip


def _index_limit(sub: Subgraph, index: int) -> str | None:
    """The smallest size that this input indexes, followed through views and the like."""
    limits: list[Dim] = []
    reached = {index}
    first = len(sub.inputs)
    for i, node in enumerate(sub.nodes):
        if not reached.intersection(refs(node.args)) or node.target == "getitem":
            continue
        base = node.target.split(".")[1]
        args = node.args
        if base in _FLOWS:
            reached.add(first + i)
        elif base == "embedding" and refs(args[1])[0] in reached:
            limits.append(_size(sub, args[0], 0))
        elif base in ("gather", "index_select") and refs(args[2])[0] in reached:
            dim = args[1]
            assert isinstance(dim, int)
            limits.append(_size(sub, args[0], dim))
        elif base in ("index", "_unsafe_index") and isinstance(args[1], tuple):
            limits += [_size(sub, args[0], d) for d, a in enumerate(args[1]) if reached.intersection(refs(a))]
        elif base in ("nll_loss_forward", "nll_loss2d_forward") and refs(args[1])[0] in reached:
            limits.append(_size(sub, args[0], 1 if base == "nll_loss2d_forward" else -1))
        elif base == "nll_loss_backward" and refs(args[2])[0] in reached:
            limits.append(_size(sub, args[1], -1))
    if not limits:
        return None
    text = str(limits[0])
    for limit in limits[1:]:
        text = f"min({text}, {limit})"
    return text


def _size(sub: Subgraph, arg: object, dim: int) -> Dim:
    assert isinstance(arg, Ref)
    spec = sub.spec_of(arg.index)
    assert isinstance(spec, TensorSpec)
    return spec.shape[dim] if spec.shape else 1
