"""A model's inference graph by torch.export, for a file of its own.

    captured = capture(model, args, kwargs)          the functional ATen graph, inputs named from the state_dict

The graph is decomposed as AOTAutograd does (composite operators that have kernels of their own are kept): the same
operators as under torch.compile, so the same subgraphs, digests and cache entries; but with parameters and buffers by
their names and without Dynamo's guards, since the written file has guards of its own.
"""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from akg_dynamo.core.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captured:
    """An inference graph. `frozen`: modules (by name, "" is the model) that compute something else in training mode."""

    program: ExportedProgram
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    frozen: tuple[str, ...]

    @property
    def graph_module(self) -> fx.GraphModule:
        """The functional ATen graph; parameters and buffers are inputs."""
        graph_module: fx.GraphModule = self.program.graph_module
        return graph_module


@cache
def _implicit_decompositions() -> dict[Any, Any]:
    """What AOTAutograd does implicitly: operators that are only compositions of others are taken apart."""
    from torch._export.utils import _collect_all_valid_cia_ops, _get_decomp_for_cia

    return {op: _get_decomp_for_cia(op) for op in _collect_all_valid_cia_ops()}


def _export(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.export's own use of deprecated parts of torch
        exported = torch.export.export(model, args, kwargs, strict=False)
        decomposed: ExportedProgram = exported.run_decompositions(_implicit_decompositions())
        return decomposed


def capture(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], built: Mapping[str, bool] | None = None
) -> Captured:
    """The inference graph of a model in evaluation mode.

    built: by module, whether it was in training mode when it was built; None if that is as it is now.

    Raises:
        UserError: the model cannot be captured as one graph: the message names the line and what to do.
    """
    modes = {name: module.training for name, module in model.named_modules()}
    try:
        model.eval()
        program = _export(model, args, kwargs)
        return Captured(program, args, kwargs, _frozen(model, args, kwargs, program, built or modes))
    except UserError:
        raise
    except Exception as error:  # the user's forward may raise anything, and so may torch on its account
        raise _explained(error) from error
    finally:
        _set_modes(model, modes)


def _set_modes(model: torch.nn.Module, modes: Mapping[str, bool]) -> None:
    for name, module in model.named_modules():
        module.training = modes[name]


def _frozen(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    program: ExportedProgram,
    modes: Mapping[str, bool],
) -> tuple[str, ...]:
    """The modules that must be in evaluation mode for the graph to be what the model computes.

    KernelBench calls models in the mode they were built in, which is training mode; for most it makes no difference,
    and some put a part of themselves into evaluation mode.
    """

    def same(wanted: Mapping[str, bool]) -> bool:
        _set_modes(model, wanted)
        try:
            return str(_export(model, args, kwargs).graph) == str(program.graph)
        except Exception as error:  # noqa: BLE001 - what cannot be captured in this mode is not the same in it
            log.warning("the written file will be for evaluation mode only: in training mode, %s", _explained(error))
            return False

    if same(dict.fromkeys(modes, True)):
        return ()
    evaluated = tuple(name for name, training in modes.items() if not training)
    return evaluated if evaluated and modes[""] and same(modes) else ("",)


def _explained(error: Exception) -> UserError:
    """torch.export's exception as one paragraph."""
    text = " ".join(str(error).split())
    line = next(
        (
            f"{Path(f.filename).name}:{f.lineno}: {f.line}"
            for f in reversed(traceback.extract_tb(error.__traceback__))
            if _is_users(f.filename)
        ),
        "",
    )
    place = f" at {line}" if line else ""
    kind = type(error).__name__
    if "data-dependent" in text.lower() or kind in ("GuardOnDataDependentSymNode", "DataDependentOutputException"):
        return UserError(
            f"the model's control flow or shapes depend on the data in a tensor{place}, so it is not one graph. "
            "Use torch.where or torch.cond there, or give akg optimize the part of the model that has none of it "
            '(--module); torch.compile(model, backend="akg") handles such a model in pieces.'
        )
    if kind == "UnsupportedOperatorException" or "fake" in text.lower() or "meta" in text.lower():
        return UserError(
            f"an operator has no meta (fake tensor) function{place}, so its output's shape is not known without "
            f"running it: {text[:300]}. Register one with torch.library.register_fake, or leave that operator out."
        )
    return UserError(f"torch.export cannot capture the model{place}: {kind}: {text[:400]}")


def _is_users(filename: str) -> bool:
    """Whether a frame is the user's: not of torch, nor ours."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    return not filename.startswith(ours) and not filename.startswith("<") and "/lib/python" not in filename
