"""The oracle of float64 tasks: ATen's operators on numbers of twice float64's digits.

`Wide` is a tensor whose elements are pairs of float64 numbers. The original operators are called on it, as they are on
ordinary tensors: those below have an implementation here, what only moves elements is done to both halves, and every
other operator is taken apart by torch's decompositions until only these are left. One that has no decomposition
(convolutions, scatters that add, special functions beyond erf) raises `NoWideOracle`: for such a task there is none,
which the caller has to say.

Constants that a decomposition writes as Python numbers (the square root of a half in `gelu`) are float64's, as they
are in eager.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch._decomp import decomposition_table
from torch.utils._pytree import tree_map

from akg_dynamo.agents.verifier import double_double as dd
from akg_dynamo.agents.verifier.double_double import Pair

aten = torch.ops.aten
MOST_ELEMENTS = 1 << 18
_MOST_PRODUCTS = 1 << 27
_PRODUCTS_AT_ONCE = 1 << 20
_Handler = Callable[..., Any]
_H = TypeVar("_H", bound=_Handler)


class NoWideOracle(Exception):
    """An operator that cannot be evaluated so, by its name."""


class Wide(torch.Tensor):
    """A float64 tensor with a second half, which holds the digits that the first one lost."""

    hi: torch.Tensor
    lo: torch.Tensor

    @staticmethod
    def __new__(cls, hi: torch.Tensor, lo: torch.Tensor) -> Wide:
        """The two halves must be laid out alike."""
        lo = lo if lo.stride() == hi.stride() else torch.empty_like(hi).copy_(lo)
        made: Wide = torch.Tensor._make_wrapper_subclass(
            cls, hi.shape, strides=hi.stride(), storage_offset=hi.storage_offset(), dtype=hi.dtype, device=hi.device
        )
        made.hi, made.lo = hi, lo
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # as torch calls it
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        name = str(packet).rpartition(".")[2]
        # what decompositions end in are often prims, named as the operators are
        handler = _HANDLERS.get(packet) or _HANDLERS.get(getattr(aten, name, None))
        for way in (handler, decomposition_table.get(func), func.decompose):
            found = NotImplemented if way is None else way(*args, **kwargs)
            if found is not NotImplemented:
                return found
        raise NoWideOracle(name)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Wide({self.hi!r}, {self.lo!r})"


def widen(t: torch.Tensor) -> torch.Tensor:
    """A float64 tensor as a wide one; any other as it is."""
    return _wide(dd.exact(t)) if t.dtype == torch.float64 else t


def halves(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The float64 nearest to each element, and what is left of it (None: nothing)."""
    return (t.hi, t.lo) if isinstance(t, Wide) else (t, None)


def _wide(pair: Pair) -> Wide:
    return Wide(*pair)


def _pair(x: Any, like: torch.Tensor) -> Pair:
    if isinstance(x, Wide):
        return Pair(x.hi, x.lo)
    return dd.exact(x) if isinstance(x, torch.Tensor) else dd.lift(x, like)


_HANDLERS: dict[Any, _Handler] = {}


def _for(*packets: Any) -> Callable[[_H], _H]:
    def register(handler: _H) -> _H:
        _HANDLERS.update(dict.fromkeys(packets, handler))
        return handler

    return register


# --------------------------------------------------------------------------------------------------------------------
# What moves elements, or reads nothing but a tensor's form

_MOVES = (
    "view", "_unsafe_view", "expand", "permute", "transpose", "t", "squeeze", "unsqueeze", "slice", "select", "split",
    "split_with_sizes", "unbind", "cat", "stack", "clone", "contiguous", "detach", "alias", "as_strided", "flip",
    "roll", "repeat", "index", "index_select", "gather", "embedding", "diagonal", "unfold", "movedim", "_reshape_alias",
    "narrow", "tril", "triu", "lift_fresh", "_unsafe_index", "scatter", "slice_scatter", "select_scatter",
    "masked_select", "swapaxes", "reshape", "view_as", "expand_as", "neg", "permute_copy", "expand_copy", "view_copy",
)  # fmt: skip


def _moves(packet: Any) -> _Handler:
    def both(*args: Any, **kwargs: Any) -> Any:
        def half(name: str) -> Any:
            def of(x: Any) -> Any:
                if isinstance(x, Wide):
                    return getattr(x, name)
                # an ordinary operand of an operator that joins tensors has nothing in its low half
                return torch.zeros_like(x) if name == "lo" and _is_float(x) else x

            return packet(*tree_map(of, args), **tree_map(of, kwargs))

        hi, lo = half("hi"), half("lo")
        return tree_map(Wide, hi, lo) if isinstance(hi, torch.Tensor) else type(hi)(map(Wide, hi, lo))

    return both


def _is_float(x: object) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


for _name in _MOVES:
    if hasattr(aten, _name):
        _HANDLERS[getattr(aten, _name)] = _moves(getattr(aten, _name))


def _of_the_high_half(packet: Any) -> _Handler:
    def handler(*args: Any, **kwargs: Any) -> Any:
        return packet(*tree_map(lambda x: x.hi if isinstance(x, Wide) else x, args), **kwargs)

    return handler


for _name in (
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "isnan",
    "isinf", "isfinite", "_local_scalar_dense", "sym_size", "sym_stride", "signbit", "is_same_size",
):  # fmt: skip
    if hasattr(aten, _name):
        _HANDLERS[getattr(aten, _name)] = _of_the_high_half(getattr(aten, _name))


@_for(aten.real)
def _real(x: Wide) -> Wide:
    return x


@_for(aten.constant_pad_nd)
def _pad(x: Wide, pad: Sequence[int], value: float = 0.0) -> Wide:
    return Wide(aten.constant_pad_nd(x.hi, pad, value), aten.constant_pad_nd(x.lo, pad, 0.0))


@_for(aten._to_copy, torch.ops.prims.convert_element_type)
def _to_copy(x: Wide, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    if dtype is None or dtype == torch.float64:
        return Wide(x.hi.clone(), x.lo.clone())
    if dtype == torch.bool:
        return (x.hi != 0) | (x.lo != 0)
    if dtype.is_floating_point or dtype.is_complex:
        return x.hi.to(dtype)
    toward_zero = dd.choose(x.hi < 0, dd.negative(dd.floor(dd.negative(_pair(x, x)))), dd.floor(_pair(x, x)))
    return toward_zero.hi.to(dtype) + toward_zero.lo.to(dtype)


@_for(aten.where)
def _where(condition: torch.Tensor, a: Any, b: Any) -> Any:
    like = a if isinstance(a, torch.Tensor) else b
    return _wide(dd.choose(condition, _pair(a, like), _pair(b, like)))


@_for(aten.masked_fill)
def _masked_fill(x: Any, mask: torch.Tensor, value: Any) -> Wide:
    return _wide(dd.choose(mask, _pair(value, mask), _pair(x, mask)))


# --------------------------------------------------------------------------------------------------------------------
# Element by element


def _like(*operands: Any) -> torch.Tensor:
    found = next(x for x in operands if isinstance(x, torch.Tensor))
    return found.hi if isinstance(found, Wide) else found


def _elementwise(function: Callable[[Pair], Pair]) -> _Handler:
    def handler(x: Any) -> Wide:
        try:
            return _wide(function(_pair(x, x)))
        except dd.OutOfReach:
            raise NoWideOracle("a sine or cosine of a very large number") from None

    return handler


def _one(x: Pair) -> Pair:
    return dd.lift(1.0, x.hi)


def _constant(value: str) -> Callable[[Pair], Pair]:
    """A constant of more digits than a Python number has: its two halves, as text."""
    high, low = (float(part) for part in value.split())
    return lambda x: Pair(*(torch.full((), part, dtype=torch.float64, device=x.hi.device) for part in (high, low)))


_ln_2 = _constant("0.6931471805599453 2.3190468138462996e-17")
_ln_10 = _constant("2.302585092994046 -2.1707562233822494e-16")


def _sigmoid(x: Pair) -> Pair:
    return dd.divide(_one(x), dd.add(_one(x), dd.exp(dd.negative(x))))


def _half_difference(x: Pair, sign: float) -> Pair:
    grown, shrunk = dd.exp(x), dd.exp(dd.negative(x))
    return dd.times(dd.add(grown, shrunk) if sign > 0 else dd.subtract(grown, shrunk), 0.5)


for _name, _function in {
    "abs": dd.magnitude, "sqrt": dd.root, "exp": dd.exp, "expm1": dd.exp_minus_one, "log": dd.log, "tanh": dd.tanh,
    "log1p": dd.log_one_plus, "erf": dd.erf, "sigmoid": _sigmoid, "floor": dd.floor, "round": dd.rounded,
    "reciprocal": lambda x: dd.divide(_one(x), x), "rsqrt": lambda x: dd.divide(_one(x), dd.root(x)),
    "square": lambda x: dd.multiply(x, x), "ceil": lambda x: dd.negative(dd.floor(dd.negative(x))),
    "sin": lambda x: dd.sine_and_cosine(x)[0], "cos": lambda x: dd.sine_and_cosine(x)[1],
    "tan": lambda x: dd.divide(*dd.sine_and_cosine(x)), "cosh": lambda x: _half_difference(x, 1.0),
    "exp2": lambda x: dd.exp(dd.multiply(x, _ln_2(x))), "log2": lambda x: dd.divide(dd.log(x), _ln_2(x)),
    "log10": lambda x: dd.divide(dd.log(x), _ln_10(x)),
    "trunc": lambda x: dd.choose(x.hi < 0, dd.negative(dd.floor(dd.negative(x))), dd.floor(x)),
    "relu": lambda x: dd.choose(x.hi <= 0, dd.exact(torch.zeros_like(x.hi)), x),
    "sign": lambda x: dd.exact(torch.where(x.hi == 0, x.lo, x.hi).sign()),
}.items():  # fmt: skip
    _HANDLERS[getattr(aten, _name)] = _elementwise(_function)


def _binary(function: Callable[[Pair, Pair], Pair]) -> _Handler:
    def handler(a: Any, b: Any, *, alpha: float = 1, rounding_mode: str | None = None) -> Any:
        like = _like(a, b)
        right = _pair(b, like)
        if alpha != 1:
            right = dd.multiply(right, dd.lift(alpha, like))
        found = function(_pair(a, like), right)
        if rounding_mode == "floor":
            found = dd.floor(found)
        elif rounding_mode == "trunc":
            found = dd.choose(found.hi < 0, dd.negative(dd.floor(dd.negative(found))), dd.floor(found))
        return _wide(found)

    return handler


for _packet, _combined in (
    (aten.add, dd.add), (aten.sub, dd.subtract), (aten.mul, dd.multiply), (aten.div, dd.divide),
):  # fmt: skip
    _HANDLERS[_packet] = _binary(_combined)


@_for(aten.rsub)
def _rsub(a: Any, b: Any, alpha: float = 1) -> Any:
    return _HANDLERS[aten.sub](b, a, alpha=1) if alpha == 1 else NotImplemented


@_for(aten.pow)
def _pow(a: Any, b: Any) -> Any:
    like = _like(a, b)
    if isinstance(b, int | float) and float(b).is_integer() and abs(b) <= 64:
        return _wide(dd.power(_pair(a, like), int(b)))
    if isinstance(b, float) and abs(b) == 0.5:
        found = dd.root(_pair(a, like))
        return _wide(found if b > 0 else dd.divide(_one(found), found))
    base = _pair(a, like)
    if bool((base.hi <= 0).any()):
        raise NoWideOracle("a power of what is not positive")
    return _wide(dd.exp(dd.multiply(dd.log(base), _pair(b, like))))


def _larger(a: Pair, b: Pair) -> Pair:
    found = dd.choose(dd.less(a, b), b, a)
    return dd.choose(a.hi.isnan(), a, dd.choose(b.hi.isnan(), b, found))


def _smaller(a: Pair, b: Pair) -> Pair:
    return dd.negative(_larger(dd.negative(a), dd.negative(b)))


_HANDLERS[aten.maximum] = _binary(_larger)
_HANDLERS[aten.minimum] = _binary(_smaller)


@_for(aten.clamp, aten.clamp_min, aten.clamp_max)
def _clamp(x: Any, min: Any = None, max: Any = None) -> Wide:
    found = _pair(x, x)
    if min is not None:
        found = _larger(found, _pair(min, x))
    return _wide(found if max is None else _smaller(found, _pair(max, x)))


@_for(aten.clamp_max)
def _clamp_max(x: Any, max: Any) -> Wide:
    return _clamp(x, None, max)


def _comparison(of: Callable[[Pair, Pair], torch.Tensor]) -> _Handler:
    return lambda a, b: of(_pair(a, _like(a, b)), _pair(b, _like(a, b)))


for _packet, _of in {
    aten.lt: dd.less, aten.eq: dd.equal, aten.gt: lambda a, b: dd.less(b, a), aten.ne: lambda a, b: ~dd.equal(a, b),
    aten.le: lambda a, b: dd.less(a, b) | dd.equal(a, b), aten.ge: lambda a, b: dd.less(b, a) | dd.equal(a, b),
}.items():  # fmt: skip
    _HANDLERS[_packet] = _comparison(_of)


# --------------------------------------------------------------------------------------------------------------------
# Reductions and products


def _dims(x: torch.Tensor, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, Sequence) and not dim):
        return list(range(x.dim()))
    return [d % max(x.dim(), 1) for d in (dim if isinstance(dim, Sequence) else [dim])] if x.dim() else []


@_for(aten.sum)
def _sum(x: Wide, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Wide:
    return _wide(dd.total(_pair(x, x), _dims(x, dim), keepdim=keepdim))


@_for(aten.mean)
def _mean(x: Wide, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Wide:
    dims = _dims(x, dim)
    found = dd.total(_pair(x, x), dims, keepdim=keepdim)
    return _wide(dd.divide(found, dd.lift(float(math.prod(x.shape[d] for d in dims)), x.hi)))


def _variance(x: Wide, dim: Any, unbiased: Any, correction: Any, keepdim: bool) -> tuple[Pair, Pair]:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    by = correction if correction is not None else (1 if unbiased in (None, True) else 0)
    dims = _dims(x, dim)
    n = math.prod(x.shape[d] for d in dims)
    count = dd.lift(float(n), x.hi)
    mean = dd.divide(dd.total(_pair(x, x), dims, keepdim=True), count)
    apart = dd.subtract(_pair(x, x), mean)
    squares = dd.total(dd.multiply(apart, apart), dims, keepdim=keepdim)
    var = dd.divide(squares, dd.lift(float(max(n - by, 0)), x.hi))
    return var, mean if keepdim else Pair(*(t.reshape(var.hi.shape) for t in mean))


@_for(aten.var)
def _var(x: Wide, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Wide:
    return _wide(_variance(x, dim, unbiased, correction, keepdim)[0])


@_for(aten.std)
def _std(x: Wide, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Wide:
    return _wide(dd.root(_variance(x, dim, unbiased, correction, keepdim)[0]))


@_for(aten.var_mean)
def _var_mean(
    x: Wide, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> tuple[Wide, Wide]:
    var, mean = _variance(x, dim, unbiased, correction, keepdim)
    return _wide(var), _wide(mean)


def _extreme(combine: Callable[[Pair, Pair], Pair]) -> _Handler:
    def handler(x: Wide, dim: Any = (), keepdim: bool = False) -> Wide:
        found = _pair(x, x)
        dims = _dims(x, dim)
        for d in sorted(dims, reverse=True):
            found = dd.along(found, d, combine, 0.0)
        for d in sorted(dims) if keepdim else ():
            found = Pair(*(t.unsqueeze(d) for t in found))
        return _wide(found)

    return handler


_HANDLERS[aten.amax] = _extreme(_larger)
_HANDLERS[aten.amin] = _extreme(_smaller)


@_for(aten.argmax)
def _argmax(x: Wide, dim: Any = None, keepdim: bool = False) -> torch.Tensor:
    if dim is None:
        best = _HANDLERS[aten.amax](x)
        return dd.equal(_pair(x, x), _pair(best, x)).reshape(-1).to(torch.uint8).argmax()
    best = _HANDLERS[aten.amax](x, dim, True)
    return dd.equal(_pair(x, x), _pair(best, x)).to(torch.uint8).argmax(dim, keepdim)


@_for(aten.argmin)
def _argmin(x: Wide, dim: Any = None, keepdim: bool = False) -> torch.Tensor:
    return _argmax(_wide(dd.negative(_pair(x, x))), dim, keepdim)


@_for(aten.cumsum)
def _cumsum(x: Wide, dim: int, *, dtype: Any = None) -> Wide:
    return _wide(dd.running(_pair(x, x), dim)) if x.dim() else x


@_for(aten.prod)
def _prod(x: Wide, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Wide:
    found = _pair(x, x)
    for d in sorted(_dims(x, dim), reverse=True):
        found = dd.along(found, d, dd.multiply, 1.0)
    return _wide(Pair(*(t.unsqueeze(dim) for t in found)) if keepdim else found)


def _best(extreme: Any, position: _Handler) -> _Handler:
    def handler(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, torch.Tensor):  # the binary form
            return NotImplemented
        if dim is None:
            return _HANDLERS[extreme](x)
        return _HANDLERS[extreme](x, dim, keepdim), position(x, dim, keepdim)

    return handler


_HANDLERS[aten.max] = _best(aten.amax, _argmax)
_HANDLERS[aten.min] = _best(aten.amin, _argmin)


@_for(aten.mm, aten.bmm)
def _mm(a: Any, b: Any) -> Wide:
    like = _like(a, b)
    if math.prod(a.shape) * b.shape[-1] > _MOST_PRODUCTS:
        raise NoWideOracle("a matrix product of that size")
    return _wide(dd.product(_pair(a, like), _pair(b, like), _PRODUCTS_AT_ONCE))


@_for(aten.addmm)
def _addmm(c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    found = _mm(a, b)
    scaled = found if alpha == 1 else _HANDLERS[aten.mul](found, alpha)
    return _HANDLERS[aten.add](scaled, c if beta == 1 else _HANDLERS[aten.mul](c, beta))
