"""Tensor accesses as C++: addresses, the checks that bounds imply, and the forms of load and store they call for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.cpp_ops import STORED, Reg
from akg_dynamo.agents.lowering.index import Ranges, c_name, c_text, is_const, strides_of
from akg_dynamo.agents.lowering.ir import Access, Axis, IndexAt, IndexGather, IndexSpan, StoreTo, Value
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.ast import DType

_TURNED_BYTES = 1 << 18  # a larger tile would not stay in L2
_STACK_BYTES = 1 << 16
_SHUFFLED_STRIDE = 8  # lanes further apart are loaded one by one
_RUN_BYTES = 512  # a shorter run leaves lines half written, which past the caches costs more than it saves
PAST = "past_caches"  # the local that says whether stores go past the caches


@dataclass(frozen=True)
class Address:
    """Where an access begins, in elements, and how it moves with the vector's lanes.

    step: elements between lanes ("0", "1" or an expression). scatter: per-lane offsets as an i64 vector, if a gather
    has them. checks: scalar conditions; lane_checks: vector conditions; first, last: the lanes inside the bounds.
    """

    text: str
    step: str
    scatter: str
    checks: tuple[str, ...]
    lane_checks: tuple[str, ...]
    first: str
    last: str

    @property
    def varies(self) -> bool:
        """Whether the lanes are at different places."""
        return self.step != "0" or bool(self.scatter)


@dataclass(frozen=True)
class Names:
    """How the emitter calls things at some point: `lane` gives the C++ name of an axis's current lane."""

    ranges: Ranges
    renamed: Mapping[str, str]
    lane: Callable[[Axis], str]


def _is_zero(expr: sk.IntExpr) -> bool:
    return is_const(expr, 0)


def _scaled(index: str, stride: str) -> str:
    if stride == "1":
        return index
    simple = index.replace("_", "a").isalnum()
    return f"{index if simple else f'({index})'} * {stride}"


def stride_text(decl: sk.TensorDecl, dim: int, names: Names) -> str:
    """A stride: a number, one name, or a constant the function's head defines."""
    expr = strides_of(decl)[dim]
    if isinstance(expr, sk.IntConst | sk.IntVar):
        return c_text(expr, names.renamed)
    return f"{c_name(decl.name)}_s{dim}"


def address(access: Access, names: Names, regs: Mapping[Value, Reg], vector: Axis | None) -> Address:
    """The address of an access where every axis but `vector` has a current lane."""
    terms: list[str] = []
    steps: list[str] = []
    scatter: list[str] = []
    checks: list[str] = []
    lane_checks: list[str] = []
    first: list[str] = []
    last: list[str] = []
    for dim, index in enumerate(access.indices):
        stride = stride_text(access.tensor, dim, names)
        size_expr = access.tensor.shape[dim]
        size = c_text(size_expr, names.renamed, 2)
        if isinstance(index, IndexGather):
            reg = regs[index.tile]
            if reg.vector:
                wide = reg.text if reg.dtype is DType.I64 else f"cvt<i64v>({reg.text})"
                scatter.append(f"{wide} * {stride}" if stride != "1" else wide)
                lane_checks.append(f"(({wide} >= 0) & ({wide} < {size}))")
            else:
                terms.append(_scaled(f"(int64_t){reg.text}", stride))
                checks.append(f"(uint64_t)(int64_t){reg.text} < (uint64_t)({size})")
            continue
        if isinstance(index, IndexAt):
            text = c_text(index.expr, names.renamed)
            proved = names.ranges.inside(index.expr, index.expr, size_expr)
        else:
            assert isinstance(index, IndexSpan)
            lane = names.lane(index.axis)
            text = lane if _is_zero(index.shift) else f"{lane} + {c_text(index.shift, names.renamed)}"
            proved = names.ranges.inside(*_extent(index), size_expr)
            if index.axis is vector:
                steps.append(stride)
                if not proved:
                    first.append(f"-({text})")
                    last.append(f"{size} - ({text})")
                    proved = True
        if text != "0" and stride != "0":
            terms.append(_scaled(text, stride))
        if not proved:
            checks.append(f"(uint64_t)({text}) < (uint64_t)({size})")
    moving = [s for s in steps if s != "0"]
    return Address(
        " + ".join(terms) or "0",
        " + ".join(moving) or "0",
        " + ".join(scatter),
        tuple(checks),
        tuple(lane_checks),
        _fold(first, "max2"),
        _fold(last, "min2"),
    )


@dataclass(frozen=True)
class Turned:
    """A tile that is copied transposed between memory and a buffer: along `across` its elements are adjacent in memory.

    The buffer, in memory's element type, has a row per lane of `across` and a column per lane of the vector axis.
    """

    name: str
    across: Axis
    vector: Axis
    access: Access

    @property
    def declaration(self) -> str:
        """The buffer's definition. A large one belongs to the thread, not to its stack."""
        count = self.across.size * self.vector.size
        storage = "static thread_local " if count * self.access.tensor.dtype.size_bytes > _STACK_BYTES else ""
        return f"alignas(64) {storage}{STORED[self.access.tensor.dtype]} {self.name}[{count}];"

    def place(self, names: Names) -> str:
        """The address of the current lanes in the buffer."""
        row, column = (f"{names.lane(a)} - {c_name(a.c_name)}" for a in (self.across, self.vector))
        return f"&{self.name}[({row}) * {self.vector.size} + {column}]"

    def copy(self, names: Names, *, load: bool) -> str:
        """The statement that fills the buffer, or empties it into memory."""
        first = Names(
            names.ranges,
            names.renamed,
            lambda a: c_name(a.c_name) if a in (self.across, self.vector) else names.lane(a),
        )
        at = address(self.access, first, {}, self.vector)
        memory = f"{c_name(self.access.tensor.name)} + {at.text}"
        rows, columns = (f"{c_name(a.c_name)}_end - {c_name(a.c_name)}" for a in (self.across, self.vector))
        if load:
            return f"transpose({self.name}, {self.vector.size}, {memory}, {at.step}, {rows}, {columns});"
        return f"transpose({memory}, {at.step}, {self.name}, {self.vector.size}, {columns}, {rows});"


def turnable(access: Access, names: Names, across: Axis, vector: Axis | None, bound: Collection[Axis]) -> bool:
    """Whether an access should be turned: adjacent along `across`, not along the vector, certainly within bounds."""
    if vector is None or across.size * vector.size * access.tensor.dtype.size_bytes > _TURNED_BYTES:
        return False
    steps: dict[Axis, bool] = {}
    for index, stride, size in zip(access.indices, strides_of(access.tensor), access.tensor.shape, strict=True):
        if isinstance(index, IndexGather):
            return False
        if isinstance(index, IndexAt):
            if not names.ranges.inside(index.expr, index.expr, size):
                return False
            continue
        axis = index.axis
        if (axis not in (across, vector) and axis not in bound) or axis in steps:
            return False
        low, end = _extent(index)
        if not names.ranges.inside(low, end, size):
            return False
        steps[axis] = is_const(stride, 1)
    return steps.get(across) is True and steps.get(vector) is False


def _extent(index: IndexSpan) -> tuple[sk.IntExpr, sk.IntExpr]:
    low = sk.IntBin("+", index.axis.start, index.shift)
    return low, sk.IntBin("-", sk.IntBin("+", index.axis.stop, index.shift), sk.IntConst(1))


def _fold(texts: list[str], function: str) -> str:
    if not texts:
        return ""
    out = texts[0]
    for text in texts[1:]:
        out = f"{function}<int64_t>({out}, {text})"
    return out


def _other(value: object, dtype: DType) -> str:
    """The value read outside the bounds, as memory would hold it."""
    assert isinstance(value, float | int | bool)
    if dtype is DType.BOOL:
        return f"uint8_t({int(bool(value))})"
    return cpp_ops.to_store(cpp_ops.literal(value, dtype))


def load(value: Value, names: Names, regs: Mapping[Value, Reg], vector: Axis | None, turned: Turned | None) -> Reg:
    """The C++ of a load, as the value is held."""
    access = value.access
    assert access is not None
    if turned is not None and vector is turned.vector:
        return cpp_ops.loaded(f"load({turned.place(names)}, n)", access.tensor.dtype, True)
    at = address(access, names, regs, vector)
    dtype = access.tensor.dtype
    pointer = c_name(access.tensor.name)
    where = regs[value.args[-1]] if value.masked else None
    checks = list(at.checks)
    if where is not None and not where.vector:
        checks.append(where.text)
        where = None
    other = _other(value.data, dtype)
    ctype = STORED[dtype]
    place = f"{pointer} + {at.text}" if at.text != "0" else pointer
    if not at.varies and where is None:
        text = f"{pointer}[{at.text}]"
        if checks:
            text = f"({' && '.join(checks)} ? {text} : {other})"
        return cpp_ops.loaded(text, dtype, False)
    if at.scatter:
        return _gather(at, where, checks, access, other)
    strided, lanes = ("", place) if at.step == "1" else ("_strided", f"{place}, {at.step}")
    shuffled = at.step.isdigit() and 1 < int(at.step) <= _SHUFFLED_STRIDE
    if where is not None:
        first, last = at.first or "0", at.last or "W"
        text = f"load_where{strided}<{ctype}>({lanes}, {where.text}, {first}, {last}, {other}, n)"
    elif at.first and shuffled:
        text = f"load_range_every<{at.step}, {ctype}>({place}, {at.first}, {at.last}, {other}, n)"
    elif at.first:
        text = f"load_range{strided}<{ctype}>({lanes}, {at.first}, {at.last}, {other}, n)"
    elif at.step == "1":
        text = f"load({place}, n)"
    elif shuffled:
        text = f"load_every<{at.step}>({place}, n)"
    else:
        text = f"load_strided({place}, {at.step}, n)"
    if checks:
        text = f"({' && '.join(checks)} ? {text} : splat<{ctype}>({other}))"
    return cpp_ops.loaded(text, dtype, True)


def _gather(at: Address, where: Reg | None, checks: list[str], access: Access, other: str) -> Reg:
    dtype, pointer = access.tensor.dtype, c_name(access.tensor.name)
    masks = list(at.lane_checks)
    if at.first:
        masks.append(f"((iota<int64_t>() >= {at.first}) & (iota<int64_t>() < {at.last}))")
    if where is not None:
        masks.append(cpp_ops.as_mask(where, 8).text)
    if checks:
        masks.append(f"(i64v{{}} - int64_t({' && '.join(checks)}))")
    text = f"load_gather<{STORED[dtype]}>({pointer}, {_lane_offsets(at)}, {' & '.join(masks)}, {other}, n)"
    return cpp_ops.loaded(text, dtype, True)


def _lane_offsets(at: Address) -> str:
    parts = [at.scatter]
    if at.text != "0":
        parts.append(f"({at.text})")
    if at.step != "0":
        parts.append("iota<int64_t>()" if at.step == "1" else f"iota<int64_t>() * ({at.step})")
    return " + ".join(parts)


def store(
    sink: StoreTo,
    names: Names,
    regs: Mapping[Value, Reg],
    vector: Axis | None,
    turned: Turned | None,
    *,
    read_again: bool = True,
) -> str:
    """The C++ statement of a store. Indices are trusted: a store out of bounds is an error in the sketch.

    read_again: by this kernel. What is not may go past the caches.
    """
    reg, access = regs[sink.value], sink.access
    if turned is not None and vector is turned.vector:
        stored = cpp_ops.to_store(cpp_ops.spread(reg))
        return f"store<{STORED[access.tensor.dtype]}>({turned.place(names)}, {stored}, n);"
    at = address(access, names, regs, vector)
    pointer = c_name(access.tensor.name)
    dtype = access.tensor.dtype
    if not at.varies:
        return f"{pointer}[{at.text}] = {cpp_ops.to_store(reg)};"
    text = cpp_ops.to_store(cpp_ops.spread(reg))
    ctype = STORED[dtype]
    place = f"{pointer} + {at.text}" if at.text != "0" else pointer
    if at.scatter:
        return f"store_scatter<{ctype}>({pointer}, {_lane_offsets(at)}, {text}, n);"
    if at.step == "1":
        if not read_again and vector is not None and vector.size * dtype.size_bytes >= _RUN_BYTES:
            return f"store_past<{ctype}>({place}, {text}, n, {PAST});"
        return f"store<{ctype}>({place}, {text}, n);"
    return f"store_strided<{ctype}>({place}, {at.step}, {text}, n);"
