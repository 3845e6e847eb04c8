"""What a sketch declares: symbols for sizes, tensors for accesses, tile sizes; and what the names are bound to."""

from __future__ import annotations

from collections.abc import Sequence

from akg_dynamo.agents.designer.domain import Access, Axis, Index, Tiles, every_few, linear
from akg_dynamo.agents.designer.prims import Storage
from akg_dynamo.agents.designer.sizes import Size, SizeFacts, exact_div, product, to_dim
from akg_dynamo.agents.sketch.ast import ConstExpr, IntBin, IntConst, IntExpr, IntVar, Sketch, Stmt, TensorDecl
from akg_dynamo.agents.sketch.check import RESERVED
from akg_dynamo.core.types import Design, Role, TensorBinding

SMALL = 8  # sizes up to this are written into the sketch: loops over them unroll


class Declarations:
    """The names of one sketch, and what they are bound to."""

    def __init__(self, facts: SizeFacts) -> None:
        self.facts = facts
        self._symbols: dict[Size, str] = {}
        self._decls: dict[object, TensorDecl] = {}
        self._bindings: list[TensorBinding] = []
        self._constexprs: dict[str, ConstExpr] = {}
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def design(self, name: str, body: Sequence[Stmt]) -> Design:
        """The sketch of these statements, over everything declared for them."""
        order = {"in": 0, "out": 1, "tmp": 2}
        decls = list(self._decls.values())
        ranked = sorted(range(len(decls)), key=lambda k: (order[decls[k].kind], self._bindings[k].index))
        sketch = Sketch(
            name,
            tuple(self._symbols.values()),
            tuple(decls[k] for k in ranked),
            tuple(self._constexprs.values()),
            tuple(body),
        )
        symbols = tuple((symbol, to_dim(size)) for size, symbol in self._symbols.items())
        return Design(sketch, tuple(self._bindings[k] for k in ranked), symbols)

    def fresh(self, stem: str) -> str:
        """A name not used before: the stem itself first."""
        while True:
            n = self._counts.get(stem, 0)
            self._counts[stem] = n + 1
            name = stem if n == 0 else f"{stem}{n}"
            if name not in self._taken and name not in RESERVED:
                self._taken.add(name)
                return name

    def constexpr(self, name: str, value: int, space: Sequence[int]) -> str:
        """A tile size by name."""
        if name not in self._constexprs:
            self._taken.add(name)
            self._constexprs[name] = ConstExpr(name, value, tuple(space))
        return name

    def size(self, size: Size) -> IntExpr:
        """A size as an expression over the sketch's symbols."""
        if isinstance(size, int) and abs(size) <= SMALL:
            return IntConst(size)
        if isinstance(size, int) and size < 0:
            return IntBin("-", IntConst(0), self.size(-size))
        found = self._symbols.get(size)
        if found is None:
            found = self._symbols[size] = (
                self.fresh("n0") if not self._symbols else self.fresh(f"n{len(self._symbols)}")
            )
        return IntVar(found)

    def access(self, access: Access, tiles: Tiles) -> tuple[str, list[tuple[Axis | int, Index]]]:
        """The sketch tensor for an access, and what indexes each of its dims.

        A dim of the sketch's tensor is an axis (affine indices dissolve into one dim per axis), or, where bounds matter
        (`Index.loose`) or the index is computed, a dim of the storage: of the elements of it that are read.
        """
        storage = access.storage
        if storage.kind == "tmp":  # one declaration for every reader: flat
            flat = linear(access.indices, storage.shape, tiles)
            total = product(storage.shape)
            key: object = (storage,)
            if key not in self._decls:
                self._declare(key, storage, 0, (total,), (1,))
            return self._decls[key].name, [(0, flat)]
        steps: dict[Axis, Size] = {}
        offset: Size = 0
        dims: list[tuple[Size, Size, Axis | int, Index]] = []  # size, stride, what
        for d, (index, size, stride) in enumerate(zip(access.indices, storage.shape, storage.strides, strict=True)):
            if index.tile is not None or index.loose:
                every = every_few(index, size)
                offset = offset + every.first * stride
                dims.append((every.size, every.step * stride, d, every.index))
                continue
            offset = offset + index.const * stride
            for axis, c in index.terms:
                steps[axis] = steps.get(axis, 0) + c * stride
        dims += [(axis.extent, c, axis, Index()) for axis, c in steps.items() if c != 0]
        dims.sort(key=lambda d: -abs(self.facts.value(d[1])))
        shape, strides = tuple(d[0] for d in dims), tuple(d[1] for d in dims)
        key = (storage, offset, shape, strides)
        if key not in self._decls:
            self._declare(key, storage, offset, shape, strides)
        return self._decls[key].name, [(what, index) for _, _, what, index in dims]

    def _declare(
        self, key: object, storage: Storage, offset: Size, shape: tuple[Size, ...], strides: tuple[Size, ...]
    ) -> None:
        same = [k for k in self._decls if isinstance(k, tuple) and k[0] is storage]
        stem = {"in": "x", "out": "y", "tmp": "t"}[storage.kind] + str(storage.index)
        name = self.fresh(stem if not same else f"{stem}_v{len(same)}")
        sizes = tuple(self.size(s) for s in shape)
        decl = TensorDecl(name, sizes, storage.dtype, storage.kind, self._strides(shape, strides))
        role = {"in": Role.INPUT, "out": Role.OUTPUT, "tmp": Role.SCRATCH}[storage.kind]
        whole = to_dim(product(storage.shape)) if storage.kind == "tmp" else 0
        self._decls[key] = decl
        self._bindings.append(TensorBinding(name, role, storage.index, to_dim(offset), whole))

    def _strides(self, shape: tuple[Size, ...], strides: tuple[Size, ...]) -> tuple[IntExpr, ...] | None:
        """Strides written as products of sizes where they are; None for row-major."""
        texts: list[IntExpr] = []
        dense = True
        expected: Size = 1
        inner: tuple[Size, IntExpr] = (1, IntConst(1))
        for size, stride in zip(reversed(shape), reversed(strides), strict=True):
            dense = dense and stride == expected
            expected = expected * size
            if stride == inner[0]:
                text = inner[1]
            else:
                quotient = exact_div(stride, inner[0]) if texts else None
                text = self.size(stride) if quotient is None else times(self.size(quotient), inner[1])
            texts.append(text)
            inner = (stride * size, times(text, self.size(size)))
        return None if dense else tuple(reversed(texts))


def times(a: IntExpr, b: IntExpr) -> IntExpr:
    """a * b."""
    if isinstance(a, IntConst) and a.value == 1:
        return b
    if isinstance(b, IntConst) and b.value == 1:
        return a
    return IntBin("*", a, b)


def plus(a: IntExpr, b: IntExpr) -> IntExpr:
    """a + b."""
    if isinstance(a, IntConst) and a.value == 0:
        return b
    return a if isinstance(b, IntConst) and b.value == 0 else IntBin("+", a, b)


def minus(a: IntExpr, b: IntExpr) -> IntExpr:
    """a - b."""
    return a if isinstance(b, IntConst) and b.value == 0 else IntBin("-", a, b)
