"""Loads a model's file, and runs two of them in a process of its own. Imports torch and nothing of AKG.

Run as a program on a request's file, with AKG made impossible to import: what `akg optimize` wrote must stand alone. It
saves what the original, the written file and the original in fp64 give on the same inputs, for `contract` to judge,
what the original in fp64 gives on absolute values, and how far it is off itself where its results are float64; and
answers with the times of the two as one line of JSON.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.abc
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ROUNDS = 9
_T95 = 2.306  # Student's t for that many rounds
_ROUND_S = 0.05
_DRAWS = 5  # of a task's inputs
_MOST_DRAWS = 32  # where outputs are small
_ENOUGH_ELEMENTS = 1024
_DRAWING_S = 30.0


class NotStandalone(importlib.abc.MetaPathFinder):
    """Refuses to find AKG, wherever it is installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """An ImportError instead of a module."""
        if fullname.partition(".")[0] == "akg_dynamo":
            raise ImportError("the written file must not need akg_dynamo")


def load_source(path: Path, name: str) -> ModuleType:
    """Executes a Python file as module `name`; files next to it can be imported by it."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec.loader.exec_module(module)
    return module


def build_model(module: ModuleType, name: str) -> torch.nn.Module:
    """The model `name` of a file: a class (constructed with get_init_inputs()), a function, or an instance."""
    named = getattr(module, name)
    if isinstance(named, torch.nn.Module):
        return named
    init = module.get_init_inputs() if isinstance(named, type) and hasattr(module, "get_init_inputs") else []
    if len(init) == 2 and isinstance(init[0], list | tuple) and isinstance(init[1], dict):
        model = named(*init[0], **init[1])
    else:
        model = named(*init)
    assert isinstance(model, torch.nn.Module), f"{name} gives a {type(model).__name__}, not a torch.nn.Module"
    return model


def tensors_of(value: object) -> Iterator[torch.Tensor]:
    """The tensors in nested containers, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_of(inner)
    elif dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from tensors_of(getattr(value, f.name))


def brought(values: Any, device: str) -> Any:
    """The same with all tensors on a device."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), values)


def _seconds(call: Callable[[], object], n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        call()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / n


def race(original: Callable[[], object], new: Callable[[], object]) -> dict[str, float]:
    """Microseconds per call of both, and the ratio with its 95% interval: ABBA, compared within each round."""
    n = max(1, int(_ROUND_S / 2 / max(_seconds(original, 2), 1e-7)))
    _seconds(new, 2)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        once = [_seconds((original, new)[which], n) for which in (0, 1, 1, 0)]
        times[0].append((once[0] + once[3]) / 2)
        times[1].append((once[1] + once[2]) / 2)
    logs = [math.log(a / b) for a, b in zip(*times, strict=True)]
    middle, half = statistics.median(logs), _T95 * statistics.stdev(logs) / math.sqrt(len(logs))
    return {
        "original_us": statistics.median(times[0]) * 1e6,
        "new_us": statistics.median(times[1]) * 1e6,
        "ratio": math.exp(middle),
        "low": math.exp(middle - half),
        "high": math.exp(middle + half),
    }


class _All(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Casts to any float become casts to one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = torch.utils._pytree.tree_map_only(torch.dtype, self._other, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _other(self, dtype: torch.dtype) -> torch.dtype:
        return self.dtype if dtype.is_floating_point else dtype


Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def _input_sets(request: dict[str, Any], original: ModuleType) -> Iterator[Inputs]:
    """The saved example inputs, or for a task draws of its own, on the device that was asked for."""
    device = request["device"]
    return (brought(s, device) if device is not None else s for s in _own_input_sets(request, original))


def _own_input_sets(request: dict[str, Any], original: ModuleType) -> Iterator[Inputs]:
    if request["inputs"] is not None:
        saved = torch.load(request["inputs"], weights_only=False)
        yield saved["args"], saved["kwargs"]
    elif hasattr(original, "get_inputs_dyn_list"):
        for inputs in original.get_inputs_dyn_list():
            yield tuple(inputs), {}
    else:
        for seed in range(_MOST_DRAWS):
            torch.manual_seed(seed)
            yield tuple(original.get_inputs()), {}


def _copied(inputs: Inputs, dtype: torch.dtype | None = None) -> Inputs:
    """Copies of the tensors, the floats among them in that dtype."""
    return _each(lambda t: t.to(dtype, copy=True) if dtype is not None and t.is_floating_point() else t.clone(), inputs)


def _absolute(inputs: Inputs) -> Inputs:
    return _each(lambda t: t.abs() if t.is_floating_point() else t, inputs)


def _each(function: Callable[[torch.Tensor], torch.Tensor], inputs: Inputs) -> Inputs:
    found: Inputs = torch.utils._pytree.tree_map_only(torch.Tensor, function, inputs)
    return found


def _outcome(model: torch.nn.Module, inputs: Inputs, *, with_state: bool) -> list[torch.Tensor]:
    """What a call returns, the inputs as it left them, and its state: what it writes is its result, too."""
    torch.manual_seed(1)
    returned = model(*inputs[0], **inputs[1])
    state = list(model.state_dict().values()) if with_state else []
    return [t.detach().cpu() for t in (*tensors_of(returned), *tensors_of(inputs), *tensors_of(state))]


def _all_in(
    dtype: torch.dtype, model: torch.nn.Module, inputs: Inputs, *, with_state: bool
) -> list[torch.Tensor] | None:
    """The same with all floats of one dtype; None for a model that cannot be run so."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _All(dtype):
            return _outcome(copy.deepcopy(model).to(dtype), _copied(inputs, dtype), with_state=with_state)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None
    finally:
        torch.set_default_dtype(default)


def _double_error(
    model: torch.nn.Module, inputs: Inputs, expected: list[torch.Tensor], *, with_state: bool
) -> list[torch.Tensor] | None:
    """How far the model in float64 may be off: as far as in float32, scaled, or from itself on reversed inputs.

    The second where values do not depend on positions, so that those come out reversed.
    """
    narrow = _copied(inputs, torch.float32)
    rounded = copy.deepcopy(model).to(torch.float32)
    single = _all_in(torch.float32, rounded, narrow, with_state=with_state)
    double = _all_in(torch.float64, rounded, narrow, with_state=with_state)
    if single is None or double is None:
        return None
    try:
        backwards = _outcome(copy.deepcopy(model), _each(_reversed, inputs), with_state=with_state)
    except (RuntimeError, IndexError, ValueError):
        backwards = expected
    errors = []
    for want, back, s, d in zip(expected, backwards, single, double, strict=True):
        error = torch.zeros(want.shape, dtype=torch.float64)
        if want.dtype == torch.float64 and s.shape == d.shape == want.shape == back.shape:
            error = (s.double() - d).abs() * 2.0**-29
            other = (_reversed(back) - want).abs().nan_to_num(0.0)
            if not other.numel() or float(other.max()) <= 1e-9 * float(want.abs().nan_to_num(0.0, 0.0, 0.0).max()):
                error = torch.fmax(error, other)
        errors.append(error)
    return errors


def _reversed(t: torch.Tensor) -> torch.Tensor:
    return t.flip(tuple(range(t.dim())))


def _is_enough(outcome: list[torch.Tensor], draws: int) -> bool:
    """Whether there is enough to compare errors statistically."""
    smallest = min((t.numel() for t in outcome if t.is_floating_point()), default=_ENOUGH_ELEMENTS)
    return draws >= _DRAWS and draws * smallest >= _ENOUGH_ELEMENTS


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Runs a request: original file and model name, written file, saved inputs (or None: the file's own), a device (or
    None: where the file puts them)."""
    torch.manual_seed(0)
    module = load_source(Path(request["original"]), "akg_original")
    original = build_model(module, request["name"])
    if request["device"] is not None:
        original.to(request["device"])
    written = load_source(Path(request["written"]), "akg_written")
    if request["from_model"]:
        new = written.ModelNew.from_model(copy.deepcopy(original))
    else:
        for name in ("get_init_inputs",):  # a kernel's file need not repeat what its task says
            if not hasattr(written, name) and hasattr(module, name):
                setattr(written, name, getattr(module, name))
        torch.manual_seed(0)
        new = build_model(written, "ModelNew")
        if request["device"] is not None:
            new.to(request["device"])
        if list(new.state_dict()) == list(original.state_dict()):
            new.load_state_dict(original.state_dict())
    if request["eval"]:
        original, new = original.eval(), new.eval()
    with_state = list(new.state_dict()) == list(original.state_dict())
    outcomes: list[dict[str, list[torch.Tensor] | None]] = []
    started = time.perf_counter()
    with torch.no_grad():
        for inputs in _input_sets(request, module):
            exact = _all_in(torch.float64, original, inputs, with_state=with_state)
            absolute = _all_in(torch.float64, original, _absolute(inputs), with_state=with_state)
            got = _outcome(new, _copied(inputs), with_state=with_state)
            expected = _outcome(original, _copied(inputs), with_state=with_state)
            error = None
            if any(t.dtype == torch.float64 for t in expected):
                error = _double_error(original, inputs, expected, with_state=with_state)
            found = {"got": got, "expected": expected, "exact": exact, "absolute": absolute, "double_error": error}
            outcomes.append(found)
            late = time.perf_counter() - started > _DRAWING_S and len(outcomes) >= _DRAWS
            if late or _is_enough(expected, len(outcomes)):
                break
        torch.save(outcomes, request["outcomes"])
        if not request["time"]:
            return {}
        args, kwargs = next(iter(_input_sets(request, module)))
        return race(lambda: original(*args, **kwargs), lambda: new(*args, **kwargs))


if __name__ == "__main__":
    sys.meta_path.insert(0, NotStandalone())
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
