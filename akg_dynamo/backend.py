"""The torch.compile backend.

    model = torch.compile(model, backend="akg")
    model = torch.compile(model, backend="akg", options={"numerics": "eager", "generation": "background"})

torch finds `akg` through the entry point group ``torch_dynamo_backends`` and imports this module when the backend is
first named. It must not be registered a second way: torch refuses duplicate names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from akg_dynamo import foresight
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
        graph = foresight.graph_seen(gm, example_inputs, chosen)
        from akg_dynamo.capture import compile_dynamo_graph  # naming the backend should not cost the whole compiler

        compiled = compile_dynamo_graph(gm, example_inputs, chosen)
        foresight.graph_compiled(graph, chosen)
        return compiled

    def reset(self) -> None:
        """Called by torch._dynamo.reset()."""
        import sys

        if "akg_dynamo.capture" in sys.modules:
            from akg_dynamo.capture import reset

            reset()


akg = AkgBackend()
foresight.backend_named()
