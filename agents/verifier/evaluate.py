"""A subgraph evaluated node by node in another precision: the oracle, and how close it is to a jump.

The oracle is the original operators in fp64: every float input, intermediate and dtype argument becomes float64 (of
complex numbers, both parts). A staged one rounds each node's result to its original dtype, as eager does. One that
overflows does not round: but what its original dtype cannot hold, or hardly, is infinite.

At a node whose result **jumps** (a comparison, a rounding, an arg-max, float to int) it can also be told to move the
operand by what eager's own error there is: if the outcome changes, the margin was smaller than the error, and nobody
can say which side is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from akg_dynamo.agents.verifier.shapes import value
from akg_dynamo.agents.verifier.wide_oracle import Wide, halves, widen
from akg_dynamo.core.types import Arg, OpNode, Ref, Subgraph, SymInt, TensorSpec, TorchConst

Tensors = Sequence[torch.Tensor]

_COMPARE = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_STEP = frozenset(
    {
        "round",
        "floor",
        "ceil",
        "trunc",
        "fix",
        "frac",
        "sign",
        "sgn",
        "heaviside",
        "signbit",
        "remainder",
        "fmod",
        "floor_divide",
        "logical_not",
        "logical_and",
        "logical_or",
        "logical_xor",
        "bucketize",
        "searchsorted",
        "threshold_backward",
        "threshold",
        "hardtanh_backward",
        "hardsigmoid_backward",
        "hardswish_backward",
        "leaky_relu_backward",
        "clamp_max",
        "clamp_min",
        "isclose",
    }
)
# Of these only the second operand decides: the first, a gradient, passes or does not.
_GATES = frozenset(
    {
        "threshold_backward",
        "hardtanh_backward",
        "hardsigmoid_backward",
        "hardswish_backward",
        "leaky_relu_backward",
    }
)
_FAR_BITS = 64
_ARG = frozenset({"argmax", "argmin", "max", "min", "sort", "topk"})


def _base(target: str) -> str:
    return target.split(".")[1] if "." in target else target


def _specs(node: OpNode) -> tuple[TensorSpec | None, ...]:
    return (node.out,) if isinstance(node.out, TensorSpec) else node.out


def is_float(spec: TensorSpec) -> bool:
    """Whether that tensor holds real floating-point numbers."""
    return spec.dtype.startswith(("float", "bfloat"))


def jumps(sub: Subgraph) -> list[int]:
    """Positions of the nodes whose result jumps while a computed float operand moves a little."""
    found = []
    for i, node in enumerate(sub.nodes):
        name = _base(node.target)
        refs = [a for k, a in enumerate(node.args) if isinstance(a, Ref) and not (name in _GATES and k == 0)]
        # On the subgraph's own inputs eager is exact, and so must the kernel be.
        operands = [sub.spec_of(r.index) for r in refs if r.index >= len(sub.inputs)]
        if not any(isinstance(s, TensorSpec) and is_float(s) for s in operands):
            continue
        outs = _specs(node)
        to_int = any(s is not None and not is_float(s) and not s.dtype.startswith("complex") for s in outs)
        rounds_quotient = name == "div" and any(k == "rounding_mode" and v is not None for k, v in node.kwargs)
        if name in _COMPARE | _STEP or rounds_quotient or to_int:
            found.append(i)
    return found


class Evaluator:
    """Runs a subgraph's operators. `precision`: the dtype all floats take, or None for the original ones."""

    def __init__(
        self, sub: Subgraph, precision: torch.dtype | None, *, staged: bool = False, overflows: bool = False
    ) -> None:
        self.sub = sub
        self.precision = precision
        self.staged = staged
        self.overflows = overflows
        self.functions = [None if n.target == "getitem" else _resolve(n.target) for n in sub.nodes]
        last: dict[int, int] = {}
        for i, node in enumerate(sub.nodes):
            for index in _refs((node.args, tuple(v for _, v in node.kwargs))):
                last[index] = i
        self.dead_after: list[list[int]] = [[] for _ in sub.nodes]
        for index, i in last.items():
            if index not in sub.outputs:
                self.dead_after[i].append(index)

    def __call__(
        self,
        tensors: Tensors,
        symbols: Mapping[str, int],
        watch: Callable[[int, list[Any]], list[Any]] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """The outputs. `watch(node, args)` sees each node's resolved positional arguments, and may replace them."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.precision or default)  # what integers are promoted to
        try:
            return self._run([self._cast(t) for t in tensors], symbols, watch)
        finally:
            torch.set_default_dtype(default)

    def together(
        self,
        tensors: Tensors,
        symbols: Mapping[str, int],
        part: Callable[[int, list[list[Any]]], list[list[Any]]],
    ) -> list[tuple[torch.Tensor, ...]]:
        """The outputs of one run, or of several beside one another once `part(node, [args])` returns several args."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.precision or default)
        try:
            return self._run_together([self._cast(t) for t in tensors], symbols, part)
        finally:
            torch.set_default_dtype(default)

    def _run_together(
        self,
        tensors: Tensors,
        symbols: Mapping[str, int],
        part: Callable[[int, list[list[Any]]], list[list[Any]]],
    ) -> list[tuple[torch.Tensor, ...]]:
        n = len(self.sub.inputs)
        ways: list[dict[int, Any]] = [dict(enumerate(tensors))]
        for i in range(len(self.sub.nodes)):
            calls = [self._arguments(i, live, symbols) for live in ways]
            parted = part(i, [args for args, _ in calls])
            ways += [dict(ways[0]) for _ in range(len(parted) - len(ways))]
            for k, live in enumerate(ways):
                live[n + i] = self._call(i, parted[k], calls[min(k, len(calls) - 1)][1])
                for dead in self.dead_after[i]:
                    live.pop(dead, None)
        return [tuple(live[v] for v in self.sub.outputs) for live in ways]

    def _run(
        self,
        tensors: Tensors,
        symbols: Mapping[str, int],
        watch: Callable[[int, list[Any]], list[Any]] | None,
    ) -> tuple[torch.Tensor, ...]:
        live: dict[int, Any] = dict(enumerate(tensors))
        n = len(self.sub.inputs)
        for i in range(len(self.sub.nodes)):
            args, kwargs = self._arguments(i, live, symbols)
            if watch is not None:
                args = watch(i, args)
            live[n + i] = self._call(i, args, kwargs)
            for dead in self.dead_after[i]:
                live.pop(dead, None)
        return tuple(live[v] for v in self.sub.outputs)

    def _arguments(
        self, i: int, live: Mapping[int, Any], symbols: Mapping[str, int]
    ) -> tuple[list[Any], dict[str, Any]]:
        node = self.sub.nodes[i]
        args = [self._resolve(a, live, symbols) for a in node.args]
        kwargs = {k: self._resolve(v, live, symbols) for k, v in node.kwargs}
        if self.precision is not None:
            self._widen(node, args, kwargs)
        return args, kwargs

    def _call(self, i: int, args: list[Any], kwargs: dict[str, Any]) -> Any:
        function = self.functions[i]
        if function is None:
            return args[0][args[1]]
        result = function(*args, **kwargs)
        if self.staged:
            return self._each(self.sub.nodes[i], result, lambda r, dtype: self._cast(r.to(dtype)))
        return self._each(self.sub.nodes[i], result, _held_by) if self.overflows else result

    def _widen(self, node: OpNode, args: list[Any], kwargs: dict[str, Any]) -> None:
        """What depends on the original dtype and is not a dtype (see `fusion.reference`)."""
        base = _base(node.target)
        first = next((self.sub.spec_of(a.index) for a in node.args if isinstance(a, Ref)), None)
        narrow = first.dtype if isinstance(first, TensorSpec) and is_float(first) else "float32"
        info = torch.finfo(getattr(torch, narrow))
        if base in ("_softmax", "_log_softmax"):
            args[2] = False  # half_to_float: nothing is half any more
        elif base == "_fused_rms_norm" and (len(args) < 4 or args[3] is None):
            args[3:] = [info.eps]
        elif base == "nan_to_num":
            given = [*args[1:], *([None] * (4 - len(args)))]
            for i, (name, limit) in enumerate((("nan", 0.0), ("posinf", info.max), ("neginf", info.min))):
                chosen = kwargs.pop(name, None) if given[i] is None else given[i]
                given[i] = limit if chosen is None else chosen
            args[1:] = given

    @staticmethod
    def _each(node: OpNode, result: Any, f: Callable[[torch.Tensor, torch.dtype], torch.Tensor]) -> Any:
        """`f` of each of the node's results and its original dtype."""
        many = isinstance(result, tuple | list)
        found = [
            r if s is None or not isinstance(r, torch.Tensor) else f(r, getattr(torch, s.dtype))
            for r, s in zip(result if many else [result], _specs(node), strict=False)
        ]
        return tuple(found) if many else found[0]

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.precision is None or isinstance(tensor, Wide):
            return tensor
        if tensor.is_complex():
            return tensor.to(self.precision.to_complex())
        return tensor.to(self.precision) if tensor.is_floating_point() else tensor

    def _resolve(self, arg: Arg, live: Mapping[int, Any], symbols: Mapping[str, int]) -> Any:
        if isinstance(arg, Ref):
            return live[arg.index]
        if isinstance(arg, SymInt):
            return value(arg.expr, symbols)
        if isinstance(arg, tuple):
            return [self._resolve(a, live, symbols) for a in arg]
        if isinstance(arg, TorchConst):
            constant = eval(arg.text, {"__builtins__": {}, "torch": torch, "device": torch.device, "inf": float("inf")})
            if isinstance(constant, torch.dtype) and self.precision is not None:
                if constant.is_complex:
                    return self.precision.to_complex()
                return self.precision if constant.is_floating_point else constant
            return constant
        return arg


_HARDLY = 1 - 2.0**-10
"""The part of a dtype's range in which rounding on the way cannot decide whether a value overflows: `exp` makes a last
bit of 88.7 a hundred of its own.
"""


def _held_by(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values, those infinite that the dtype cannot hold, or hardly."""
    if not dtype.is_floating_point:
        return values
    beyond = values.abs() > torch.finfo(dtype).max * _HARDLY
    return values.where(~beyond, values.sign() * float("inf"))


def _resolve(target: str) -> Any:
    found: Any = torch.ops
    for part in target.split("."):
        found = getattr(found, part)
    return found


def _refs(arg: Any) -> list[int]:
    if isinstance(arg, Ref):
        return [arg.index]
    return [r for a in arg for r in _refs(a)] if isinstance(arg, tuple) else []


def variants(
    sub: Subgraph,
    tensors: Tensors,
    symbols: Mapping[str, int],
    at: Sequence[int],
    *,
    oracle: Evaluator | None = None,
    widened: Tensors | None = None,
) -> tuple[tuple[torch.Tensor, ...], list[tuple[torch.Tensor, ...]]]:
    """The oracle; and the oracle with the operands of the jumps `at` moved by twice eager's error there, either way.

    widened: the inputs as the oracle takes them, if it is not to widen them itself.
    """
    widened = tensors if widened is None else widened
    seen: dict[int, list[Any]] = {}

    def record(i: int, args: list[Any]) -> list[Any]:
        if i in at:
            seen[i] = list(args)
        return args

    Evaluator(sub, None)(tensors, symbols, record)
    oracle = oracle or Evaluator(sub, torch.float64)
    still, *moved = oracle.together(
        widened, symbols, lambda i, ways: _parted(sub, i, ways, seen) if i in seen else ways
    )
    return still, moved  # none if eager is exact at every jump: so must the kernel be


def _parted(sub: Subgraph, i: int, ways: list[list[Any]], eager: Mapping[int, list[Any]]) -> list[list[Any]]:
    """A jump's operands: where they are; and moved by twice eager's error, either way."""
    name = _base(sub.nodes[i].target)
    still, up, down = (ways * 3)[:3] if len(ways) == 1 else ways
    deltas = [_delta(e, *operands) for e, *operands in zip(eager[i], still, up, down, strict=True)]
    if name in _GATES:
        deltas[0] = None
    if len(ways) == 1 and not any(d is not None and bool(d.any()) for d in deltas):
        return ways
    return [still, _moved(up, deltas, 1.0, name), _moved(down, deltas, -1.0, name)]


def _moved(args: list[Any], deltas: Sequence[torch.Tensor | None], sign: float, name: str) -> list[Any]:
    result = list(args)
    operand = 0
    for k, d in enumerate(deltas):
        if d is None:
            continue
        if name in _ARG and k == 0:
            result[k] = _against_the_winner(args, d, name)
            if isinstance(args[0], Wide):
                result[k] = widen(result[k])
        else:
            result[k] = args[k] + (sign if operand == 0 else -sign) * d
        operand += 1
    return result


def _delta(eager: Any, oracle: Any, up: Any, down: Any) -> torch.Tensor | None:
    """Twice eager's error (the smaller of the largest absolute one, and the largest relative one times the value) and
    one last bit; nothing where eager is exact throughout.

    What an earlier jump has left open, so that the operands moved up and down are apart, is not eager's error.
    """
    if not (isinstance(eager, torch.Tensor) and isinstance(oracle, torch.Tensor) and oracle.is_floating_point()):
        return None
    oracle, low = halves(oracle)
    error: torch.Tensor = eager.double() - oracle
    error = (error if low is None else error - low).abs().nan_to_num(0.0, 0.0, 0.0)
    magnitude = oracle.abs().nan_to_num(0.0, 0.0, 0.0)
    for way in (up, down):
        if way is not oracle:
            apart = (halves(way)[0] - oracle).abs() > _FAR_BITS * torch.finfo(eager.dtype).eps * magnitude
            error = error.masked_fill(apart, 0.0)
    if error.numel() == 0 or not bool(error.any()):
        return None
    relative = (error / magnitude.clamp_min(1e-300)).max()
    last_bit = torch.finfo(eager.dtype).eps * magnitude
    moved: torch.Tensor = 2 * torch.minimum(error.max().expand_as(magnitude), relative * magnitude) + last_bit
    return moved


def _against_the_winner(args: list[Any], delta: torch.Tensor, name: str) -> torch.Tensor:
    """Every element moves towards winning, the winner away: if its margin is
    smaller than the error, another one wins."""
    x, _ = halves(args[0])
    sign = -1.0 if name.endswith("min") else 1.0
    dim = args[1] if len(args) > 1 and isinstance(args[1], int) else None
    if x.dim() == 0:
        return x
    if dim is None:
        flat, d = x.reshape(-1), delta.reshape(-1)
        moved = flat + sign * d
        winner = (sign * flat).argmax()
        moved[winner] -= 2 * sign * d[winner]
        return moved.reshape(x.shape)
    moved = x + sign * delta
    winner = (sign * x).argmax(dim, keepdim=True)
    return moved.scatter_add(dim, winner, -2 * sign * delta.gather(dim, winner))
