"""Which views are never made: a kernel reads memory, and knows the layout without being told.

A tensor object costs as much as a small kernel. Where only kernels that ask for nothing but addresses read a view, and
it begins where its base does, they are given the base:

    unsqueeze = torch.unsqueeze(weight, 1)
    mul = mul_relu(x, unsqueeze)                      mul = mul_relu(x, weight)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import fx

from akg_dynamo.schedule import Region, Step

aten = torch.ops.aten

_VIEWS = frozenset(
    {
        aten.alias.default,
        aten.detach.default,
        aten.expand.default,
        aten.permute.default,
        aten.select.int,  # the first
        aten.slice.Tensor,  # from the first on
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.t.default,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
    }
)
"""Those that never copy, and that change neither dtype nor device."""


def unmade_views(
    steps: Sequence[Step], output: fx.Node, *, kept: Collection[fx.Node] = ()
) -> Mapping[fx.Node, fx.Node]:
    """The views among the steps that need not be made, each with the tensor that kernels are given for it.

    kept: nodes that are asked for otherwise than as arguments (their sizes, or as the target of a write).
    """
    made = {*kept, *output.all_input_nodes}
    for step in steps:
        if isinstance(step, Region):
            made.update(source.node for source in step.symbols)
            if not step.reads_addresses:
                made.update(step.inputs)
    views: list[fx.Node] = []
    for step in reversed(steps):
        if isinstance(step, Region):
            continue
        if step not in made and _begins_with_its_base(step):
            views.append(step)
        else:
            made.update(step.all_input_nodes)
    unmade: dict[fx.Node, fx.Node] = {}
    for view in reversed(views):
        base = view.args[0]
        assert isinstance(base, fx.Node)
        unmade[view] = unmade.get(base, base)
    return unmade


def _begins_with_its_base(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target not in _VIEWS or not isinstance(node.args[0], fx.Node):
        return False
    if node.target is aten.select.int:
        return bool(node.args[2] == 0)
    if node.target is aten.slice.Tensor:
        start = node.args[2] if len(node.args) > 2 else node.kwargs.get("start")
        return start is None or bool(start == 0)
    return True
