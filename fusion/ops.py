"""What each ATen operator is, and whether a kernel of ours may compute it.

`classify` says what kind of operator a node calls; `fusible` says why a node must stay with torch, or None when the
designer handles it. Composite operators (norms, losses, activations and their backwards) are fusible as they stand: the
designer decomposes them inside the subgraph it was given, down to pointwise, reduction, view and gather operators.

The tables name operators without their overload ("add"), since every functional overload of a name is the same
operation; what an overload changes (an out argument, mutation, an index of bools) is read from its schema and the node.
"""

from __future__ import annotations

import enum
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import fx

from akg_dynamo.core.types import SplitReason, SplitReasonType


class OpKind(enum.Enum):
    """What an operator is, as far as fusion cares."""

    POINTWISE = "elementwise over broadcast operands"
    REDUCTION = "reduces dims of one operand (some give several outputs)"
    NORM = "composite over whole rows: norms, softmaxes, losses and their backwards"
    CAST = "an elementwise copy: dtype or layout changes"
    GATHER = "reads at integer positions held in a tensor"
    WINDOW = "combines the elements in a window that slides over one operand: pooling"
    MOVE = "places operands in a larger or reordered result: cat, pad, flip, scatter of a slice"
    CREATION = "makes a tensor of nothing: a constant or a ramp"
    VIEW = "an alias of its operand"
    GETITEM = "one output of a node with several"
    SYMBOLIC = "integers or symbolic sizes, no tensor"
    MATMUL = "matrix product"
    CONV = "convolution"
    ATTENTION = "attention"
    SORT = "sort, top-k, median"
    RANDOM = "draws random numbers"
    MUTATION = "writes into an operand"
    DATA_DEPENDENT = "the output's shape depends on data"
    OTHER = "no rule"

    @property
    def computes(self) -> bool:
        """Whether a kernel of ours may compute it (views and constants only come along with one that does)."""
        return self in _COMPUTE


_COMPUTE = frozenset(
    {OpKind.POINTWISE, OpKind.REDUCTION, OpKind.NORM, OpKind.CAST, OpKind.GATHER, OpKind.WINDOW, OpKind.MOVE}
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Elementwise operators whose cost is a polynomial or table, not a load and a store: recomputing them per broadcast
# element is a loss, and fusing even one can pay.
EXPENSIVE = _names(
    """
        acos acosh asin asinh atan atan2 atanh celu cos cosh elu elu_backward erf erfc exp exp2 expm1 gelu
        gelu_backward hypot lgamma log log10 log1p log2 log_sigmoid_backward log_sigmoid_forward logaddexp
        logaddexp2 logit logit_backward mish mish_backward pow selu sigmoid silu silu_backward sin sinc sinh
        softplus softplus_backward special_entr special_xlog1py tan tanh xlogy
        """
)

_POINTWISE = EXPENSIVE | _names(
    """
        __and__ __lshift__ __or__ __rshift__ __xor__ _prelu_kernel _prelu_kernel_backward abs add addcdiv addcmul
        bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil clamp clamp_max
        clamp_min copysign deg2rad div eq fill floor floor_divide fmax fmin fmod frac ge glu glu_backward gt
        hardshrink hardshrink_backward hardsigmoid hardsigmoid_backward hardswish hardswish_backward hardtanh
        hardtanh_backward heaviside isinf isnan isneginf isposinf le leaky_relu leaky_relu_backward lerp logical_and
        logical_not logical_or logical_xor lt masked_fill maximum minimum mul nan_to_num native_dropout_backward ne
        neg nextafter rad2deg reciprocal relu relu6 remainder round rsqrt rsub sgn sigmoid_backward sign signbit
        softshrink softshrink_backward sqrt square sub tanh_backward threshold threshold_backward trunc where zero
        """
)

_REDUCTION = _names(
    """
        all amax amin aminmax any argmax argmin count_nonzero linalg_vector_norm logsumexp max mean min nansum norm
        prod std std_mean sum var var_mean
        """
)

_NORM = _names(
    """
        _fused_rms_norm _fused_rms_norm_backward _log_softmax _log_softmax_backward_data _native_batch_norm_legit
        _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _safe_softmax _softmax
        _softmax_backward_data batch_norm_backward binary_cross_entropy binary_cross_entropy_backward
        binary_cross_entropy_with_logits huber_loss huber_loss_backward mse_loss mse_loss_backward native_batch_norm
        native_batch_norm_backward native_group_norm native_group_norm_backward native_layer_norm
        native_layer_norm_backward nll_loss2d_forward nll_loss_forward smooth_l1_loss smooth_l1_loss_backward
        soft_margin_loss soft_margin_loss_backward
        """
)

_CAST = _names(
    """
        _to_copy alias_copy clone copy detach_copy expand_copy lift_fresh_copy permute_copy select_copy slice_copy
        squeeze_copy t_copy transpose_copy unsqueeze_copy view_copy
        """
)

_GATHER = _names("embedding gather index _unsafe_index index_select")

_WINDOW = _names("avg_pool2d avg_pool3d max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices")

_MOVE = _names(
    """
        cat constant_pad_nd flip repeat roll select_backward select_scatter slice_backward slice_scatter stack tril
        triu
        """
)

_CREATION = _names(
    """
        arange full full_like new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like
        """
)

# Views a sketch can follow: index arithmetic on a value that it computed itself. `as_strided`, `view.dtype` and such
# speak of storage, which a value inside a kernel does not have.
_FOLLOWED_VIEWS = _names(
    """
        _reshape_alias _unsafe_view alias detach expand permute select slice split split_with_sizes squeeze t
        transpose unbind unsafe_split unsafe_split_with_sizes unsqueeze view
        """
)

_STAY: dict[OpKind, frozenset[str]] = {
    OpKind.MATMUL: _names(
        """
        _addmm_activation _grouped_mm _int_mm _scaled_mm _trilinear addbmm addmm addmv addr baddbmm bilinear bmm dot
        einsum linear matmul mm mv vdot
        """
    ),
    OpKind.CONV: _names(
        """
        _convolution _slow_conv2d_backward _slow_conv2d_forward convolution convolution_backward
        convolution_overrideable conv_tbc mkldnn_convolution slow_conv3d_forward slow_conv_dilated2d
        slow_conv_dilated3d slow_conv_transpose2d slow_conv_transpose3d thnn_conv2d
        """
    ),
    OpKind.SORT: _names("argsort kthvalue median mode msort nanmedian sort topk"),
}


def base_name(target: Any) -> str:
    """ "add" for aten.add.Tensor; "" for what is not an ATen overload."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return target._schema.name.removeprefix("aten::")
    return ""


@cache
def _classify_target(target: Any) -> OpKind:
    if getattr(target, "__name__", "") == "getitem":
        return OpKind.GETITEM
    if not isinstance(target, torch._ops.OpOverload):
        stands_for = getattr(target, "stands_for", None)  # a function that computes what this operator computes
        if stands_for is not None:
            return _classify_target(stands_for)
        module = getattr(target, "__module__", "") or ""
        symbolic = module in ("_operator", "builtins", "math", "torch") or module.startswith("torch.sym")
        return OpKind.SYMBOLIC if symbolic or target in _SYM_FUNCTIONS else OpKind.OTHER
    name, schema = base_name(target), target._schema
    if schema.is_mutable:
        return OpKind.MUTATION
    if name.startswith("sym_") or not any("Tensor" in str(r.type) for r in schema.returns):
        return OpKind.SYMBOLIC if name.startswith("sym_") else OpKind.DATA_DEPENDENT
    if torch.Tag.nondeterministic_seeded in target.tags:
        return OpKind.RANDOM if "scaled_dot_product" not in name else OpKind.ATTENTION
    if "scaled_dot_product" in name or "flash_attention" in name or "efficient_attention" in name:
        return OpKind.ATTENTION
    for kind, names in (*_STAY.items(), *_TABLES):
        if name in names:
            return kind
    if torch.Tag.dynamic_output_shape in target.tags or torch.Tag.data_dependent_output in target.tags:
        return OpKind.DATA_DEPENDENT
    aliases = any(r.alias_info is not None for r in schema.returns)
    return OpKind.VIEW if aliases else OpKind.OTHER


_TABLES = (
    (OpKind.VIEW, _FOLLOWED_VIEWS),
    (OpKind.POINTWISE, _POINTWISE),
    (OpKind.REDUCTION, _REDUCTION),
    (OpKind.NORM, _NORM),
    (OpKind.CAST, _CAST),
    (OpKind.GATHER, _GATHER),
    (OpKind.WINDOW, _WINDOW),
    (OpKind.MOVE, _MOVE),
    (OpKind.CREATION, _CREATION),
)
_SYM_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset(
    {torch.sym_int, torch.sym_float, torch.sym_max, torch.sym_min, torch.sym_not, torch.sym_ite, torch.sym_sum}
)


def classify(node_or_target: Any) -> OpKind:
    """What kind of operator a node (or the target of one) is."""
    target = node_or_target
    if isinstance(node_or_target, fx.Node):
        if node_or_target.op != "call_function":
            return OpKind.OTHER
        target = node_or_target.target
        if isinstance(node_or_target.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float):
            return OpKind.SYMBOLIC
    kind: OpKind = _classify_target(target)
    if kind is OpKind.MATMUL and isinstance(node_or_target, fx.Node) and is_thin_product(node_or_target):
        return OpKind.REDUCTION
    return kind


_THIN = 64


def is_thin_product(node: fx.Node) -> bool:
    """Whether this matrix product, on a GPU, has one row or column and few terms, of values that are computed here.

    It is a multiplication and a short sum along the values, which a kernel that computes them does on the way; for a
    library they have to be in memory.
    """
    if base_name(node.target) not in ("mm", "bmm"):
        return False
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return False
    a, b, out = left.meta.get("val"), right.meta.get("val"), node.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor) or not isinstance(out, torch.Tensor):
        return False
    terms, rows, columns = a.shape[-1], a.shape[-2], b.shape[-1]
    if out.device.type != "cuda" or not isinstance(terms, int) or terms > _THIN or out.dtype not in HANDLED_DTYPES:
        return False
    if not any(isinstance(n, int) and n == 1 for n in (rows, columns)):
        return False
    values = left if isinstance(columns, int) and columns == 1 else right
    while classify(values) is OpKind.VIEW and follows_view(values):
        (values,) = values.all_input_nodes[:1]
    return classify(values) in (OpKind.POINTWISE, OpKind.CAST)


def follows_view(node: fx.Node) -> bool:
    """Whether a view (or a getitem of one) of a value inside a kernel can be index arithmetic there."""
    if classify(node) is OpKind.GETITEM:
        producer = node.args[0]
        return isinstance(producer, fx.Node) and classify(producer) is OpKind.VIEW and follows_view(producer)
    overload = getattr(node.target, "_overloadname", "")
    return base_name(node.target) in _FOLLOWED_VIEWS and overload != "dtype"


# --------------------------------------------------------------------------------------------------------------------
# What stays with torch, and why

HANDLED_DTYPES = frozenset(
    {
        torch.float32, torch.float64, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    }
)  # fmt: skip

_REASONS: dict[OpKind, SplitReasonType] = {
    OpKind.MATMUL: SplitReasonType.MATMUL,
    OpKind.CONV: SplitReasonType.CONV,
    OpKind.ATTENTION: SplitReasonType.ATTENTION,
    OpKind.SORT: SplitReasonType.SORT,
    OpKind.RANDOM: SplitReasonType.RANDOM,
    OpKind.MUTATION: SplitReasonType.MUTATION,
    OpKind.DATA_DEPENDENT: SplitReasonType.DATA_DEPENDENT,
    OpKind.SYMBOLIC: SplitReasonType.NOT_TENSOR,
    OpKind.VIEW: SplitReasonType.VIEW,
    OpKind.CREATION: SplitReasonType.TOO_SMALL,
    OpKind.OTHER: SplitReasonType.UNSUPPORTED,
}


def tensors_of(value: object) -> Iterator[torch.Tensor]:
    """The tensors in a node's `meta["val"]`: itself, or those of a tuple."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for v in value:
            yield from tensors_of(v)


def main_device(graph: fx.Graph) -> str:
    """The type of device that most of a graph's operators compute on: kernels are made for that one."""
    counts: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "call_function":
            counts.update({tensor.device.type for tensor in tensors_of(node.meta.get("val"))})
    return counts.most_common(1)[0][0] if counts else "cpu"


def fusible(node: fx.Node, device: str = "cpu") -> SplitReason | None:
    """None when a kernel of ours may compute this node; otherwise why it stays with torch.

    A view, a getitem and a constant are never chosen for themselves: they come into a subgraph with their producer or
    user (`follows_view`), so alone they have a reason too.
    """
    if node.op != "call_function":
        return SplitReason(SplitReasonType.NOT_TENSOR, node.op)
    kept = node.meta.get("stays_with_torch")  # decided before fusion: an update that is put back in place
    if isinstance(kept, SplitReason):
        return kept
    kind = classify(node)
    if kind is OpKind.GETITEM:
        producer = node.args[0]
        assert isinstance(producer, fx.Node)
        return fusible(producer, device)
    if kind in _REASONS:
        return SplitReason(_REASONS[kind], "a constant" if kind is OpKind.CREATION else _text(node.target))
    return _unhandled_operands(node, device) or _unhandled_form(node)


def _text(target: Any) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def _unhandled_operands(node: fx.Node, device: str) -> SplitReason | None:
    """Dtype, device and layout, of everything it reads and writes."""
    if "val" not in node.meta:
        return SplitReason(SplitReasonType.UNSUPPORTED, f"{node.target} was traced without a value")
    values = list(tensors_of(node.meta["val"]))
    if isinstance(node.meta["val"], list | tuple):
        # Batch norm that does not train returns empty statistics: an output nobody reads is nobody's business.
        read = {user.args[1] for user in node.users if user.target is operator.getitem}
        values = [v for i, o in enumerate(node.meta["val"]) if i in read for v in tensors_of(o)]
    for producer in node.all_input_nodes:
        if "val" not in producer.meta:
            return SplitReason(SplitReasonType.UNSUPPORTED, f"operand {producer.name} was traced without a value")
        if classify(producer) is OpKind.CREATION and is_host_scalar(producer.meta["val"]):
            continue  # a number, wherever it is
        values += tensors_of(producer.meta["val"])
    for value in values:
        if value.dtype not in HANDLED_DTYPES:
            return SplitReason(SplitReasonType.DTYPE, str(value.dtype).removeprefix("torch."))
        if value.device.type != device:
            return SplitReason(SplitReasonType.DEVICE, str(value.device))
        if value.layout is not torch.strided or value.is_nested:
            return SplitReason(SplitReasonType.UNSUPPORTED, f"layout {value.layout}")
        if any(isinstance(s, int) and s == 0 for s in value.shape):
            return SplitReason(SplitReasonType.TOO_SMALL, "an empty tensor")
    return None


def is_host_scalar(value: object) -> bool:
    """Whether a value is a tensor of no dims on the CPU: torch lets it meet tensors of any device."""
    return isinstance(value, torch.Tensor) and value.dim() == 0 and value.device.type == "cpu"


def _updates_statistics(node: fx.Node) -> bool:
    """Whether this batch norm trains and has running statistics; the overload `no_stats` has no place for them."""
    if getattr(node.target, "_overloadname", "") == "no_stats":
        return False
    return bool(node.args[5]) and node.args[3] is not None


def _unhandled_form(node: fx.Node) -> SplitReason | None:
    """Forms of a handled operator that have no rule."""
    name = base_name(node.target)

    def no(detail: str) -> SplitReason:
        return SplitReason(SplitReasonType.UNSUPPORTED, f"{node.target}: {detail}")

    if name in ("index", "_unsafe_index"):
        for index in node.args[1]:  # type: ignore[union-attr]
            if isinstance(index, fx.Node) and index.meta["val"].dtype in (torch.bool, torch.uint8):
                return no("an index of bools")
    if name in _WINDOW:
        return _unhandled_window(node)
    if name == "embedding" and len(node.args) > 4 and node.args[4]:
        return no("a sparse gradient")
    if name in ("native_batch_norm", "_native_batch_norm_legit") and _updates_statistics(node):
        return SplitReason(SplitReasonType.MUTATION, "running statistics are updated in place")
    return None


LARGEST_WINDOW = 64
"""How many elements a window may have: a kernel reads and combines them one by one."""


def window_size(node: fx.Node) -> int:
    """How many elements the windows of a pooling have."""
    rank = int(base_name(node.target).partition("pool")[2][0])
    sizes = node.args[1]
    assert isinstance(sizes, list | tuple)
    return math.prod(s for s in (sizes * rank if len(sizes) == 1 else sizes) if isinstance(s, int))


def _unhandled_window(node: fx.Node) -> SplitReason | None:
    """Windows that have no rule: those of many elements, and those that are asked where their maximum was."""

    def no(detail: str) -> SplitReason:
        return SplitReason(SplitReasonType.UNSUPPORTED, f"{node.target}: {detail}")

    value = next(tensors_of(node.meta["val"]))
    if window_size(node) > LARGEST_WINDOW:
        return no(f"a window of {window_size(node)} elements")
    if not value.is_floating_point() and base_name(node.target).startswith("avg"):
        return no("a mean of integers")
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users if _has_several(node)):
        return no("the positions of the maxima are read")
    return None


def _has_several(node: fx.Node) -> bool:
    return isinstance(node.meta["val"], tuple | list)
