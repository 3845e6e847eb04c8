"""Loads a model's file, and compares two of them in a process of its own. Imports torch and nothing of AKG.

Run as a program on a request's file it answers with one line of JSON: values and times of the original against the
written file, with AKG made impossible to import: what `akg optimize` wrote must stand alone.
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

_RMS_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Whole models: errors of many operators add up. Each kernel on its own was held to the judge's contract before."""

_ROUNDS = 9
_T95 = 2.306  # Student's t for that many rounds
_ROUND_S = 0.05
_DRAWS = 5


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


def difference(got: object, expected: object) -> tuple[float, str]:
    """The largest relative RMS error of any output, and what is wrong ("" when nothing is)."""
    ours, theirs = list(tensors_of(got)), list(tensors_of(expected))
    if len(ours) != len(theirs):
        return float("inf"), f"{len(ours)} output tensors, the original has {len(theirs)}"
    worst = 0.0
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a.dtype != b.dtype or a.shape != b.shape:
            return float("inf"), f"output {i}: {a.dtype}{list(a.shape)}, the original has {b.dtype}{list(b.shape)}"
        if not b.dtype.is_floating_point:
            if not torch.equal(a, b):
                return float("inf"), f"output {i}: {int((a != b).sum())} of {a.numel()} values differ"
            continue
        wide_a, wide_b = a.double(), b.double()
        finite = torch.isfinite(wide_b)
        odd_a, odd_b = (wide.masked_fill(finite, 0.0) for wide in (wide_a, wide_b))
        if not torch.equal(odd_a.nan_to_num(), odd_b.nan_to_num()) or not torch.isfinite(wide_a[finite]).all():
            return float("inf"), f"output {i}: NaN or Inf elsewhere than in the original"
        scale = wide_b[finite].square().mean().sqrt().item() if finite.any() else 0.0
        error = (wide_a - wide_b)[finite].square().mean().sqrt().item() if finite.any() else 0.0
        relative = error / scale if scale else error
        if not relative <= _RMS_TOLERANCE.get(b.dtype, 5e-2):
            return relative, f"output {i}: RMS error {error:.3g} where the values' RMS is {scale:.3g}"
        worst = max(worst, relative)
    return worst, ""


def _seconds(call: Callable[[], object], n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        call()
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


def _input_sets(request: dict[str, Any], original: ModuleType) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The saved example inputs, or for a task several draws of its own."""
    if request["inputs"] is not None:
        saved = torch.load(request["inputs"], weights_only=False)
        return [(saved["args"], saved["kwargs"])]
    if hasattr(original, "get_inputs_dyn_list"):
        return [(tuple(inputs), {}) for inputs in original.get_inputs_dyn_list()]
    sets: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for seed in range(_DRAWS):
        torch.manual_seed(seed)
        sets.append((tuple(original.get_inputs()), {}))
    return sets


def _on_copies(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[object, object]:
    """The result, and the inputs as the model left them."""
    args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
    torch.manual_seed(1)
    return model(*args, **kwargs), (args, kwargs)


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """Runs a request: original file and model name, written file, saved inputs (or None: the file's own)."""
    torch.manual_seed(0)
    module = load_source(Path(request["original"]), "akg_original")
    original = build_model(module, request["name"])
    written = load_source(Path(request["written"]), "akg_written")
    if request["from_model"]:
        new = written.ModelNew.from_model(copy.deepcopy(original))
    else:
        for name in ("get_init_inputs",):  # a kernel's file need not repeat what its task says
            if not hasattr(written, name) and hasattr(module, name):
                setattr(written, name, getattr(module, name))
        torch.manual_seed(0)
        new = build_model(written, "ModelNew")
        if list(new.state_dict()) == list(original.state_dict()):
            new.load_state_dict(original.state_dict())
    if request["eval"]:
        original, new = original.eval(), new.eval()
    answer: dict[str, Any] = {"error": 0.0, "wrong": "", "inputs": 0}
    with torch.no_grad():
        sets = _input_sets(request, module)
        for args, kwargs in sets:
            got, expected = _on_copies(new, args, kwargs), _on_copies(original, args, kwargs)
            # what a model writes into its inputs and buffers is as much its result as what it returns
            error, wrong = difference(got, expected)
            if not wrong and list(new.state_dict()) == list(original.state_dict()):
                state_error, wrong = difference(dict(new.state_dict()), dict(original.state_dict()))
                error, wrong = max(error, state_error), wrong and f"state_dict: {wrong}"
            answer = {"error": max(error, answer["error"]), "wrong": wrong, "inputs": answer["inputs"] + 1}
            if wrong:
                return answer
        if request["time"]:
            args, kwargs = sets[0]
            answer |= race(lambda: original(*args, **kwargs), lambda: new(*args, **kwargs))
    return answer


if __name__ == "__main__":
    sys.meta_path.insert(0, NotStandalone())
    print(json.dumps(compare(json.loads(Path(sys.argv[1]).read_text()))))
