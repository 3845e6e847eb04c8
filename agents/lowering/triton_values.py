"""Values as Triton: named by a statement, or written where they are used; loads, stores, reductions, scans and dots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from akg_dynamo.agents.lowering.index import Ranges
from akg_dynamo.agents.lowering.ir import (
    Axis,
    Segment,
    SetVariable,
    StoreTo,
    Value,
    Variable,
    union_axes,
)
from akg_dynamo.agents.lowering.triton_accumulate import COMBINE, Accumulator, identity
from akg_dynamo.agents.lowering.triton_ints import ATOM, COMPARISON, Int, int_text
from akg_dynamo.agents.lowering.triton_memory import Lanes, Places, conjunction
from akg_dynamo.agents.lowering.triton_names import Names
from akg_dynamo.agents.lowering.triton_ops import (
    HALVES,
    TYPES,
    Kind,
    Tile,
    call,
    cast,
    inverse,
    literal,
    native,
    of_int,
    operation,
    rounded,
    spread,
    typed,
    wide,
)
from akg_dynamo.agents.lowering.triton_phases import PhasePlan, read_once
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.ast import DType

_LONG = 16  # characters of an integer expression that is worth a name
_INLINE = 72  # characters of an expression that need no statement of its own
_MANY = 512  # lanes
_AHEAD = 8  # loads, and elements of each that a thread has, that stores wait for
_DOT_FROM = 16  # lanes that a matrix unit takes
_NARROW = (DType.I16, DType.I8, DType.U8)
_POSITIONAL = {"argmax": "first_largest", "argmin": "first_smallest"}


class ValueWriter:
    """Writes the values of one launch, each before its first use."""

    def __init__(
        self,
        phase: PhasePlan,
        ints: Mapping[str, Int],
        ranges: Ranges,
        names: Names,
        line: Callable[[str], None],
        *,
        exact: bool,
    ) -> None:
        self.phase = phase
        self.exact = exact
        self.rough: frozenset[Value] = frozenset()
        self.ints = ints
        self.names = names
        self.line = line
        self.lanes: dict[Axis, Lanes] = {}
        self.places = Places(ints, ranges, self.tile, self.scalar, self.lanes)
        self.offsets: list[dict[str, Int]] = [{}]
        self.variables: dict[Variable, str] = {}
        self.tiles: dict[Value, Tile] = {}
        self.dead: dict[Value, float | int | bool] = {}
        """What a value is on the lanes that are not live, where that is known."""
        self.looping = False
        self.once = read_once(phase)
        self.threads = 0
        self.accumulated: dict[Accumulator, Tile] = {}

    # ----------------------------------------------------------------------------------------- where a value is written

    def escapes(self, value: Value) -> bool:
        """Whether other segments than its own use it."""
        if value.kind in ("literal", "index", "lanes"):
            return False
        for user in self.phase.users[value]:
            home = user.home if isinstance(user, Value) else self.phase.homes[user]
            if home is not value.home:
                return True
        return False

    def keep(self, value: Value) -> None:
        """Names a value that later segments use."""
        if value.kind == "variable":
            assert isinstance(value.data, Variable)
            if value.data not in self.phase.set_often:
                self.tiles[value] = self.read_variable(value)
                return
        if value not in self.tiles:
            self.name(value, self.written(value))

    def tile(self, value: Value) -> Tile:
        """A value as an operand: its name, or its expression if that is short and used once."""
        known = self.tiles.get(value)
        if known is not None:
            return known
        if value.kind == "variable":
            return self.read_variable(value)
        tile = self.written(value)
        if value.name == "checked":
            self.tiles[value] = tile
            return tile
        if tile.literal or value.kind in ("index", "lanes"):
            return tile
        once = len(self.phase.users[value]) == 1
        if once and not value.hint and value.kind != "load" and len(tile.text) <= _INLINE:
            return tile
        return self.name(value, tile)

    def assigned(self, value: Value) -> Tile:
        """A value as the right side of an assignment: written there if nothing else uses it."""
        if value in self.tiles or len(self.phase.users[value]) > 1 or value.kind == "variable":
            return self.tile(value)
        return self.written(value)

    def name(self, value: Value, tile: Tile) -> Tile:
        """A statement that gives a value its name."""
        wanted = value.hint or (value.access.tensor.name if value.access is not None else f"t{value.id}")
        if any(isinstance(u, SetVariable) and u.variable.c_name == wanted for u in self.phase.users[value]):
            wanted = f"{wanted}_new"
        if tile.literal:
            tile = typed(tile)
        name = self.names.fresh(wanted)
        self.line(f"{name} = {tile.text}")
        self.tiles[value] = replace(tile, text=name, level=ATOM, value=None)
        return self.tiles[value]

    def read_variable(self, value: Value) -> Tile:
        """The present value of a carried name."""
        variable = value.data
        assert isinstance(variable, Variable)
        return Tile(self.variables[variable], ATOM, variable.dtype, variable.dtype, variable.axes)

    def save_old(self, variable: Variable, later: list[StoreTo | SetVariable | Value]) -> None:
        """Before a variable changes: those who read it earlier and are written later keep what it was."""
        if variable not in self.variables:
            return
        for read in self.phase.users:
            stale = read.kind == "variable" and read.data is variable and read not in self.tiles
            if stale and any(self.needs(entry, read) for entry in later):
                name = self.names.fresh(f"{variable.c_name}_old")
                self.line(f"{name} = {self.variables[variable]}")
                self.tiles[read] = replace(self.read_variable(read), text=name)

    def load_ahead(self, entries: Sequence[StoreTo | SetVariable | Value], segment: Segment) -> None:
        """Writes the loads of these statements, as far as registers go, if any is to come after a store or reduction.

        What is asked for afterwards arrives late: lanes wait for one another in a reduction, and to the compiler a
        store may be to any memory.
        """
        todo: list[Value] = []
        for entry in entries:
            if isinstance(entry, SetVariable):
                break
            for load in self.loads_of(entry.value if isinstance(entry, StoreTo) else entry, segment):
                lanes = math.prod(self.lanes[a].width for a in load.axes)
                if load not in todo and len(todo) < _AHEAD and lanes <= _AHEAD * self.threads:
                    todo.append(load)
        first: set[Value] = set()
        if isinstance(entries[0], StoreTo) and not self.reduces(segment):
            first.update(self.loads_of(entries[0].value, segment))
        if any(load not in first and load not in self.tiles for load in todo):
            for load in todo:
                self.tile(load)

    def reduces(self, segment: Segment) -> bool:
        """Whether lanes meet in a segment."""
        return any(v.kind == "reduce" and v.home is segment for v in self.phase.users)

    def loads_of(self, root: Value, segment: Segment) -> list[Value]:
        """The loads of a segment that a value is made from and that may not have been written, in order."""
        found: set[Value] = set()
        seen: set[Value] = set()
        todo = [root]
        while todo:
            value = todo.pop()
            if value in seen or value.home is not segment:
                continue
            seen.add(value)
            todo.extend(value.args)
            if value.kind == "load":
                found.add(value)
        return sorted(found, key=lambda v: v.id)

    def needs(self, entry: StoreTo | SetVariable | Value, read: Value) -> bool:
        """Whether writing `entry` will still look at `read`."""
        if isinstance(entry, StoreTo | SetVariable):
            todo = [entry.value, *(entry.access.gathers if isinstance(entry, StoreTo) else ())]
        else:
            todo = [entry]
        while todo:
            value = todo.pop()
            if value is read:
                return True
            if value not in self.tiles:
                todo.extend(value.args)
        return False

    @contextmanager
    def branch(self) -> Iterator[None]:
        """What is written inside is known inside only: the same values will be written again."""
        tiles, dead = dict(self.tiles), dict(self.dead)
        self.offsets.append({})
        yield
        self.offsets.pop()
        self.tiles, self.dead = tiles, dead

    # ------------------------------------------------------------------------------------------------------ expressions

    def written(self, value: Value) -> Tile:
        """The expression of a value."""
        if value.kind == "literal":
            assert isinstance(value.data, float | int)
            return literal(value.data, value.dtype)
        if value.kind == "index":
            return of_int(self.scalar(value.data))  # type: ignore[arg-type]
        if value.kind == "lanes":
            assert value.axis is not None
            return of_int(self.lanes[value.axis].index, (value.axis,))
        if value.kind == "variable":
            return self.read_variable(value)
        if value.kind == "load":
            return self.load(value)
        if value.kind == "op":
            return self.op(value)
        if value.kind == "cast":
            tile = cast(self.tile(value.args[0]), value.dtype)
            self.carry_dead(value)
            return tile
        if value.kind == "reduce":
            return self.reduce(value)
        if value.kind == "scan":
            return self.scan(value)
        assert value.kind == "dot"
        return self.dot(value)

    def carry_dead(self, value: Value) -> None:
        """A cast keeps what is known of dead lanes."""
        source = value.args[0]
        if source in self.dead and value.dtype is not DType.BOOL and source.dtype.is_float is value.dtype.is_float:
            self.dead[value] = self.dead[source]

    def op(self, value: Value) -> Tile:
        """An elementwise operation."""
        if not self.exact and _is_reciprocal_root(value):  # torch's own is the hardware's
            return operation("rsqrt", [self.tile(value.args[-1].args[0])], value.dtype, rough=True)
        rough = value in self.rough and self.many(value)
        erf = _erf_plus_one(value) if rough else None
        if erf is not None and len(self.phase.users[erf]) == 1:
            argument = typed(self.tile(erf.args[0]))
            return call("one_plus_erf", [argument], Kind(value.dtype, argument.held, argument.axes))
        args = [self.tile(a) for a in value.args]
        if value.name == "spread":
            return self.broadcast(args[0], value.axes)
        if value.name == "checked":
            return self.checked(args[0], args[1], value.hint or "index")
        if value.name == "div" and args[1].literal and not args[0].literal:
            factor = inverse(args[1], exact=self.exact)
            if factor is not None:
                return operation("mul", [args[0], factor], value.dtype)
        return operation(value.name, args, value.dtype, rough=rough)

    def many(self, value: Value) -> bool:
        """Whether it has so many lanes that what an operation costs counts."""
        return math.prod(self.lanes[a].width for a in value.axes) >= _MANY

    def checked(self, index: Tile, size: Tile, wanted: str) -> Tile:
        """An index that must be in range: as torch's own kernels do, an assertion ends the program where it is not."""
        if not index.text.isidentifier():
            name = self.names.fresh(wanted)
            self.line(f"{name} = {typed(index).text}")
            index = replace(index, text=name, level=ATOM, value=None)
        inside = operation(
            "and",
            [operation("ge", [index, literal(0, DType.I64)], DType.BOOL), operation("lt", [index, size], DType.BOOL)],
            DType.BOOL,
        )
        for axis in index.axes:
            mask = self.lanes[axis].mask
            if mask is not None:
                inside = operation("or", [inside, operation("not", [mask], DType.BOOL)], DType.BOOL)
        self.line(f'tl.device_assert({inside.text}, "index out of range")')
        return replace(index, low=0, high=None if size.high is None else size.high - 1)

    def broadcast(self, tile: Tile, axes: tuple[Axis, ...]) -> Tile:
        """With a full dimension for each of `axes`."""
        axes = union_axes(axes, tile.axes)
        if tile.axes == axes:
            return tile
        sizes = ", ".join(str(self.lanes[a].width) for a in axes)
        if tile.literal:
            return replace(
                tile, text=f"tl.full([{sizes}], {tile.text}, {TYPES[tile.held]})", level=ATOM, axes=axes, value=None
            )
        return replace(tile, text=f"tl.broadcast_to({spread(tile, axes).text}, [{sizes}])", level=ATOM, axes=axes)

    # ----------------------------------------------------------------------------------------------------------- memory

    def scalar(self, expr: sk.IntExpr) -> Int:
        """An integer expression; a long one gets a name, once in a body."""
        value = int_text(expr, self.ints)
        if value.literal or len(value.text) <= _LONG:
            return value
        for scope in self.offsets:
            if value.text in scope:
                return scope[value.text]
        name = self.names.fresh("offset")
        self.line(f"{name} = {value.text}")
        self.offsets[-1][value.text] = replace(value, text=name, level=ATOM)
        return self.offsets[-1][value.text]

    def barrier(self, tensor: str) -> None:
        """What one thread wrote another may read, and the other way round."""
        if tensor in self.phase.hazards:
            self.line("tl.debug_barrier()")

    def load(self, value: Value) -> Tile:
        """A load; masked where a lane may be outside."""
        access = value.access
        assert access is not None
        where = self.tile(value.args[-1]) if value.masked else None
        place = self.places.place(access, where.axes if where is not None else ())
        conditions = place.conditions if where is None else (*place.conditions, where)
        self.barrier(access.tensor.name)
        arguments = [place.pointer]
        if conditions:
            arguments.append(f"mask={conjunction(conditions, place.axes)}")
            assert isinstance(value.data, float | int)
            if place.bounded or where is not None:
                arguments.append(f"other={_other(value.data, value.dtype)}")
            else:
                wanted = self.wanted_dead(value)
                if wanted is not None:
                    self.dead[value] = wanted
                    arguments.append(f"other={_other(wanted, value.dtype)}")
        if value in self.once:
            arguments.append('eviction_policy="evict_first"')
        return Tile(f"tl.load({', '.join(arguments)})", ATOM, value.dtype, value.dtype, place.axes)

    def wanted_dead(self, value: Value) -> float | int | bool | None:
        """What the first reduction or dot of a load would like to find on dead lanes."""
        for user in self.phase.users[value]:
            if not isinstance(user, Value):
                continue
            if user.kind == "reduce":
                return identity(user.name, value.dtype)
            if user.kind == "dot":
                return 0
            if user.kind == "cast" and user.dtype.is_float is value.dtype.is_float and user.dtype is not DType.BOOL:
                wanted = self.wanted_dead(user)
                if wanted is not None:
                    return wanted
        return None

    def store(self, sink: StoreTo) -> None:
        """A store of the live lanes."""
        value = self.tile(sink.value)
        value = _plain(value) if value.literal else native(value)
        place = self.places.place(sink.access, value.axes)
        self.barrier(sink.access.tensor.name)
        arguments = [place.pointer, spread(value, place.axes).text]
        if place.conditions:
            arguments.append(f"mask={place.mask}")
        self.line(f"tl.store({', '.join(arguments)})")

    # --------------------------------------------------------------------------------------------- reduce, scan, dot

    def live(self, value: Value, tile: Tile, axis: Axis, neutral: float | int | bool) -> Tile:
        """With `neutral` on the dead lanes of an axis."""
        mask = self.lanes[axis].mask
        if mask is None or (value in self.dead and _same(self.dead[value], neutral)):
            return tile
        return operation("where", [mask, tile, literal(neutral, tile.held)], tile.held)

    def reduce(self, value: Value) -> Tile:
        """A reduction over the live lanes of an axis."""
        assert value.axis is not None
        tile = self.operand(value)
        by_rows = len(tile.axes) > 1 and tile.axes[-1] is value.axis and tile.dtype in (DType.F32, DType.F64)
        if self.looping and by_rows and value.args[0].kind == "load" and self.only_carried(value):
            # A pass of Triton 3.6 carries partial sums of a load through the loop around, and fails where the loop
            # itself reads the sum (where it does not, `triton_accumulate` has done so already): it must see no load.
            tile = operation("add", [tile, literal(0.0, tile.dtype)], tile.dtype)
        return self.across(value, tile, value.axis)

    def only_carried(self, value: Value) -> bool:
        """Whether all that is made of a value is one operation that a loop carries."""
        users = self.phase.users[value]
        then = self.phase.users[users[0]] if len(users) == 1 and isinstance(users[0], Value) else []
        return len(then) == 1 and isinstance(then[0], SetVariable)

    def operand(self, value: Value) -> Tile:
        """What a reduction reduces, neutral on dead lanes."""
        (source,), axis = value.args, value.axis
        assert axis is not None
        tile = self.broadcast(wide(self.tile(source)), (axis,))
        if tile.dtype is DType.I64:
            tile = native(tile)
        return self.live(source, tile, axis, identity(value.name, source.dtype))

    def across(self, value: Value, tile: Tile, axis: Axis) -> Tile:
        """A reduction of a tile whose lanes all count."""
        name = value.name
        if name in ("max", "min") and tile.dtype is DType.BOOL:
            name = "any" if name == "max" else "all"
        at = tile.axes.index(axis)
        axes = tuple(a for a in tile.axes if a is not axis)
        held = tile.held
        if held in _NARROW or name in ("any", "all"):
            tile, held = replace(tile, text=f"{tile.at(ATOM)}.to(tl.int32)", level=ATOM), DType.I32
        if name in _POSITIONAL:
            return self.position(value, tile, at, axes)
        if name in ("any", "all"):
            function = "tl.max" if name == "any" else "tl.min"
            return Tile(f"{function}({tile.text}, axis={at}) != 0", COMPARISON, DType.BOOL, DType.BOOL, axes)
        if name == "sum":
            text = f"tl.sum({tile.text}, axis={at})"
        elif name == "prod":
            text = f"tl.reduce({tile.text}, {at}, product)"
        elif tile.dtype.is_float:
            text = f"tl.reduce({tile.text}, {at}, {'largest' if name == 'max' else 'smallest'})"
        else:
            text = f"tl.{name}({tile.text}, axis={at})"
        return self.result(value, text, held, axes)

    # ------------------------------------------------------------------------------------------------- accumulators

    def start(self, accumulator: Accumulator, widths: list[int]) -> None:
        """Before its loop: neutral lanes."""
        dtype = accumulator.variable.dtype
        neutral = literal(identity(accumulator.reduced.name, dtype), dtype)
        name = self.names.fresh(f"{accumulator.variable.c_name}_lanes")
        self.line(f"{name} = tl.full([{', '.join(map(str, widths))}], {neutral.text}, {TYPES[dtype]})")
        self.accumulated[accumulator] = Tile(name, ATOM, dtype, dtype, accumulator.axes)

    def accumulate(self, accumulator: Accumulator) -> None:
        """In its loop: one more tile, lane by lane."""
        lanes = self.accumulated[accumulator]
        tile = self.broadcast(self.operand(accumulator.reduced), accumulator.axes)
        joined = operation(COMBINE[accumulator.reduced.name], [lanes, tile], lanes.dtype)
        self.line(f"{lanes.text} = {native(joined).text}")

    def finish(self, accumulator: Accumulator) -> Tile:
        """After its loop: the lanes reduced, and joined to what the variable was."""
        lanes, reduced, variable = self.accumulated[accumulator], accumulator.reduced, accumulator.variable
        tile = self.across(reduced, lanes, accumulator.axis)
        if accumulator.first is not None:
            return tile
        before = Tile(self.variables[variable], ATOM, variable.dtype, variable.dtype, variable.axes)
        return operation(COMBINE[reduced.name], [before, tile], variable.dtype)

    @staticmethod
    def result(value: Value, text: str, held: DType, axes: tuple[Axis, ...]) -> Tile:
        """What a reduction or scan gives, in the value's own type."""
        if value.dtype in HALVES:
            return rounded(Tile(text, ATOM, value.dtype, DType.F32, axes))
        if held is not value.dtype:
            text = f"{text}.to({TYPES[value.dtype]})"
        return Tile(text, ATOM, value.dtype, value.dtype, axes)

    def position(self, value: Value, tile: Tile, at: int, axes: tuple[Axis, ...]) -> Tile:
        """The global index of the first extreme."""
        axis = value.axis
        assert axis is not None
        index = of_int(self.lanes[axis].index, (axis,))
        wanted = value.hint or f"{value.name}_{axis.name}"
        extreme, name = self.names.fresh(f"{wanted}_value"), self.names.fresh(wanted)
        pair = f"({tile.text}, {self.broadcast(index, tile.axes).text})"
        self.line(f"{extreme}, {name} = tl.reduce({pair}, {at}, {_POSITIONAL[value.name]})")
        return Tile(name, ATOM, DType.I64, index.held, axes, None, index.low, index.high)

    def scan(self, value: Value) -> Tile:
        """An inclusive scan. Dead lanes come last, so they change nothing."""
        axis, name = value.axis, value.name
        assert axis is not None
        tile = self.broadcast(wide(self.tile(value.args[0])), (axis,))
        if tile.dtype is DType.I64:
            tile = native(tile)
        at, held = tile.axes.index(axis), tile.held
        if held in _NARROW or held is DType.BOOL:
            tile, held = replace(tile, text=f"{tile.at(ATOM)}.to(tl.int32)", level=ATOM), DType.I32
        if name in ("sum", "prod"):
            text = f"tl.cum{name}({tile.text}, axis={at})"
        else:
            text = f"tl.associative_scan({tile.text}, {at}, {'largest' if name == 'max' else 'smallest'})"
        if value.dtype is DType.BOOL:
            return Tile(f"{text} != 0", COMPARISON, DType.BOOL, DType.BOOL, tile.axes)
        return self.result(value, text, held, tile.axes)

    def dot(self, value: Value) -> Tile:
        """A dot: the matrix unit where the tiles are large enough, otherwise products and their sum."""
        axis = value.axis
        assert axis is not None
        sources = list(value.args)
        operands = [self.tile(a) for a in sources]
        own = [tuple(x for x in a.axes if x is not axis) for a in sources]
        matrix = (
            all(len(o) == 1 for o in own)
            and own[0] != own[1]
            and min(self.lanes[x].width for x in (axis, *own[0], *own[1])) >= _DOT_FROM
        )
        if not matrix:
            return self.products(value, operands)
        if own[0][0].order > own[1][0].order:
            sources.reverse()
            operands.reverse()
            own.reverse()
        left = self.factor(sources[0], operands[0], axis, (*own[0], axis))
        right = self.factor(sources[1], operands[1], axis, (axis, *own[1]))
        precision = f', input_precision="{value.name}"' if sources[0].dtype is DType.F32 else ""
        out = f", out_dtype={TYPES[value.dtype]}" if value.dtype is DType.F64 else ""
        return Tile(f"tl.dot({left}, {right}{precision}{out})", ATOM, value.dtype, value.dtype, (*own[0], *own[1]))

    def factor(self, source: Value, tile: Tile, summed: Axis, wanted: tuple[Axis, ...]) -> str:
        """An operand of a matrix product, with its dimensions in the wanted order and zeros on dead lanes."""
        axes = union_axes(wanted)
        tile = self.live(source, self.broadcast(native(tile), axes), summed, 0)
        return tile.text if axes == wanted else f"tl.trans({tile.text})"

    def products(self, value: Value, operands: list[Tile]) -> Tile:
        """A dot as a sum."""
        axis = value.axis
        assert axis is not None
        product = operation("mul", [cast(t, value.dtype) for t in operands], value.dtype)
        if any(not _same(self.dead.get(a, math.nan), 0) for a in value.args):
            product = self.live(value, self.broadcast(product, (axis,)), axis, 0)
        at = product.axes.index(axis)
        axes = tuple(a for a in product.axes if a is not axis)
        return Tile(f"tl.sum({product.text}, axis={at})", ATOM, value.dtype, value.dtype, axes)


def _same(a: float | int | bool, b: float | int | bool) -> bool:
    return a == b


def _is_reciprocal_root(value: Value) -> bool:
    """Whether it is 1 / sqrt(x) of f32."""
    if value.name != "div" or value.dtype is not DType.F32:
        return False
    one, root = value.args
    return one.kind == "literal" and one.data == 1.0 and root.kind == "op" and root.name == "sqrt"


def _erf_plus_one(value: Value) -> Value | None:
    """The erf(x) of 1 + erf(x), in f32."""
    if value.name != "add" or value.dtype is not DType.F32:
        return None
    one, erf = sorted(value.args, key=lambda v: v.kind != "literal")
    return erf if one.kind == "literal" and one.data == 1.0 and erf.kind == "op" and erf.name == "erf" else None


def _other(value: float | int | bool, dtype: DType) -> str:
    """The `other` of a load."""
    return str(int(bool(value))) if dtype is DType.BOOL else _plain(literal(value, dtype)).text


def _plain(constant: Tile) -> Tile:
    """A number that memory's type is given by a cast: as it is, unless f32 would round it first."""
    exact = not isinstance(constant.value, float) or _is_single(constant.value)
    return constant if exact else typed(constant)


def _is_single(value: float) -> bool:
    return not math.isfinite(value) or float(np.float32(value)) == value
