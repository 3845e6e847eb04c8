"""A KernelBench file as a model and its inputs on a device."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from akg_dynamo.core.errors import UserError


@dataclass(frozen=True)
class Problem:
    """A model, ready to be called with `inputs`, all on one device."""

    name: str
    path: Path
    model: nn.Module
    inputs: tuple[Any, ...]


def find(folders: Iterable[Path], only: str = "*") -> list[Path]:
    """The problem files in folders (and below), sorted; a file stands for itself. UserError if there are none.

    only: a pattern with * and ? for "folder/name".
    """
    import fnmatch

    found: list[Path] = []
    for folder in folders:
        if folder.is_file():
            if folder.suffix != ".py":
                raise UserError(
                    f"{folder} is not a Python file (.py). Give KernelBench-format files, or folders of them."
                )
            found.append(folder)
        elif folder.is_dir():
            inside = sorted(p for p in folder.rglob("*.py") if not p.name.startswith(("_", ".")))
            if not inside:
                raise UserError(
                    f"{folder} has no problems: no Python file (.py) is in it or below, names that begin with _ or . "
                    "aside. Give folders of KernelBench-format files."
                )
            found += inside
        else:
            raise UserError(f"{folder} is neither a file nor a folder. Give folders of KernelBench-format files.")
    chosen = [p for p in found if fnmatch.fnmatch(name_of(p), only)]
    if not chosen:
        raise UserError(
            f"no problem matches --only {only!r} in {', '.join(map(str, folders))}. Give a pattern for the names of "
            f"the {len(found)} there, such as {name_of(found[0])!r}."
        )
    return chosen


def name_of(path: Path) -> str:
    """How a problem is called in tables: its folder and its file."""
    return f"{path.parent.name}/{path.stem}"


def load(path: Path, device: torch.device, seed: int = 0) -> Problem:
    """The problem, with factories like torch.randn making their tensors on `device` at once.

    UserError for a file that is no KernelBench problem.
    """
    module = _module(path)
    for name in ("Model", "get_inputs", "get_init_inputs"):
        if not hasattr(module, name):
            raise UserError(f"{path} has no {name}. A KernelBench problem defines Model, get_inputs, get_init_inputs.")
    torch.manual_seed(seed)
    with torch.device(device):
        model = module.Model(*_moved(module.get_init_inputs(), device)).to(device)
        inputs = tuple(_moved(module.get_inputs(), device))
    return Problem(name_of(path), path, model, inputs)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"akg_bench_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _moved(values: Iterable[Any], device: torch.device) -> list[Any]:
    return [v.to(device) if isinstance(v, torch.Tensor) else v for v in values]


def tensors(value: object) -> tuple[torch.Tensor, ...]:
    """What a model returned, as tensors (other leaves are passed over)."""
    if isinstance(value, torch.Tensor):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(t for v in value for t in tensors(v))
    if isinstance(value, dict):
        return tuple(t for v in value.values() for t in tensors(v))
    return ()


def moved_bytes(problem: Problem, outputs: Iterable[torch.Tensor]) -> int:
    """Every tensor input, parameter, buffer and output once: the least that any kernel moves."""
    state = [*problem.model.parameters(), *problem.model.buffers()]
    return sum(t.numel() * t.element_size() for t in (*tensors(problem.inputs), *state, *outputs))
