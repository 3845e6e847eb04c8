"""Values of a sketch in CUDA C, at one lane: arithmetic, loads and the conditions under which they may be made."""

from __future__ import annotations

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.cpp_ops import Reg
from akg_dynamo.agents.lowering.cuda_c_tiles import Space, Tiles
from akg_dynamo.agents.lowering.index import Ranges, is_const, strides_of
from akg_dynamo.agents.lowering.ir import Access, IndexAt, IndexGather, StoreTo, Value, Variable
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.intexpr import simplify
from akg_dynamo.core.errors import LoweringError

_LONG = 72  # characters of an expression that get a name
_PURE = ("literal", "index", "lanes")


def is_pure(value: Value) -> bool:
    """Whether it is the same wherever it is computed: made of numbers and indices alone."""
    return value.kind in _PURE or (value.kind in ("op", "cast") and all(is_pure(a) for a in value.args))


class Values:
    """Writes values. tensors: parameters by the sketch's names. entry: counts what is written, one after the other."""

    def __init__(self, tiles: Tiles, ranges: Ranges, tensors: dict[str, str], users: dict[Value, int]) -> None:
        self.tiles = tiles
        self.text = tiles.text
        self.ranges = ranges
        self.tensors = tensors
        self.users = users
        self.entry = 0

    def at(self, value: Value, space: Space) -> Reg:
        """The value at a lane of the space."""
        if value in space.done:
            return space.done[value]
        if value in self.tiles.held:
            reg = self.tiles.read(value, space)
        elif isinstance(value.data, Variable):
            reg = self.computed(value, space)
        else:
            self.tiles.uses.evaluated.setdefault(value, set()).add((self.entry, space.axes))
            reg = self._named(value, self.computed(value, space))
        space.done[value] = reg
        return reg

    def _named(self, value: Value, reg: Reg) -> Reg:
        """With a name, where its text is long or needed again."""
        if value.kind in _PURE or (self.users.get(value, 0) <= 1 and len(reg.text) < _LONG):
            return reg
        name = self.text.fresh(value.hint or f"{value.kind if value.kind == 'load' else value.name or 'v'}_")
        self.text.line(f"const {reg.c_type} {name} = {_bare(reg.text)};")
        return Reg(name, reg.dtype, False, exact=reg.exact, constant=reg.constant)

    def computed(self, value: Value, space: Space) -> Reg:
        """The value, worked out from its operands even if it is held or about to be."""
        if isinstance(value.data, Variable):
            return self.tiles.read(value.data, space)
        if value.kind == "literal":
            assert isinstance(value.data, float | int)
            return cpp_ops.literal(value.data, value.dtype)
        if value.kind == "index":
            assert isinstance(value.data, sk.IntConst | sk.IntVar | sk.IntBin)
            if isinstance(value.data, sk.IntConst):
                return cpp_ops.literal(value.data.value, DType.I64)
            return Reg(f"int64_t({self.tiles.int_text(value.data)})", DType.I64, False)
        if value.kind == "lanes":
            assert value.axis is not None
            return Reg(space.index[value.axis], DType.I64, False)
        if value.kind == "load":
            return self._load(value, space)
        args = [self.at(a, space) for a in value.args]
        if value.kind == "cast":
            return cpp_ops.cast(args[0], value.dtype)
        if value.kind == "op" and value.name == "checked":
            return Reg(f"checked({args[0].text}, {args[1].text})", DType.I64, False)
        if value.kind == "op":
            return cpp_ops.operation(value.name, args, value.dtype)
        raise LoweringError(f"no CUDA C for a {value.kind} here")

    def stored(self, value: Value, space: Space) -> Reg:
        """The value as a store takes it: the store may do its last rounding."""
        if value.kind == "cast" and value not in space.done and value not in self.tiles.held:
            return cpp_ops.cast(self.at(value.args[0], space), value.dtype, only_stored=True)
        return self.at(value, space)

    # -- memory

    def _load(self, value: Value, space: Space) -> Reg:
        assert value.access is not None
        place, conditions = self.place(value.access, space)
        if value.masked:
            conditions.insert(0, self.at(value.args[-1], space).text)
        reg = cpp_ops.loaded(place, value.dtype, False)
        if not conditions:
            return reg
        assert isinstance(value.data, float | int)
        other = cpp_ops.literal(value.data, value.dtype).text
        return Reg(f"({' && '.join(conditions)} ? {reg.text} : {other})", value.dtype, False)

    def store(self, sink: StoreTo, space: Space) -> None:
        """One lane of a store; dead ones too are asked for."""
        place, conditions = self.place(sink.access, space)
        with self.text.body(f"if ({' && '.join(conditions)})" if conditions else ""):
            self.text.line(f"{place} = {_bare(cpp_ops.to_store(self.stored(sink.value, space)))};")

    def place(self, access: Access, space: Space) -> tuple[str, list[str]]:
        """The element that an access means, and the bounds that are not known to hold."""
        terms: list[str] = []
        conditions: list[str] = []
        for index, size, stride in zip(access.indices, access.tensor.shape, strides_of(access.tensor), strict=True):
            if isinstance(index, IndexAt):
                low = last = index.expr
                text = self.tiles.int_text(index.expr, 1)
                inside = self.ranges.inside(low, last, size)
            elif isinstance(index, IndexGather):
                found = self.at(index.tile, space)
                text = found.text
                inside = False
            else:
                text = space.index[index.axis]
                if not is_const(index.shift, 0):
                    text = f"({text} + {self.tiles.int_text(index.shift, 2)})"
                low, last = _shifted(index.axis.start, index.shift), _shifted(index.axis.stop, index.shift, -1)
                above = self.ranges.inside(low, sk.IntConst(-1), size)
                inside = above and self.ranges.inside(sk.IntConst(0), last, size)
            if not inside:
                conditions.append(f"inside({_bare(text)}, {self.tiles.int_text(size)})")
            if is_const(stride, 0) or text == "0":
                continue
            if isinstance(index, IndexGather) and index.tile.dtype is not DType.I64 and not is_const(stride, 1):
                text = f"int64_t({text})"
            terms.append(text if is_const(stride, 1) else f"{text} * {self.tiles.int_text(stride, 2)}")
        return f"{self.tensors[access.tensor.name]}[{_bare(' + '.join(terms)) or '0'}]", conditions


def _shifted(bound: sk.IntExpr, shift: sk.IntExpr, by: int = 0) -> sk.IntExpr:
    """bound + shift + by."""
    return simplify(sk.IntBin("+", sk.IntBin("+", bound, shift), sk.IntConst(by)))


def _bare(text: str) -> str:
    """Without brackets around the whole."""
    if not text.startswith("(") or not text.endswith(")"):
        return text
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and at < len(text) - 1:
            return text
    return text[1:-1]
