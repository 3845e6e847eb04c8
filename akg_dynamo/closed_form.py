"""Tensors that are made of no input, each with a formula for its elements:

    q = arange(s)[None, None, :, None]        int64, (1, 1, s, 1):   i2
    k = arange(s)[None, None, None, :]        int64, (1, 1, 1, s):   i3
    mask = (k <= q).expand(b, -1, s, s)       bool, (b, 1, s, s):    i2 - i3 >= 0

What is concluded from a formula is proved for every size, without computing one element. An operator that is not known
here, or a value that might be rounded, wrapped or looked up outside its tensor, has no formula: nothing is guessed.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from akg_dynamo.formulas import Choice, Constant, Linear, Size, Unknown, along, choose, constant, is_nonnegative, select
from akg_dynamo.fusion.symbols import expression

Element: TypeAlias = "Choice | Linear"
"""A linear one is an int64; other integers, but for constants, are choices."""


@dataclass(frozen=True)
class Form:
    """A tensor, and the formula of its elements."""

    shape: tuple[Size, ...]
    dtype: torch.dtype
    element: Element


@dataclass(frozen=True)
class _Result:
    """What an operator returns, as tracing saw it."""

    shape: tuple[Size, ...]
    dtype: torch.dtype


_Rule: TypeAlias = Callable[..., Element]
_WHATEVER: Any = object()  # stands for a tensor without a form, or a size: of which nothing may be read


def closed_forms(graph: fx.Graph) -> dict[fx.Node, Form]:
    """The tensors of a Dynamo graph that have a form. Adds no guard."""
    forms: dict[fx.Node, Form] = {}
    for node in graph.nodes:
        rule, value = _rule(node), node.meta.get("example_value")
        if rule is None or type(value) is not FakeTensor or value.layout is not torch.strided:
            continue
        if rule not in _MADE_OF_NOTHING and not any(n in forms for n in node.all_input_nodes):
            continue
        known: dict[fx.Node, Any] = {n: forms.get(n, _WHATEVER) for n in node.all_input_nodes}
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        result = _Result(tuple(map(expression, value.shape)), value.dtype)
        try:
            forms[node] = Form(result.shape, result.dtype, _apply(rule, result, args, kwargs))
        except Unknown:
            continue
    return forms


def only_reads(node: fx.Node) -> bool:
    """Whether the node is an operator known here, all of which leave their operands as they are."""
    return _rule(node) is not None


def _rule(node: fx.Node) -> _Rule | None:
    if "out" in node.kwargs:
        return None
    if node.op == "call_method":
        return _METHODS.get(str(node.target))
    return _FUNCTIONS.get(node.target) if node.op == "call_function" else None


def _apply(rule: _Rule, result: _Result, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Element:
    try:
        bound = inspect.signature(rule).bind(result, *args, **kwargs)
    except TypeError:
        raise Unknown from None  # a spelling that the rule does not have
    return rule(*bound.args, **bound.kwargs)


# Values

_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})
_MOST = {torch.int64: 1 << 24} | dict.fromkeys(_FLOATS, 256)
_MOST_OF_AN_INTEGER = 127


def _exact(value: object, dtype: torch.dtype) -> Constant:
    """The number as that dtype holds it, if it does without rounding: in Python's bool, int or float."""
    if not isinstance(value, (bool, int, float)) or math.isnan(value):
        raise Unknown
    if dtype is torch.bool:
        return bool(value)
    if math.isinf(value) and dtype in _FLOATS:
        return float(value)
    if dtype not in _FLOATS | _INTEGERS or not float(value).is_integer():
        raise Unknown
    if abs(value) > _MOST.get(dtype, _MOST_OF_AN_INTEGER) or (dtype is torch.uint8 and value < 0):
        raise Unknown
    return float(value) if dtype in _FLOATS else int(value)


def _constant(value: object, dtype: torch.dtype) -> Element:
    exact = _exact(value, dtype)
    return Linear(int(exact)) if dtype in _INTEGERS else constant(exact)


def _form(argument: object, dtype: torch.dtype | None = None) -> Form:
    if not isinstance(argument, Form) or (dtype is not None and argument.dtype is not dtype):
        raise Unknown
    return argument


def _choice(element: Element) -> Choice:
    return element if isinstance(element, Choice) else constant(element.number)


def _linear(element: Element) -> Linear:
    if isinstance(element, Choice):
        raise Unknown
    return element


def _from(choice: Choice) -> Element:
    """The element that a choice is: an integer that is constant is linear."""
    is_integer = isinstance(choice.yes, int) and not isinstance(choice.yes, bool)
    return Linear(int(choice.yes)) if is_integer and choice.is_constant else choice


def _operand(argument: object, result: _Result, dtype: torch.dtype | None = None) -> Element:
    """A number or a tensor, broadcast to the result's shape; in that dtype, if one is given."""
    if not isinstance(argument, Form):
        is_integer = isinstance(argument, int) and not isinstance(argument, bool)
        return _constant(argument, dtype or (torch.int64 if is_integer else torch.float64))
    lead = len(result.shape) - len(argument.shape)
    if lead < 0:
        raise Unknown
    index: list[Linear] = []
    for dim, size in enumerate(argument.shape, lead):
        if size not in (result.shape[dim], 1):
            raise Unknown
        index.append(along(dim) if size == result.shape[dim] else Linear(0))
    element = argument.element.at(index)
    if dtype in (None, argument.dtype):
        return element
    assert dtype is not None
    choice = _choice(element)
    return _from(choose(choice.conditions, _exact(choice.yes, dtype), _exact(choice.no, dtype), result.shape))


# Operators. Each rule gives the element of the result; of what the result's shape and dtype say, nothing is parsed.


def _filled(value: float) -> _Rule:
    def rule(result: _Result, *_sizes: object, **_options: object) -> Element:
        return _constant(value, result.dtype)

    return rule


def _full(result: _Result, size: object, fill_value: object, **_options: object) -> Element:
    return _constant(fill_value, result.dtype)


def _new_full(result: _Result, _like: object, size: object, fill_value: object, **_options: object) -> Element:
    return _constant(fill_value, result.dtype)


def _arange(
    result: _Result, *bounds: object, start: object = 0, end: object = None, dtype: object = None, device: object = None
) -> Element:
    start, step = bounds[0] if len(bounds) > 1 else start, bounds[2] if len(bounds) > 2 else 1
    if not isinstance(start, int) or not isinstance(step, int) or result.dtype is not torch.int64:
        raise Unknown
    return Linear(int(_exact(start, torch.int64))).plus(along(0), int(_exact(step, torch.int64)))


def _same(result: _Result, x: object, *_options: object, **_more: object) -> Element:
    """Copies, casts and moves; and what shows elements several times."""
    return _operand(_form(x), result, result.dtype)


def _reshape(result: _Result, x: object, *_sizes: object, **_options: object) -> Element:
    """Dims of one element come and go, the others stay in their order."""
    form = _form(x, result.dtype)
    if [s for s in form.shape if s != 1] != [s for s in result.shape if s != 1]:
        raise Unknown
    places = iter([along(dim) for dim, size in enumerate(result.shape) if size != 1])
    return form.element.at([Linear(0) if size == 1 else next(places) for size in form.shape])


def _transpose(result: _Result, x: object, dim0: object, dim1: object) -> Element:
    form = _form(x)
    rank = len(form.shape)
    index = [along(dim) for dim in range(rank)]
    a, b = _dim(dim0, rank), _dim(dim1, rank)
    index[a], index[b] = index[b], index[a]
    return form.element.at(index)


def _t(result: _Result, x: object) -> Element:
    return _transpose(result, x, 0, 1) if len(result.shape) == 2 else _same(result, x)


def _dim(dim: object, rank: int) -> int:
    if not isinstance(dim, int) or not -rank <= dim < rank:
        raise Unknown
    return dim % rank


def _getitem(result: _Result, x: object, index: object) -> Element:
    form = _form(x)
    parts: list[Any] = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(p, Form) for p in parts):
        return form.element.at(_gathered(result, form, parts))
    dots = [place for place, p in enumerate(parts) if p is ...]
    everything = [slice(None)] * (len(form.shape) - sum(p is not None and p is not ... for p in parts))
    start = dots[0] if dots else len(parts)
    places: list[Linear] = []
    dim = 0  # of the result
    for part in [*parts[:start], *everything, *parts[start + 1 :]]:
        if part is None:
            dim += 1
        elif isinstance(part, slice):
            places.append(_first(part).plus(along(dim), 1 if part.step is None else part.step))
            dim += 1
        elif isinstance(part, int) and not isinstance(part, bool):
            places.append(Linear(part) if part >= 0 else Linear(form.shape[len(places)]).moved(part))
        else:
            raise Unknown  # a list, among others, which gathers
    if dim != len(result.shape):
        raise Unknown
    return form.element.at(places)


def _first(part: slice) -> Linear:
    """Where a slice begins (where it ends is told by the result's size)."""
    start = 0 if part.start is None else part.start
    if not isinstance(start, int) or start < 0 or not (part.step is None or isinstance(part.step, int)):
        raise Unknown
    return Linear(start)


def _gathered(result: _Result, form: Form, parts: Sequence[object]) -> list[Linear]:
    """The place in a tensor that is indexed by a tensor for each of its dims."""
    if len(parts) != len(form.shape):
        raise Unknown
    places = []
    for part, size in zip(parts, form.shape, strict=True):
        place = _linear(_operand(_form(part, torch.int64), result))
        room = Linear(size).moved(-1).plus(Linear(place.largest(result.shape)), -1).constant
        if not is_nonnegative(place.least(result.shape)) or not is_nonnegative(room):
            raise Unknown  # what is negative counts from the end, what is beyond raises
        places.append(place)
    return places


def _sum(times: int) -> _Rule:
    def rule(result: _Result, a: object, b: object) -> Element:
        if result.dtype is not torch.int64:
            raise Unknown
        total = _linear(_operand(a, result)).plus(_linear(_operand(b, result)), times)
        for factor in (total.constant, *(slope for _, slope in total.slopes)):
            _exact(factor, torch.int64)  # so small that no element overflows
        return total

    return rule


def _compare(
    holds: Callable[[float, float], bool], conditions: Callable[[Linear, Linear], list[Linear]], *, negate: bool = False
) -> _Rule:
    """A comparison. conditions: of linear a and b, under which it holds (does not, if `negate`)."""

    def rule(result: _Result, a: object, b: object) -> Element:
        x = _form(a)
        if isinstance(b, Form):
            _form(b, x.dtype)
        elif x.dtype is not torch.bool:
            _exact(b, x.dtype)  # a number is rounded before it is compared
        left, right = _operand(x, result), _operand(b, result)
        if isinstance(left, Linear) and isinstance(right, Linear):
            return choose(frozenset(conditions(left, right)), not negate, negate, result.shape)
        chosen, other = _choice(left), _choice(right)
        if not other.is_constant:
            raise Unknown
        return choose(chosen.conditions, holds(chosen.yes, other.yes), holds(chosen.no, other.yes), result.shape)

    return rule


_le = _compare(operator.le, lambda a, b: [b.plus(a, -1)])
_lt = _compare(operator.lt, lambda a, b: [b.plus(a, -1).moved(-1)])
_ge = _compare(operator.ge, lambda a, b: [a.plus(b, -1)])
_gt = _compare(operator.gt, lambda a, b: [a.plus(b, -1).moved(-1)])
_eq = _compare(operator.eq, lambda a, b: [a.plus(b, -1), b.plus(a, -1)])
_ne = _compare(operator.ne, lambda a, b: [a.plus(b, -1), b.plus(a, -1)], negate=True)


def _bools(argument: object, result: _Result) -> Choice:
    return _choice(_operand(_form(argument, torch.bool), result))


def _and(result: _Result, a: object, b: object) -> Element:
    return select(_bools(a, result), _bools(b, result), constant(False), result.shape)


def _or(result: _Result, a: object, b: object) -> Element:
    return select(_bools(a, result), constant(True), _bools(b, result), result.shape)


def _not(result: _Result, x: object) -> Element:
    return select(_bools(x, result), constant(False), constant(True), result.shape)


def _where(result: _Result, condition: object, input: object, other: object) -> Element:
    a, b = (_choice(_operand(x, result, result.dtype)) for x in (input, other))
    return _from(select(_bools(condition, result), a, b, result.shape))


def _masked_fill(result: _Result, x: object, mask: object, value: object) -> Element:
    return _where(result, mask, value, x)


def _triangle(times: int) -> _Rule:
    """The lower (1) or upper (-1) triangle, and zeros."""

    def rule(result: _Result, x: object, diagonal: object = 0) -> Element:
        rank = len(result.shape)
        if not isinstance(diagonal, int):
            raise Unknown
        below = along(rank - 2).plus(along(rank - 1), -1).moved(diagonal)  # row - column + diagonal
        kept = Choice(frozenset({Linear(0).plus(below, times)}), True, False)
        zero = _choice(_constant(0, result.dtype))
        return _from(select(kept, _choice(_operand(_form(x), result)), zero, result.shape))

    return rule


def _diff(result: _Result, x: object, n: object = 1, dim: object = -1, prepend: object = None) -> Element:
    """x[i] - x[i - 1], where what is prepended to x makes the first one no exception."""
    form, first = _form(x, torch.int64), _form(prepend, torch.int64)
    rank = len(form.shape)
    place = _dim(dim, rank)
    if n != 1 or first.shape != (*form.shape[:place], 1, *form.shape[place + 1 :]):
        raise Unknown
    value = _linear(form.element)
    here = [along(d) for d in range(rank)]
    before, start = ([*here[:place], other, *here[place + 1 :]] for other in (here[place].moved(-1), Linear(0)))
    step = value.plus(value.at(before), -1)
    if value.at(start).plus(_linear(first.element).at(start), -1) != step:
        raise Unknown
    return step


def _cumsum(result: _Result, x: object, dim: object, *, dtype: object = None) -> Element:
    """Of zeros or of ones."""
    form = _form(x)
    choice = _choice(form.element)
    if result.dtype is not torch.int64 or not choice.is_constant or choice.yes not in (0, 1):
        raise Unknown
    return Linear(0).plus(along(_dim(dim, len(form.shape))).moved(1), int(choice.yes))


_add, _sub, _ones, _zeros, _tril, _triu = _sum(1), _sum(-1), _filled(1), _filled(0), _triangle(1), _triangle(-1)

_MADE_OF_NOTHING = frozenset({_arange, _ones, _zeros, _full, _new_full})
_COMPARISONS: Mapping[str, _Rule] = {"eq": _eq, "ne": _ne, "le": _le, "lt": _lt, "ge": _ge, "gt": _gt}
_LOGIC: Mapping[str, _Rule] = {
    "logical_and": _and,
    "logical_or": _or,
    "logical_not": _not,
    "bitwise_and": _and,
    "bitwise_or": _or,
}

_FUNCTIONS: Mapping[Any, _Rule] = {
    **{getattr(operator, name): rule for name, rule in _COMPARISONS.items()},
    **{getattr(torch, name): rule for name, rule in {**_COMPARISONS, **_LOGIC}.items()},
    operator.add: _add,
    operator.and_: _and,
    operator.getitem: _getitem,
    operator.invert: _not,
    operator.or_: _or,
    operator.sub: _sub,
    torch.add: _add,
    torch.arange: _arange,
    torch.cumsum: _cumsum,
    torch.diff: _diff,
    torch.full: _full,
    torch.full_like: _full,
    torch.masked_fill: _masked_fill,
    torch.ones: _ones,
    torch.ones_like: _ones,
    torch.reshape: _reshape,
    torch.squeeze: _reshape,
    torch.sub: _sub,
    torch.transpose: _transpose,
    torch.tril: _tril,
    torch.triu: _triu,
    torch.unsqueeze: _reshape,
    torch.where: _where,
    torch.zeros: _zeros,
    torch.zeros_like: _zeros,
}
_METHODS: Mapping[str, _Rule] = {
    **_COMPARISONS,
    **{f"__{name}__": rule for name, rule in _COMPARISONS.items()},
    **_LOGIC,
    **dict.fromkeys(("bfloat16", "bool", "double", "float", "half", "int", "long", "to", "type"), _same),
    **dict.fromkeys(("clone", "contiguous", "detach", "expand", "expand_as", "repeat"), _same),
    **dict.fromkeys(("reshape", "squeeze", "unsqueeze", "view"), _reshape),
    "add": _add,
    "cumsum": _cumsum,
    "diff": _diff,
    "masked_fill": _masked_fill,
    "new_full": _new_full,
    "new_ones": _ones,
    "new_zeros": _zeros,
    "sub": _sub,
    "t": _t,
    "transpose": _transpose,
    "tril": _tril,
    "triu": _triu,
}
