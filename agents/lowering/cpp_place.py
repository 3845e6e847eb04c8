"""Where values are kept between loops: local scalars, and buffers over lanes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.cpp_ops import HELD, Reg
from akg_dynamo.agents.lowering.index import c_name
from akg_dynamo.agents.lowering.ir import Axis
from akg_dynamo.agents.sketch.ast import DType


def lane_name(axis: Axis) -> str:
    """The C++ name of the current lane of an axis."""
    return axis.c_name * 2 if len(axis.c_name) == 1 else f"{axis.c_name}_lane"


@dataclass(frozen=True)
class Place:
    """A local scalar (no dims) or a buffer over the lanes of `dims`, in the form values are held; bool as bytes."""

    name: str
    dims: tuple[Axis, ...]
    dtype: DType

    @property
    def element(self) -> str:
        """Its C++ element type."""
        return "uint8_t" if self.dtype is DType.BOOL and self.dims else HELD[self.dtype]

    def declaration(self, stack_bytes: int) -> str:
        """Its definition, uninitialised. Buffers too large for the stack belong to the thread."""
        if not self.dims:
            return f"{self.element} {self.name};"
        count = math.prod(a.size for a in self.dims)
        storage = "static thread_local " if count * cpp_ops.held_bytes(self.dtype) > stack_bytes else ""
        return f"alignas(64) {storage}{self.element} {self.name}[{count}];"

    def _offset(self) -> str:
        text = ""
        for axis in self.dims:
            lane = f"{lane_name(axis)} - {c_name(axis.c_name)}"
            text = f"({text}) * {axis.size} + {lane}" if text else lane
        return text

    def _step(self, vector: Axis | None) -> int:
        if vector not in self.dims:
            return 0
        return math.prod(a.size for a in self.dims[self.dims.index(vector) + 1 :])

    def read(self, vector: Axis | None) -> Reg:
        """The value at the current lanes."""
        if not self.dims:
            return Reg(self.name, self.dtype, False)
        step = self._step(vector)
        is_bool = self.dtype is DType.BOOL
        if not step:
            text = f"{self.name}[{self._offset()}]"
            return Reg(f"({text} != 0)" if is_bool else text, self.dtype, False)
        place = f"&{self.name}[{self._offset()}]"
        text = f"load({place}, n)" if step == 1 else f"load_strided({place}, {step}, n)"
        return Reg(f"({text} != 0)" if is_bool else text, self.dtype, True, int(is_bool))

    def write(self, reg: Reg, vector: Axis | None) -> str:
        """The statement that stores a value at the current lanes."""
        if not self.dims:
            return f"{self.name} = {reg.text};"
        step = self._step(vector)
        if not step:
            return f"{self.name}[{self._offset()}] = {reg.text};"
        reg = cpp_ops.spread(reg)
        text = cpp_ops.to_store(reg) if self.dtype is DType.BOOL else reg.text
        place = f"&{self.name}[{self._offset()}]"
        if step == 1:
            return f"store<{self.element}>({place}, {text}, n);"
        return f"store_strided<{self.element}>({place}, {step}, {text}, n);"
