"""How an FX node is written as Python source: the fastest plain spelling of each ATen overload.

Per call, against ``torch.mul`` = 1, an OpOverload costs 1.5 and a registered custom operator 7; so what stays with
torch is written as ``torch.mul(a, b)`` or ``a.view(2, 3)``. An operator is spelled as a function only when it is in the
tables below, each entry of which is tested to run the very operator it stands for; everything else calls its overload.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from akg_dynamo.overwrite import overwriting

# Bound as torch.<name> with the schema's own argument order, and dispatching to the same overload.
_FUNCTIONS = frozenset(
    """abs acos acosh add addbmm addcdiv addcmul addmm addmv all amax amin any arange argmax argmin asin asinh atan
    atan2 atanh baddbmm bitwise_and bitwise_not bitwise_or bitwise_xor bmm cat ceil clamp clamp_max clamp_min
    convolution cos cosh cumprod cumsum div dot embedding empty empty_like empty_strided eq erf erfc exp exp2
    expm1 eye fill flip floor floor_divide fmod full full_like gather ge gt hypot index_add index_copy
    index_select isinf isnan le lerp log log10 log1p log2 logical_and logical_not logical_or logical_xor
    logsumexp lt masked_fill max maximum mean min minimum mm mul mv native_batch_norm native_dropout
    native_group_norm native_layer_norm ne neg nonzero ones ones_like permute pow prod rand rand_like randn
    randn_like reciprocal relu remainder repeat_interleave roll round rsqrt rsub scalar_tensor scatter
    scatter_add select_scatter sigmoid sign sin sinh slice_scatter sort sqrt squeeze std sub sum tan tanh topk
    transpose tril triu trunc unbind unsqueeze var var_mean where zeros zeros_like _softmax _log_softmax
    _native_batch_norm_legit _native_batch_norm_legit_no_training""".split()  # noqa: SIM905 -- a table is read as words
)

_NN_FUNCTIONS = frozenset("elu gelu hardtanh leaky_relu linear log_sigmoid silu softplus".split())  # noqa: SIM905
"""The same, bound in torch._C._nn."""

_METHODS = frozenset("view expand new_zeros new_ones new_empty new_full clone detach repeat select".split())  # noqa: SIM905

_INPLACE_METHODS = frozenset("copy_ add_ mul_ sub_ div_ zero_ fill_".split())  # noqa: SIM905

_INFIX: Mapping[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.and_: "&",
    operator.or_: "|",
}

aten = torch.ops.aten


class Namespace:
    """The globals of one generated module: objects under readable, distinct names."""

    def __init__(self, taken: set[str]) -> None:
        self.globals: dict[str, Any] = {"torch": torch, "inf": math.inf, "nan": math.nan}
        self._taken = taken | {"torch", "inf", "nan", "args"}
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []  # ids stay unique only while their objects live

    def name(self, hint: str) -> str:
        """A fresh name like `hint`."""
        hint = "".join(c if c.isalnum() else "_" for c in hint) or "constant"
        hint = hint if not hint[0].isdigit() else f"_{hint}"
        name, n = hint, 0
        while name in self._taken:
            n += 1
            name = f"{hint}_{n}"
        self._taken.add(name)
        return name

    def bind(self, hint: str, value: Any) -> str:
        """The name under which `value` is reachable."""
        if id(value) not in self._names:
            self._kept.append(value)
            self._names[id(value)] = name = self.name(hint)
            self.globals[name] = value
        return self._names[id(value)]


class Speller:
    """Writes expressions. `names` says what each node's value is called."""

    def __init__(self, namespace: Namespace, names: Mapping[fx.Node, str]) -> None:
        self._namespace = namespace
        self._names = names
        self._constants: dict[str, str] = {}

    def value(self, arg: Any) -> str:
        """An argument as source."""
        if isinstance(arg, fx.Node):
            return self._names[arg]
        if isinstance(arg, (tuple, list)):
            items = ", ".join(self.value(a) for a in arg)
            return f"({items},)" if len(arg) == 1 else f"({items})"
        if isinstance(arg, dict):
            return "{" + ", ".join(f"{k!r}: {self.value(v)}" for k, v in arg.items()) + "}"
        if isinstance(arg, slice):
            return f"slice({self.value(arg.start)}, {self.value(arg.stop)}, {self.value(arg.step)})"
        if arg is None or arg is Ellipsis or isinstance(arg, (bool, int, float, complex, str, torch.dtype)):
            return repr(arg)
        if isinstance(arg, (torch.layout, torch.memory_format)):
            return repr(arg)
        if isinstance(arg, torch.device):
            # Built once: constructing a device costs as much as a small operator.
            text = str(arg)
            if text not in self._constants:
                self._constants[text] = self._namespace.bind(f"device_{text}", arg)
            return self._constants[text]
        return self._namespace.bind(getattr(arg, "__name__", type(arg).__name__), arg)

    def _exact(self, arg: Any) -> str:
        """An argument of a higher-order operator, where a list is not a tuple."""
        if isinstance(arg, list):
            return "[" + ", ".join(self._exact(a) for a in arg) + "]"
        if isinstance(arg, tuple):
            return "(" + "".join(f"{self._exact(a)}, " for a in arg) + ")"
        return self.value(arg)

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """What stands between a call's parentheses."""
        return ", ".join([*map(self.value, args), *(f"{k}={self.value(v)}" for k, v in kwargs.items())])

    def call(self, node: fx.Node) -> str:
        """The expression that computes `node`."""
        target = node.target
        if isinstance(target, torch._ops.OpOverload):
            return self._overload(node, target)
        if target is operator.getitem:
            return f"{self.value(node.args[0])}[{self.value(node.args[1])}]"
        if target in _INFIX and not node.kwargs:
            left, right = (self.value(a) for a in node.args)
            return f"{left} {_INFIX[target]} {right}"
        if target is operator.neg:
            return f"-{self.value(node.args[0])}"
        function = self._namespace.bind(getattr(target, "__name__", "call"), target)
        pieces = [*map(self._exact, node.args), *(f"{k}={self._exact(v)}" for k, v in node.kwargs.items())]
        return f"{function}({', '.join(pieces)})"

    def overwriting_call(self, node: fx.Node, operand: fx.Node) -> str:
        """The same, writing the result over an operand (`overwrite`)."""
        way = overwriting(node)
        assert way is not None
        arguments = self.arguments(node.args, node.kwargs)
        name = way.overload.overloadpacket.__name__
        if way.argument:
            arguments += f", {way.argument}={self.value(operand)}"
        if way.argument == "out" and name in _FUNCTIONS:
            return f"torch.{name}({arguments})"
        if way.argument == "out" and name in _NN_FUNCTIONS:
            return f"{self._namespace.bind(name, getattr(torch._C._nn, name))}({arguments})"
        return f"{self._namespace.bind(f'aten_{name}_into', way.overload._op)}({arguments})"

    def _overload(self, node: fx.Node, target: torch._ops.OpOverload[..., Any]) -> str:
        namespace, _, name = target._schema.name.partition("::")
        if namespace == "aten":
            special = _SPECIAL.get(target)
            text = special(self, node) if special is not None else None
            if text is not None:
                return text
            if name in _FUNCTIONS:
                return f"torch.{name}({self.arguments(node.args, node.kwargs)})"
            if name in _NN_FUNCTIONS:
                function = self._namespace.bind(name, getattr(torch._C._nn, name))
                return f"{function}({self.arguments(node.args, node.kwargs)})"
            if name in _METHODS or name in _INPLACE_METHODS:
                return f"{self.value(node.args[0])}.{name}({self.arguments(node.args[1:], node.kwargs)})"
        # `_op` is the bound C++ function: OpOverload.__call__ is a Python frame around it.
        overload = "" if target._overloadname == "default" else f"_{target._overloadname}"
        function = self._namespace.bind(f"{namespace}_{name}{overload}", target._op)
        return f"{function}({self.arguments(node.args, node.kwargs)})"


def _tensor_meta(value: Any) -> torch.Tensor | None:
    meta = value.meta.get("val") if isinstance(value, fx.Node) else None
    return meta if isinstance(meta, torch.Tensor) else None


def _to_copy(speller: Speller, node: fx.Node) -> str | None:
    """A cast is x.to(dtype), unless it would be none at all: .to returns its argument then."""
    source = _tensor_meta(node.args[0])
    if source is None or set(node.kwargs) - {"dtype"} or node.kwargs.get("dtype") in (None, source.dtype):
        return None
    return f"{speller.value(node.args[0])}.to({speller.value(node.kwargs['dtype'])})"


def is_whole(arguments: tuple[Any, ...]) -> bool:
    """Whether slice's dim, start, end and step leave nothing out, whatever the size."""
    _, start, end, step = arguments
    return start in (None, 0) and (end is None or (isinstance(end, int) and end >= sys.maxsize)) and step in (None, 1)


def _slice(speller: Speller, node: fx.Node) -> str | None:
    """x.narrow(dim, start, length) for a slice of step 1 whose bounds are known."""
    source, result = _tensor_meta(node.args[0]), _tensor_meta(node)
    arguments = (*node.args[1:], *(None,) * (5 - len(node.args)))
    dim, start, _, step = arguments
    dim, start = dim or 0, start or 0
    if is_whole(arguments):
        return speller.value(node.args[0])
    if source is None or result is None or node.kwargs or step not in (None, 1):
        return None
    if not isinstance(dim, int) or not isinstance(start, int) or start < 0:
        return None
    length, size = result.shape[dim], source.shape[dim]
    if not isinstance(length, int) or not isinstance(size, int) or start > size:
        return None
    return f"{speller.value(node.args[0])}.narrow({dim}, {start}, {length})"


def _sym_size(speller: Speller, node: fx.Node) -> str:
    return f"{speller.value(node.args[0])}.size({speller.value(node.args[1])})"


def _sym_stride(speller: Speller, node: fx.Node) -> str:
    return f"{speller.value(node.args[0])}.stride({speller.value(node.args[1])})"


def _method(name: str) -> Callable[[Speller, fx.Node], str]:
    def spell(speller: Speller, node: fx.Node) -> str:
        return f"{speller.value(node.args[0])}.{name}({speller.arguments(node.args[1:], node.kwargs)})"

    return spell


_SPECIAL: Mapping[Any, Callable[[Speller, fx.Node], str | None]] = {
    aten._to_copy.default: _to_copy,
    aten.slice.Tensor: _slice,
    aten.sym_size.int: _sym_size,
    aten.sym_stride.int: _sym_stride,
    aten.sym_numel.default: _method("numel"),
    aten.sym_storage_offset.default: _method("storage_offset"),
    aten._local_scalar_dense.default: _method("item"),
    aten.t.default: _method("t"),
    aten._unsafe_view.default: _method("view"),
}
