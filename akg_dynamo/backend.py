"""The torch.compile backend.

    model = torch.compile(model, backend="akg")
    model = torch.compile(model, backend="akg", options={"numerics": "eager", "generation": "background"})

torch finds `akg` through the entry point group ``torch_dynamo_backends`` and imports this module when the backend is
first named. It must not be registered a second way: torch refuses duplicate names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from akg_dynamo.options import parse

if TYPE_CHECKING:
    from torch import fx


class AkgBackend:
    """One object for the whole process: Dynamo takes every new callable for a new backend, and compiles again."""

    __name__ = "akg"

    def __call__(
        self,
        gm: fx.GraphModule,
        example_inputs: Sequence[Any],
        *,
        mode: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> Callable[..., Any]:
        """Compiles a Dynamo graph.

        Raises:
            OptionError: an unknown mode, option or value.
        """
        chosen = parse(options, mode)
        if chosen.generation != "cached":
            _foresee()
        from akg_dynamo.capture import compile_dynamo_graph  # naming the backend should not cost the whole compiler

        return compile_dynamo_graph(gm, example_inputs, chosen)

    def reset(self) -> None:
        """Called by torch._dynamo.reset()."""
        import sys

        if "akg_dynamo.capture" in sys.modules:
            from akg_dynamo.capture import reset

            reset()


def _foresee() -> None:
    """Starts what builds and judges kernels for a GPU while the model is still traced: it takes a second or two.

    On a CPU it would take a core that tracing needs. Contexts on the device wait until there is something to judge.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's own
        from akg_dynamo.agents.coder import builders
        from akg_dynamo.agents.verifier import foresee

        with contextlib.suppress(OSError):  # raised again when there is something to judge, and reported then
            foresee()
            builders.start()


akg = AkgBackend()
_foresee()
