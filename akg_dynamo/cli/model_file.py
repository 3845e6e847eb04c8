"""Reads the file a user gives: which model, which inputs. Every way it can be unusable is one clear `TaskError`."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from akg_dynamo.cli import standalone
from akg_dynamo.core.errors import TaskError

_DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i64": torch.int64,
    "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
_SPEC = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<dims>(\s*\d+\s*(,\s*\d+\s*)*)?)\](?:<(?P<below>\d+))?", re.ASCII)

_SIZE_BITS = 63  # of an int64_t, but for its sign


@dataclass(frozen=True)
class ModelFile:
    """A model that runs on its example inputs (it was run once).

    name: what was asked for in the file (a class, a function or an instance); `model` is in evaluation mode.
    kernelbench: constructed as KernelBench does, from `get_init_inputs()`.
    modes: by module, whether it was in training mode when it was built.
    """

    path: Path
    module: ModuleType
    name: str
    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    kernelbench: bool
    modes: dict[str, bool]


def read(
    path: Path,
    name: str | None = None,
    inputs: str | None = None,
    specs: Sequence[str] = (),
    device: str | None = None,
) -> ModelFile:
    """Loads the model `name` (default: Model) of a file, with inputs from its function `inputs` or from `specs`.

    device: where both are brought; None leaves them where the file puts them.

    Raises:
        TaskError: the file, the model, the inputs or the device cannot be used.
    """
    check_device(device)
    module = _execute(path)
    name = _choose(module, path, name)
    model = _construct(module, path, name)
    args, kwargs = _example_inputs(module, path, inputs, specs)
    if device is not None:
        model.to(device)
        args, kwargs = standalone.brought((args, kwargs), device)
    _check_arity(model, name, path, args, kwargs)
    modes = {part_name: part.training for part_name, part in model.named_modules()}
    model.eval()
    _run_once(model, name, path, args, kwargs)
    named = getattr(module, name)
    kernelbench = isinstance(named, type) and hasattr(module, "get_init_inputs")
    return ModelFile(path, module, name, model, args, kwargs, kernelbench, modes)


def parse_spec(text: str) -> torch.Tensor:
    """A random tensor from ``f32[8,128]``; integers are below 2, or below N for ``i64[8]<N``.

    Raises:
        TaskError: the text is no such thing.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None or match["dtype"] not in _DTYPES:
        raise TaskError(
            f"--input {text!r} is not understood. Write dtype[sizes], such as f32[8,128], or i64[4,16]<1000 for "
            f"integers below 1000; dtypes: {', '.join(_DTYPES)}."
        )
    dtype = _DTYPES[match["dtype"]]
    shape = [int(d) for d in match["dims"].split(",") if d.strip()]
    most = 0 if dtype.is_floating_point else 2 if dtype == torch.bool else torch.iinfo(dtype).max
    below = int(match["below"] or 2)
    if match["below"] is not None and not 0 < below <= most:
        raise TaskError(
            f"--input {text!r}: there are no {match['dtype']} from 0 to below {below}."
            if most
            else f"--input {text!r}: only integers can be asked to be below something."
        )
    if any(size.bit_length() > _SIZE_BITS for size in shape):
        raise TaskError(f"--input {text!r}: no size is that large. Give smaller sizes.")
    try:
        return (torch.randint(0, below, shape) if most else torch.randn(shape)).to(dtype)
    except RuntimeError as error:
        raise TaskError(f"--input {text!r} cannot be made: {_first_line(error)} Give smaller sizes.") from error


def check_device(device: str | None) -> None:
    """Raises TaskError for a device that this machine does not have."""
    try:
        meta = torch.empty(0, device=device).is_meta
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise TaskError(
            f"--device {device or repr(device)} cannot be used here: {_first_line(error)} Give cpu, cuda or cuda:N."
        ) from error
    if meta:
        raise TaskError("--device meta cannot be used: there are no values on it. Give cpu, cuda or cuda:N.")


def _first_line(error: BaseException) -> str:
    """What torch says first, as a sentence: what follows is of its own parts."""
    return f"{str(error).partition(chr(10))[0].partition('. ')[0].rstrip('. ')}."


def _execute(path: Path) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"{path} is not a file. Give the path of a Python file that defines the model.")
    if path.suffix != ".py":
        raise TaskError(f"{path} is not a Python file (.py).")
    if not path.stem.isidentifier():
        raise TaskError(f"{path.name} cannot be imported: rename it to a Python identifier, as in my_model.py.")
    try:
        return standalone.load_source(path, f"akg_user_{path.stem}")
    except SystemExit as error:
        raise TaskError(f"{path} ends the process when it is imported. Guard it with `if __name__ ==`.") from error
    except Exception as error:  # the user's code: anything
        raise TaskError(f"{path} raises when it is imported: {_where(error, path)}. It must import cleanly.") from error


def _choose(module: ModuleType, path: Path, name: str | None) -> str:
    """The name of the model; the message lists what the file has instead."""
    own = [
        n
        for n, v in vars(module).items()
        if (isinstance(v, type) and issubclass(v, torch.nn.Module) and v.__module__ == module.__name__)
        or isinstance(v, torch.nn.Module)
    ]
    has = f"It defines {', '.join(own)}: choose one with --module." if own else "It defines no torch.nn.Module."
    if name is None:
        if hasattr(module, "Model"):
            return "Model"
        raise TaskError(f"{path} has no class Model. {has}")
    if not hasattr(module, name):
        raise TaskError(f"{path} has no {name!r} (--module). {has}")
    return name


def _construct(module: ModuleType, path: Path, name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    try:
        return standalone.build_model(module, name)
    except Exception as error:  # the user's code: anything
        raise TaskError(
            f"{name} in {path} cannot be constructed: {_where(error, path)}. A class is called with what "
            "get_init_inputs() returns, or with nothing; or give --module a function that builds the model."
        ) from error


def _example_inputs(
    module: ModuleType, path: Path, function: str | None, specs: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    torch.manual_seed(1)
    if specs:
        if function is not None:
            raise TaskError("--inputs and --input exclude each other: give the function's name, or each tensor.")
        return tuple(parse_spec(text) for text in specs), {}
    name = function or "get_inputs"
    make = getattr(module, name, None)
    if not callable(make):
        raise TaskError(
            f"{path} has no function {name}() that gives example inputs. Add one that returns a list, name another "
            "with --inputs, or give each tensor on the command line: --input f32[8,128]."
        )
    try:
        made = make()
    except Exception as error:  # the user's code: anything
        raise TaskError(f"{name}() in {path} raises: {_where(error, path)}.") from error
    if isinstance(made, dict):
        return (), dict(made)
    if isinstance(made, torch.Tensor):
        return (made,), {}
    if not isinstance(made, list | tuple):
        kind = type(made).__name__
        raise TaskError(f"{name}() in {path} returns a {kind}; a list of inputs, or a dict by name, is needed.")
    return tuple(made), {}


def _check_arity(model: torch.nn.Module, name: str, path: Path, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = f"{len(args)} inputs" if not kwargs else f"inputs named {', '.join(kwargs)}"
        raise TaskError(f"{name}.forward{signature} in {path} cannot be called with {given}: {error}.") from error


def _run_once(model: torch.nn.Module, name: str, path: Path, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        with torch.no_grad():
            # on copies: the inputs are used again, and a forward may write into them
            copies = torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
            model(*copies[0], **copies[1])
    except Exception as error:  # the user's code: anything
        raise TaskError(
            f"{name} in {path} raises on its example inputs, without AKG: {_where(error, path)}. Correct the model or "
            "the inputs first."
        ) from error


def _where(error: BaseException, path: Path) -> str:
    """The exception in one line, with the line of the user's file that led to it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    place = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.') or 'no message'}{place}"
