"""A subgraph as eager Python: the original operators, one call a line.

The same source is the fallback when a kernel raises, what the judge compares with, and the body of a task's `forward`.
With `upcast=True` it is the oracle: every floating dtype in it is float64 (every complex one complex128), so that no
cast rounds; the caller gives such inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from akg_dynamo.core.types import Arg, OpNode, Ref, Subgraph, SymInt, TensorSpec, TorchConst

_WIDER = {
    **dict.fromkeys(("torch.float16", "torch.bfloat16", "torch.float32"), "torch.float64"),
    **dict.fromkeys(("torch.float8_e4m3fn", "torch.float8_e5m2"), "torch.float64"),
    **dict.fromkeys(("torch.float8_e4m3fnuz", "torch.float8_e5m2fnuz"), "torch.float64"),
    **dict.fromkeys(("torch.complex32", "torch.complex64"), "torch.complex128"),
}
# Python methods where torch has no function of that name.
_METHODS = frozenset({"view", "expand", "repeat"})
# torch's functions of these names do not take the operator's arguments: an index of None, a default reduction.
_OPERATORS = frozenset(
    {
        "index", "_unsafe_index", "binary_cross_entropy_with_logits", "binary_cross_entropy", "mse_loss", "huber_loss",
        "smooth_l1_loss", "soft_margin_loss", "nll_loss_forward", "nll_loss2d_forward",
    }
)  # fmt: skip


def reference(sub: Subgraph, upcast: bool = False) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A function of the subgraph's inputs, then one int per symbol, that returns its outputs by torch's operators."""
    function = _compiled(sub.text, sub, upcast)
    if not upcast:
        return function

    def oracle(*args: Any) -> tuple[torch.Tensor, ...]:
        # what integers are promoted to is the default dtype
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return function(*args)
        finally:
            torch.set_default_dtype(default)

    return oracle


@lru_cache(maxsize=4096)
def _compiled(text: str, sub: Subgraph, upcast: bool) -> Callable[..., tuple[torch.Tensor, ...]]:
    del text  # the key: equal texts are equal subgraphs
    names = ", ".join([*input_names(sub), *(s.name for s in sub.symbols)])
    source = "\n".join([f"def reference({names}):", *("    " + line for line in body(sub, upcast=upcast))])
    scope: dict[str, Any] = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
    exec(compile(source, f"<subgraph {sub.digest[:12]}>", "exec"), scope)
    function: Callable[..., tuple[torch.Tensor, ...]] = scope["reference"]
    return function


def input_names(sub: Subgraph) -> list[str]:
    """The names of the tensor arguments in the source."""
    return [f"x{i}" for i in range(len(sub.inputs))]


def body(sub: Subgraph, *, upcast: bool = False) -> list[str]:
    """The lines of the function, the last of which returns a tuple."""
    names = input_names(sub)
    last_use: dict[int, int] = {}
    for i, node in enumerate(sub.nodes):
        for ref in refs((node.args, tuple(v for _, v in node.kwargs))):
            last_use[ref] = i
    lines = []
    for i, node in enumerate(sub.nodes):
        name = f"v{i}"
        lines.append(f"{name} = {_call(sub, node, names, upcast)}")
        names.append(name)
        dead = sorted(v for v, at in last_use.items() if at == i and v >= len(sub.inputs) and v not in sub.outputs)
        if dead and i + 1 < len(sub.nodes):
            lines[-1] += f";  del {', '.join(names[v] for v in dead)}"
    returned = ", ".join(names[v] for v in sub.outputs)
    return [*lines, f"return ({returned},)"]


def refs(arg: object) -> list[int]:
    """The value numbers in an argument."""
    if isinstance(arg, Ref):
        return [arg.index]
    if isinstance(arg, tuple):
        return [r for a in arg for r in refs(a)]
    return []


def _call(sub: Subgraph, node: OpNode, names: list[str], upcast: bool) -> str:
    args = [_text(a, names, upcast) for a in node.args]
    if node.target == "getitem":
        return f"{args[0]}[{args[1]}]"
    kwargs = {k: _text(v, names, upcast) for k, v in node.kwargs}
    base = node.target.split(".")[1]
    if upcast:
        _widen(sub, node, base, args, kwargs)
    call = ", ".join([*args, *(f"{k}={v}" for k, v in kwargs.items())])
    if base in _METHODS:
        return f"{args[0]}.{base}({', '.join([*args[1:], *(f'{k}={v}' for k, v in kwargs.items())])})"
    if base == "gelu":
        return f"torch.nn.functional.gelu({call})"
    if base == "_to_copy" and set(kwargs) == {"dtype"}:
        return f"{args[0]}.to({kwargs['dtype']}, copy=True)"
    function = getattr(torch, base, None)
    # only what is bound from the operator's own schema takes these arguments as they stand
    if type(function).__name__ == "builtin_function_or_method" and base not in _OPERATORS:
        return f"torch.{base}({call})"
    return f"torch.ops.{node.target}({call})"


def _widen(sub: Subgraph, node: OpNode, base: str, args: list[str], kwargs: dict[str, str]) -> None:
    """What depends on the narrow dtype and is not a dtype: flags, and defaults taken from its limits."""
    first = next((sub.spec_of(a.index) for a in node.args if isinstance(a, Ref)), None)
    narrow = getattr(torch, first.dtype) if isinstance(first, TensorSpec) else torch.float32
    if base in ("_softmax", "_log_softmax"):
        args[2] = "False"
    elif base == "_fused_rms_norm" and narrow.is_floating_point and (len(args) < 4 or args[3] == "None"):
        args[3:] = [repr(torch.finfo(narrow).eps)]
    elif base == "nan_to_num" and narrow.is_floating_point:
        limits = torch.finfo(narrow)
        given = [*args[1:], *["None"] * (4 - len(args))]
        for i, default in enumerate((0.0, limits.max, limits.min)):
            if given[i] == "None":
                given[i] = kwargs.pop(("nan", "posinf", "neginf")[i], "None")
            if given[i] == "None":
                given[i] = repr(default)
        args[1:] = given
    elif base == "arange" and "dtype" not in kwargs and isinstance(node.out, TensorSpec) and "float" in node.out.dtype:
        kwargs["dtype"] = "torch.float64"


def _text(arg: Arg, names: list[str], upcast: bool) -> str:
    if isinstance(arg, Ref):
        return names[arg.index]
    if isinstance(arg, SymInt):
        return arg.expr
    if isinstance(arg, TorchConst):
        return _WIDER.get(arg.text, arg.text) if upcast else arg.text
    if isinstance(arg, tuple):
        return "[" + ", ".join(_text(a, names, upcast) for a in arg) + "]"
    if isinstance(arg, float) and not math.isfinite(arg):
        return f"float('{arg}')"
    return repr(arg)
