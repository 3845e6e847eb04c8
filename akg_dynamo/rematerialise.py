"""How a training graph is cut in two: AOTAutograd's minimum cut, told what Inductor's decompositions would show it.

What a forward pass saves for its backward pass is chosen by what would be cheap to compute again: operators that fuse.
AOTAutograd's list has what Inductor leaves of a graph. Here composites remain, and the detach() that autograd puts
around each value it saves: unlisted, both count as operators that need their operands in memory, and a tanh is saved
because `tanh_backward` reads it by way of a detach.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch._functorch import partitioners

from akg_dynamo.batched import batch_products
from akg_dynamo.dedupe import storage_of, storages_returned
from akg_dynamo.fusion.ops import main_device
from akg_dynamo.recurrences import complete_first_trips, plain_operators, save_whole
from akg_dynamo.stacked import compute_slices, compute_stacked, stack_gradients, stack_saved

_lock = threading.Lock()

# Elementwise, and not tagged so: cheap to compute again, and read their operands where those are computed.
_POINTWISE = """
    elu_backward glu glu_backward hardshrink_backward hardsigmoid_backward hardswish hardswish_backward
    hardtanh_backward leaky_relu_backward log_sigmoid_backward log_sigmoid_forward mish_backward softplus_backward
    softshrink_backward
""".split()  # noqa: SIM905 -- a table is read as words
# Over rows: not computed again, but what they read may be.
_ROWS = """
    _fused_rms_norm _fused_rms_norm_backward _log_softmax _log_softmax_backward_data _softmax _softmax_backward_data
    linalg_vector_norm mse_loss mse_loss_backward native_group_norm native_group_norm_backward native_layer_norm
    native_layer_norm_backward nll_loss_backward nll_loss_forward smooth_l1_loss smooth_l1_loss_backward
""".split()  # noqa: SIM905

_POOLING = {
    torch.ops.aten.max_pool2d_with_indices.default: 2,
    torch.ops.aten.max_pool3d_with_indices.default: 3,
    torch.ops.aten.adaptive_max_pool2d.default: 2,
    torch.ops.aten.adaptive_max_pool3d.default: 3,
}
"""What returns places in a plane, and of how many dims that is."""
_LEAST_BYTES = 1 << 20  # of less it is not worth two kernels


def partition(
    joint: fx.GraphModule, inputs: Any, *, same_products: bool = False, **options: Any
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The forward and the backward graph of a joint graph.

    same_products: matrix products stay those that eager computes: the library's others round otherwise.
    """
    _drop_clones(joint.graph)
    _narrow_positions(joint.graph)
    stack_gradients(joint.graph)
    device = main_device(joint.graph)
    stacks = stack_saved(joint.graph, device)
    compute_stacked(joint.graph)
    if device == "cuda" and not same_products:  # elsewhere loops are computed as they stand
        plain_operators(joint.graph)
        batch_products(joint.graph)
    count = options["num_fwd_outputs"]
    # What only the backward pass reads it would compute, from what that is made of: so the forward pass returns it.
    _splice_outputs(joint, count, 0, stacks)
    with _composites_listed():
        forward, backward = partitioners.min_cut_rematerialization_partition(
            joint, inputs, **{**options, "num_fwd_outputs": count + len(stacks)}
        )
    _splice_outputs(forward, count, len(stacks), [])
    if device == "cuda":
        save_whole(forward.graph, backward.graph, count)
    compute_slices(backward.graph)
    if device == "cuda":
        complete_first_trips(backward.graph)
    forward.recompile()
    backward.recompile()
    return forward, backward


def _splice_outputs(gm: fx.GraphModule, at: int, drop: int, instead: Sequence[fx.Node]) -> None:
    """Returns `instead` where a graph returned `drop` values from the one at `at` on."""
    if not drop and not instead:
        return
    output = next(n for n in reversed(gm.graph.nodes) if n.op == "output")
    outputs = list(output.args[0])
    descriptions = list(output.meta.get("desc", [None] * len(outputs)))
    outputs[at : at + drop] = instead
    descriptions[at : at + drop] = [None] * len(instead)
    output.args = (tuple(outputs),)
    if "desc" in output.meta:
        output.meta["desc"] = descriptions
    gm.recompile()


def _drop_clones(graph: fx.Graph) -> None:
    """A copy of what the graph itself has made, laid out the same, is that: a dropout that drops nothing leaves one
    after each activation, and then the value and its copy would both be saved.
    """
    foreign = storages_returned(graph) | {storage_of(n) for n in graph.nodes if n.op == "placeholder"} - {None}
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten.clone.default:
            continue
        source = node.args[0]
        own = not {storage_of(source), storage_of(node)} & foreign  # nothing is returned twice, or written by a user
        if own and _layout(source) == _layout(node) is not None:
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _narrow_positions(graph: fx.Graph) -> None:
    """Where pooling found its maxima is saved in as many bits as a place in a plane needs, not in 64."""
    for node in list(graph.nodes):
        pooling = node.args[0] if node.target is operator.getitem and node.args[1] == 1 else None
        value = node.meta.get("val")
        if not isinstance(pooling, fx.Node) or not isinstance(value, torch.Tensor) or value.device.type != "cuda":
            continue
        dims = next((n for target, n in _POOLING.items() if target is pooling.target), None)
        if dims is None:
            continue
        plane = math.prod(pooling.all_input_nodes[0].meta["val"].shape[-dims:])
        if not isinstance(plane, int) or not isinstance(value.numel(), int) or value.nbytes < _LEAST_BYTES:
            continue
        if plane > 2**31 or any(user.op == "output" for user in node.users):
            continue
        narrow = torch.int16 if plane <= 2**15 else torch.int32
        readers = list(node.users)
        with graph.inserting_after(node):
            small = _cast(graph, node, narrow)
        for reader in readers:
            with graph.inserting_before(reader):
                reader.replace_input_with(node, _cast(graph, small, value.dtype))


def _cast(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    made = graph.call_function(torch.ops.aten._to_copy.default, (node,), {"dtype": dtype})
    value = node.meta["val"]
    with value.fake_mode:
        made.meta["val"] = value.to(dtype)
    return made


def _layout(node: fx.Node) -> tuple[str, ...] | None:
    # As text: comparing symbolic sizes would add a guard.
    value = node.meta.get("val")
    return tuple(map(str, value.stride())) if isinstance(value, torch.Tensor) else None


@contextmanager
def _composites_listed() -> Iterator[None]:
    """AOTAutograd asks a function of its module for the list, and has no other way to be told."""
    pointwise = {getattr(torch.ops.aten, name) for name in _POINTWISE}
    rows = {getattr(torch.ops.aten, name) for name in _ROWS}
    views = {torch.ops.aten.detach}  # autograd's, around every value that it saves
    with _lock:
        original = partitioners.get_default_op_list

        def extended() -> partitioners.OpTypes:
            types = original()
            return replace(
                types,
                fusible_ops=types.fusible_ops | pointwise | rows | views,
                recomputable_ops=types.recomputable_ops | pointwise | views,
                view_ops=types.view_ops | views,
            )

        partitioners.get_default_op_list = extended
        try:
            yield
        finally:
            partitioners.get_default_op_list = original
