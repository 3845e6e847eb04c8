"""Starting early what builds and judges kernels for a GPU: its processes take a second or two to load torch and Triton.

What a program has on a GPU when it names the backend will be compiled for that, and if the cache is empty there will be
kernels to make: the processes start while Dynamo loads. Otherwise they start with a graph that this cache has not seen
before, while that is traced; for one that it has seen nothing is started. On a CPU they would take a core that tracing
needs. Contexts on the device wait until there is something to judge.

All of this is about time alone: what is not foreseen starts when it is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from akg_dynamo.options import Options

if TYPE_CHECKING:
    from torch import fx

    from akg_dynamo.cache.store import Store


def backend_named() -> None:
    """Nothing is known but that the backend will be used."""
    if not _on_device():
        return
    from akg_dynamo.cache.store import Store

    if Store().is_new:
        _start()


def graph_seen(gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options) -> str:
    """A graph is about to be compiled. Its name, for `graph_compiled`; "" where there is nothing to foresee."""
    if not _on_device() or options.generation == "cached":
        return ""
    name = _name(gm, example_inputs, options)
    if not _store(options).has_graph(name):
        _start()
    return name


def graph_compiled(name: str, options: Options) -> None:
    """Its kernels are filed: next time there will be nothing to make."""
    if name:
        _store(options).add_graph(name)


def _on_device() -> bool:
    return torch.cuda.is_initialized()  # type: ignore[no-untyped-call,no-any-return]  # torch's own


def _store(options: Options) -> Store:
    from akg_dynamo import compiler

    return compiler.store_for(options)


def _start() -> None:
    from akg_dynamo.agents.coder import builders
    from akg_dynamo.agents.verifier import foresee

    with contextlib.suppress(OSError):  # raised again when there is something to judge, and reported then
        foresee()
        builders.start()


def _name(gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options) -> str:
    from akg_dynamo.cache.signature import generator_version

    def text(value: Any) -> str:
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            return f"{value.dtype}{tuple(value.shape)}{value.stride()}{value.device}{value.requires_grad}"
        return str(value)

    parts = [torch.__version__, generator_version(), repr(options), gm.code, *map(text, example_inputs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
