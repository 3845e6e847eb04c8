"""Triton's interpreter, made to run generated kernels: on CPU tensors, without a GPU, whenever Triton was imported.

    with interpreted():
        module = load(candidate)      # whatever is @triton.jit in here is interpreted
        module.kernel[grid](x, y)

Triton's own knows no libdevice, takes bf16 for integers in dots and truncates it in casts, applies a combine function
element by element, and needs its switch before `triton` is first imported, or the functions of `tl` that are themselves
jit functions (sum, cdiv…) stay compiled ones. All of that is mended here, while the context lasts.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]

_UNARY: dict[str, Callable[..., torch.Tensor]] = {
    "exp": torch.exp, "exp2": torch.exp2, "expm1": torch.expm1, "log": torch.log, "log2": torch.log2,
    "log10": torch.log10, "log1p": torch.log1p, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan,
    "asin": torch.asin, "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh,
    "tanh": torch.tanh, "asinh": torch.asinh, "acosh": torch.acosh, "atanh": torch.atanh, "erf": torch.erf,
    "erfc": torch.erfc, "lgamma": torch.lgamma, "trunc": torch.trunc, "rint": torch.round, "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt, "floor": torch.floor, "ceil": torch.ceil, "fabs": torch.abs,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Array]] = {
    "pow": np.power, "fmod": np.fmod, "atan2": np.arctan2, "hypot": np.hypot, "copysign": np.copysign,
}  # fmt: skip


@contextmanager
def interpreted() -> Iterator[None]:
    """Kernels defined inside run in Triton's interpreter, on CPU tensors. Not for several threads at once."""
    import triton
    from triton.runtime import interpreter

    before = triton.knobs.runtime.interpret
    triton.knobs.runtime.interpret = True
    try:
        with ExitStack() as stack:
            builder = interpreter.InterpreterBuilder
            for name, method in _METHODS.items():
                stack.enter_context(mock.patch.object(builder, name, method, create=True))
            stack.enter_context(mock.patch.object(interpreter.ReduceOps, "apply_impl", _reduce))
            stack.enter_context(mock.patch.object(interpreter.ScanOps, "apply_impl", _scan))
            stack.enter_context(mock.patch.object(interpreter, "_patch_lang", _patching(interpreter._patch_lang)))
            _interpret_library(stack)
            stack.enter_context(np.errstate(all="ignore"))
            yield
    finally:
        triton.knobs.runtime.interpret = before


def _interpret_library(stack: ExitStack) -> None:
    """The functions of `tl` that are jit functions, as interpreted ones."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    made: dict[Any, Any] = {}
    for module in (tl, tl.standard):
        for name, member in list(vars(module).items()):
            if isinstance(member, JITFunction):
                function = made.setdefault(member.fn, InterpretedFunction(member.fn))
                stack.enter_context(mock.patch.object(module, name, function))


def _patching(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`_patch_lang` for all that a kernel may reach, and once: not again when a jit function calls another."""
    import triton.language as tl
    from triton.language.extra.cuda import libdevice
    from triton.runtime import interpreter

    everything = types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    depth = 0

    def patch(fn: Any) -> Any:
        nonlocal depth
        if depth:
            return interpreter._LangPatchScope()
        depth += 1
        scope = original(everything)
        interpreter._patch_builtin(libdevice, interpreter.interpreter_builder, scope)
        own = mock.patch.dict(fn.__globals__, {"range": _range})
        own.start()
        restore = scope.restore

        def leave() -> None:
            nonlocal depth
            depth -= 1
            own.stop()
            restore()

        scope.restore = leave
        return scope

    return patch


def _range(*bounds: Any) -> Iterator[Any]:
    """A loop's variable is a tensor in Triton, as wide as its bounds."""
    import triton.language as tl

    wide = any(isinstance(b, tl.tensor) and b.dtype == tl.int64 for b in bounds)
    dtype, kind = (tl.int64, np.int64) if wide else (tl.int32, np.int32)
    for i in range(*(int(b) for b in bounds)):
        yield tl.tensor(_handle(np.array([i], kind), dtype), dtype)


# --------------------------------------------------------------------------------------------------------------------
# Methods of the interpreter's builder


def _to_bf16(x: Array) -> Array:
    """f32 as the bits of bf16, to nearest even."""
    return torch.from_numpy(np.array(x, np.float32)).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def _from_bf16(bits: Array) -> Array:
    """The bits of bf16 as f32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _handle(data: Array, dtype: Any) -> Any:
    from triton.runtime.interpreter import TensorHandle

    return TensorHandle(data, dtype)


def _cast(self: Any, source: Any, to: Any) -> Any:
    import triton.language as tl
    from triton.runtime.interpreter import _get_np_dtype

    data = _from_bf16(source.data) if source.dtype.scalar == tl.bfloat16 else source.data
    out = _to_bf16(data) if to.scalar == tl.bfloat16 else data.astype(_get_np_dtype(to))
    return _handle(np.asarray(out).reshape(source.data.shape), to.scalar)


def _dot(self: Any, a: Any, b: Any, acc: Any, *_: Any) -> Any:
    import triton.language as tl

    left, right = (_from_bf16(x.data) if x.dtype.scalar == tl.bfloat16 else x.data for x in (a, b))
    if left.dtype.kind == "f":  # products exact, one rounding of the sum
        total = np.matmul(left.astype(np.float64), right.astype(np.float64)) + acc.data
        return _handle(total.astype(acc.data.dtype), acc.dtype.scalar)
    return _handle(np.matmul(left, right, dtype=acc.data.dtype) + acc.data, acc.dtype.scalar)


def _extern(self: Any, _library: str, _path: str, symbol: str, args: list[Any], *_: Any) -> Any:
    """A function of libdevice: in f64, rounded once."""
    arrays = [np.asarray(a.data) for a in args]
    dtype = arrays[0].dtype
    name = symbol.removeprefix("__nv_")
    name = name.removesuffix("f") if dtype == np.float32 and name not in _UNARY else name
    if name == "nextafter":
        out = np.asarray(np.nextafter(*arrays))
    elif name in _BINARY:
        out = np.asarray(_BINARY[name](*(a.astype(np.float64) for a in arrays)))
    elif name in _UNARY:
        out = _UNARY[name](torch.from_numpy(arrays[0].astype(np.float64))).numpy()
    else:
        raise NotImplementedError(f"libdevice's {symbol} in the interpreter")
    return _handle(out.astype(dtype), args[0].dtype.scalar)


def _fma(self: Any, x: Any, y: Any, z: Any) -> Any:
    from akg_dynamo.agents.sketch.ast import DType
    from akg_dynamo.agents.sketch.numerics import elementwise

    dtype = DType.F64 if z.data.dtype == np.float64 else DType.F32
    data = elementwise("fma", dtype, list(np.broadcast_arrays(x.data, y.data, z.data)))
    return _handle(data.astype(z.data.dtype), z.dtype.scalar)


def _splat(self: Any, to: Any, x: Any) -> Any:
    """Of a comparison too, whose handle has the type of what was compared."""
    return _handle(np.full(to.shape, x.data), x.dtype.scalar)


def _all_ones(self: Any, to: Any) -> Any:
    from triton.runtime.interpreter import _get_np_dtype

    kind = _get_np_dtype(to)
    ones = np.ones(1, np.bool_) if kind == np.bool_ else np.full(1, -1, np.int64).astype(kind)
    return _handle(ones, to.scalar)


def _bf16_constant(self: Any, value: float) -> Any:
    import triton.language as tl

    return _handle(_to_bf16(np.array([value], np.float32)), tl.bfloat16)


def _binary(function: Callable[..., Array]) -> Callable[..., Any]:
    def method(self: Any, a: Any, b: Any) -> Any:
        return self.binary_op(a, b, function)

    return method


_METHODS: dict[str, Callable[..., Any]] = {
    "cast_impl": _cast,
    "create_dot": _dot,
    "create_extern_elementwise": _extern,
    "create_fma": _fma,
    "create_splat": _splat,
    "get_all_ones_value": _all_ones,
    "get_bf16": _bf16_constant,
    "create_maxnumf": _binary(np.fmax),
    "create_minnumf": _binary(np.fmin),
}


# --------------------------------------------------------------------------------------------------------------------
# Reductions and scans, by halves: a combine function is applied to whole slices, in the order a GPU's lanes are


def _parts(self: Any, values: tuple[Any, ...]) -> list[Array]:
    return [np.moveaxis(v.handle.data, self.axis, -1) for v in values]


def _combined(self: Any, a: list[Array], b: list[Array], values: tuple[Any, ...]) -> list[Array]:
    import triton.language as tl

    def block(data: Array, like: Any) -> Any:
        return tl.tensor(_handle(data, like.dtype), tl.block_type(like.dtype, list(data.shape)))

    tiles = [block(np.ascontiguousarray(x), v) for x, v in zip([*a, *b], [*values, *values], strict=True)]
    out = self.combine_fn.fn(*tiles)
    return [o.handle.data for o in (out if isinstance(out, tuple | tl.tuple) else (out,))]


def _reduce(self: Any, values: tuple[Any, ...]) -> list[Any]:
    if self.axis is None:
        values, self.axis = tuple(self.to_tensor(v.handle.data.reshape(-1), v.dtype) for v in values), 0
    parts = _parts(self, values)
    while parts[0].shape[-1] > 1:
        half = parts[0].shape[-1] // 2
        parts = _combined(self, [p[..., :half] for p in parts], [p[..., half:] for p in parts], values)
    out = [p[..., 0] for p in parts]
    if self.keep_dims:
        out = [np.expand_dims(o, self.axis) for o in out]
    return [self.to_tensor(np.asarray(o), v.dtype) for o, v in zip(out, values, strict=True)]


def _scan(self: Any, values: tuple[Any, ...]) -> list[Any]:
    parts = _parts(self, values)
    if self.reverse:
        parts = [p[..., ::-1] for p in parts]
    parts = [np.array(p) for p in parts]
    step, lanes = 1, parts[0].shape[-1]
    while step < lanes:
        # (Slices of full width: the sizes of blocks are powers of two.)
        new = _combined(self, [np.roll(p, step, axis=-1) for p in parts], parts, values)
        parts = [np.concatenate([p[..., :step], n[..., step:]], axis=-1) for p, n in zip(parts, new, strict=True)]
        step *= 2
    if self.reverse:
        parts = [p[..., ::-1] for p in parts]
    out = [np.ascontiguousarray(np.moveaxis(p, -1, self.axis)) for p in parts]
    return [self.to_tensor(o, v.dtype) for o, v in zip(out, values, strict=True)]
