"""Operators whose results in eager are exact: one value, correctly rounded, whatever the layout, the tail, the machine.

Only of these can a kernel be asked to give the same bits. Eager's others depend on where an element happens to lie: its
own sigmoid differs between contiguous and strided inputs, a sum between one thread's share and the next, a square root
is a vector library's and a last bit off, the larger of 0 and -0 is either. A test proves every operator on the list, in
every dtype, over layouts, tails and adversarial values, against exact arithmetic; what is not proved is not on it.
"""

from __future__ import annotations

from akg_dynamo.core.types import OpNode, Ref, Subgraph, TensorSpec

ROUNDED_ONCE = frozenset({"add", "sub", "rsub", "mul", "div"})
"""One operation of IEEE 754, rounded once."""
SELECTING = frozenset(
    {
        "neg", "abs", "relu", "clamp", "clamp_min", "clamp_max", "where", "masked_fill", "eq", "ne",
        "lt", "le", "gt", "ge", "floor", "ceil", "trunc", "round", "sign", "isnan", "isinf", "isfinite", "logical_not",
        "logical_and", "logical_or", "logical_xor", "bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor",
        "threshold", "threshold_backward",
    }
)  # fmt: skip
"""Results that are one of the operands, one of their bits, or a small integer."""
MOVING = frozenset(
    {
        "view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "squeeze", "unsqueeze", "slice",
        "split", "split_with_sizes", "unbind", "cat", "stack", "clone", "alias", "flip", "roll", "repeat",
        "gather", "embedding", "index", "constant_pad_nd", "full", "full_like", "zeros", "zeros_like", "ones",
        "ones_like", "select", "index_select",
        "new_zeros", "new_ones", "new_full", "_to_copy", "arange", "scalar_tensor", "tril", "triu", "copy",
    }
)  # fmt: skip
"""Copies of elements, of constants, or one rounding to another dtype."""


def is_exact(sub: Subgraph) -> bool:
    """Whether eager computes every value of the subgraph exactly."""
    return all(node.target == "getitem" or _is_exact(sub, node) for node in sub.nodes)


def _is_exact(sub: Subgraph, node: OpNode) -> bool:
    _, name, overload, *_ = [*node.target.split("."), "", ""]
    specs = [s for s in (node.out if isinstance(node.out, tuple) else (node.out,)) if s is not None]
    operands = [sub.spec_of(a.index) for a in node.args if isinstance(a, Ref)]
    dtypes = {s.dtype for s in (*specs, *operands) if isinstance(s, TensorSpec)}
    if any(d.startswith("complex") for d in dtypes):
        return False
    keywords = {k for k, v in node.kwargs if v is not None}
    if name in ROUNDED_ONCE:
        # a multiple of the second operand is added in one rounding or in two; 1/x as a factor is another rounding
        narrow = len({d for d in dtypes if d.startswith(("float", "bfloat"))}) > 1
        scaled = len(node.args) > 2 or keywords & {"alpha", "rounding_mode"}
        by_number = name == "div" and not isinstance(node.args[1], Ref)
        return not scaled and not narrow and not by_number
    if name == "round":
        return overload != "decimals"
    return name in SELECTING or name in MOVING
