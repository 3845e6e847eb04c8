"""The Unified Sketch: an executable contract between strategy (Designer) and code (Coder).

A sketch says what is tiled, where data lives and what runs in parallel. It is a program over **tiles**. This file
is its abstract syntax and its meaning; `parse`, `printer`, `check` and `interpret` are the rest of the language.

    sketch softmax {
      symbols: M, N
      tensors: x[M, N]: f32 in, y[M, N]: f32 out
      constexpr: BN = 1024 in [256, 512, 1024, 2048]

      @llm_hint("parallel", "coreidx")
      for i in range(0, M):
        m = alloc([], f32, init=-inf, llm_hint=["fastest", "accumulator"])
        @llm_hint("vectorize", "simd")
        for j in range(0, N, BN):
          t = load(x[i, j:j+BN])
          m = maximum(m, reduce_max(t, j))
        s = alloc([], f32, init=0.0, llm_hint=["fastest", "accumulator"])
        for j in range(0, N, BN):
          s = s + reduce_sum(exp(load(x[i, j:j+BN]) - m), j)
        for j in range(0, N, BN):
          store(exp(load(x[i, j:j+BN]) - m) / s -> y[i, j:j+BN])
    }

**Axes are named, not positional.** A loop `for j in range(lo, hi, BN)` with a step defines the axis `j`: BN lanes,
of which lanes `j .. min(j+BN, hi)-1` are *live*. A tile's shape is the set of axes it varies over (ordered as the
loops and `axis` declarations stand, outermost first). Two tiles combine by matching axis names, and broadcast over
the axes one of them lacks; there is no `[:, None]`. A loop without a step is a scalar loop: its variable is an
integer and makes no axis. `axis d = range(lo, hi, BD)` inside a body defines an axis that is not a loop (one tile
covering a whole extent; hi - lo must not exceed BD).

**Masks are implied.** Only live lanes are computed, reduced and stored. A load outside the tensor's bounds
(possible with a shifted slice such as `x[i, j-64:j-64+BN]`) reads `other` (default 0); a store outside them is an
error.

**Values.** Every tile has one element type. Arithmetic mixes no dtypes: `cast(t, f32)` is explicit (Python literals
take the dtype of the other operand). f16 and bf16 arithmetic rounds after every operation. Integer arithmetic
wraps. `bool` tiles come from comparisons. Names are rebound freely, with the same dtype and axes once they are
carried by a loop. A name that is defined outside a parallel loop must not be assigned inside it; two iterations of
a parallel loop must not store to the same element, and must not read what another iteration stores.

**Phases.** Consecutive top-level loops run one after the other, with a barrier between them; `tmp` tensors carry
data across.

**Order.** `reduce_*` and `dot` leave the order of summation to the lowering.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypeAlias


class DType(enum.Enum):
    """Element types, by the name used in sketch text."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"

    @property
    def is_float(self) -> bool:
        """f64, f32, f16, bf16."""
        return self in (DType.F64, DType.F32, DType.F16, DType.BF16)

    @property
    def is_int(self) -> bool:
        """Integers, not bool."""
        return not self.is_float and self is not DType.BOOL

    @property
    def size_bytes(self) -> int:
        """Bytes per element in memory."""
        sizes = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1}
        return sizes[self.value]

    @property
    def torch_name(self) -> str:
        """torch's name for it."""
        names = {
            "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64",
            "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
        }  # fmt: skip
        return names[self.value]

    @staticmethod
    def from_torch_name(name: str) -> DType:
        """The inverse of `torch_name`; ValueError for a dtype sketches do not have."""
        for d in DType:
            if d.torch_name == name:
                return d
        raise ValueError(f"sketches have no dtype {name!r}")


# --------------------------------------------------------------------------------------------------------------------
# Integer expressions: sizes, loop bounds, indices. Over symbols, constexprs and loop variables.


@dataclass(frozen=True)
class IntConst:
    """A literal integer."""

    value: int


@dataclass(frozen=True)
class IntVar:
    """A symbol, a constexpr or a loop variable (for a tiled loop: the first lane)."""

    name: str


@dataclass(frozen=True)
class IntBin:
    """``op`` is one of + - * // % min max; // and % round towards minus infinity."""

    op: str
    a: IntExpr
    b: IntExpr


IntExpr: TypeAlias = "IntConst | IntVar | IntBin"


# --------------------------------------------------------------------------------------------------------------------
# Tensor accesses


@dataclass(frozen=True)
class At:
    """A scalar index: `x[i+1, …]` with a scalar loop's variable, a symbol or a constant."""

    index: IntExpr


@dataclass(frozen=True)
class Span:
    """The lanes of one axis, shifted: `j+64 : j+64+BN` is Span("j", 64). Lane l of the axis reads index l + shift.

    Written `j:j+BN` in text; the printer recovers the size from the axis.
    """

    axis: str
    shift: IntExpr = IntConst(0)


@dataclass(frozen=True)
class Gather:
    """Indexed by an integer tile (i64 or i32): the access varies over that tile's axes. Written `table[idx, j:j+BN]`.

    Indices out of bounds read `other`; a designer clamps or wraps negative ones itself, and marks those that a user
    gave by `checked(idx, size)` (see `ops`), so that the launch reports a wrong one.
    """

    tile: str


Index: TypeAlias = "At | Span | Gather"


@dataclass(frozen=True)
class TensorRef:
    """`name[indices]`, one index per declared dimension."""

    name: str
    indices: tuple[Index, ...]


# --------------------------------------------------------------------------------------------------------------------
# Tile expressions


@dataclass(frozen=True)
class Name:
    """A tile by name. A scalar loop variable or symbol in a tile expression is an `IndexValue` instead."""

    name: str


@dataclass(frozen=True)
class Literal:
    """A number (or inf, -inf, nan, True, False). `dtype` None takes the other operand's."""

    value: float | int | bool
    dtype: DType | None = None


@dataclass(frozen=True)
class IndexValue:
    """An integer expression as an i64 scalar tile: written `index(expr)`."""

    expr: IntExpr


@dataclass(frozen=True)
class Lanes:
    """The global index of each live lane of an axis, as an i64 tile over it: written `lanes(j)` (start + 0, 1, 2…)."""

    axis: str


@dataclass(frozen=True)
class Load:
    """Reads a tile. `other` is read outside the tensor's bounds: `load(x[i, j:j+BN], other=0.0)`.

    `where` (a bool tile) masks lanes: masked lanes read `other` and touch no memory.
    """

    ref: TensorRef
    other: float | int | bool = 0
    where: TileExpr | None = None


@dataclass(frozen=True)
class Op:
    """An elementwise operation of `agents.sketch.ops`, by name; written infix where Python has an operator."""

    name: str
    args: tuple[TileExpr, ...]


@dataclass(frozen=True)
class Cast:
    """Conversion as torch's `.to(dtype)`: float to int truncates, to bool is != 0, rounding is to nearest even.

    A float that does not fit (or NaN) becomes the least i64 or i32; narrower integers go by way of i32 and wrap.
    """

    x: TileExpr
    dtype: DType


@dataclass(frozen=True)
class Reduce:
    """`reduce_<op>(x, axis)` over the live lanes: sum prod max min any all argmax argmin.

    max and min propagate NaN. argmax and argmin give the global index (i64) of the first extreme; NaN is an extreme.
    The result has the operand's dtype (i64 for arg*; any and all take bool); over no lanes it is the identity, and arg*
    an error. 16-bit floats are accumulated in at least f32 and rounded once.
    """

    op: str
    x: TileExpr
    axis: str


@dataclass(frozen=True)
class Scan:
    """`scan_<op>(x, axis)`: inclusive, along this tile's lanes only (sum prod max min); an Op after it carries in."""

    op: str
    x: TileExpr
    axis: str


@dataclass(frozen=True)
class Dot:
    """`dot(a, b, k)`: sum over the shared axis k of a*b, at `precision` ("ieee", "tf32"); in f32 (f64 for f64)."""

    a: TileExpr
    b: TileExpr
    axis: str
    precision: str = "ieee"


TileExpr: TypeAlias = "Name | Literal | IndexValue | Lanes | Load | Op | Cast | Reduce | Scan | Dot"


# --------------------------------------------------------------------------------------------------------------------
# Statements. `line` is where it stood in the text (0 when built in memory) and takes no part in equality.


@dataclass(frozen=True)
class Assign:
    """`name = expr`. A bare literal needs a dtype: `name = f32(0.5)`."""

    name: str
    value: TileExpr
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Alloc:
    """`name = alloc([axes], dtype, init=…, llm_hint=[…])`: a tile that loops update. `axes` by name; [] is a scalar."""

    name: str
    axes: tuple[str, ...]
    dtype: DType
    init: float | int | bool = 0
    hints: tuple[str, ...] = ()
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Store:
    """`store(expr -> y[i, j:j+BN])`. The expression's axes must be among the access's; missing ones broadcast."""

    value: TileExpr
    ref: TensorRef
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class For:
    """`for var in range(start, stop[, step]): body`, with hints above it.

    step None: a scalar loop. Otherwise a tiled loop, `step` names a constexpr (or is a literal), and `var` is an axis.
    hints: the arguments of the `@llm_hint(...)` above it: "parallel", "pipeline", "vectorize", "unroll"; "grididx",
        "threadidx", "coreidx", "warp", "simd". A loop is parallel when "parallel" is among them. "once": what streams
        through it should not take the cache from what others put there.
    """

    var: str
    start: IntExpr
    stop: IntExpr
    step: str | int | None
    body: tuple[Stmt, ...]
    hints: tuple[str, ...] = ()
    line: int = field(default=0, compare=False)

    @property
    def parallel(self) -> bool:
        """Iterations may run in any order, at the same time."""
        return "parallel" in self.hints


@dataclass(frozen=True)
class AxisDecl:
    """`axis d = range(start, stop, size)`: one tile's worth of lanes, in scope until the end of the enclosing body."""

    var: str
    start: IntExpr
    stop: IntExpr
    size: str | int
    line: int = field(default=0, compare=False)


Stmt: TypeAlias = "Assign | Alloc | Store | For | AxisDecl"


# --------------------------------------------------------------------------------------------------------------------
# The whole


@dataclass(frozen=True)
class TensorDecl:
    """`x[M, N]: f32 in`, optionally `strides(1, M)` in elements; without strides it is contiguous (row-major).

    kind: "in", "out" or "tmp" (scratch that the launcher allocates). Strides are integer expressions over symbols; 0
    broadcasts. Bounds are per dimension: 0 <= index < size.
    """

    name: str
    shape: tuple[IntExpr, ...]
    dtype: DType
    kind: str
    strides: tuple[IntExpr, ...] | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class ConstExpr:
    """A tile size with its search space: `BN = 1024 in [256, 512, 1024]`."""

    name: str
    value: int
    space: tuple[int, ...] = ()
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Sketch:
    """A whole sketch. `symbols` are the run-time sizes, passed to the kernel in this order."""

    name: str
    symbols: tuple[str, ...]
    tensors: tuple[TensorDecl, ...]
    constexprs: tuple[ConstExpr, ...]
    body: tuple[Stmt, ...]
