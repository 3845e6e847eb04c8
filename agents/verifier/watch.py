"""In a candidate's process: finds its kernels as they are launched, and sees to it that nothing else computes.

    with watching("ghost", key) as watch:        # or "sealed"; from before the candidate's module is executed
        …
        outputs = watch.call(run, arguments)

"ghost": launches do nothing. Outputs that are right all the same did not come from a kernel.

"sealed": inputs are enciphered, byte by byte, and so is everything that is made of them. While a kernel runs, and while
torch moves elements about (views, copies, concatenations), memory is in clear; afterwards it is enciphered again. So
data may be moved anywhere, but whatever computes outside a kernel (torch, NumPy, Python, a library, another thread)
computes with noise, and its outputs are wrong. What does not come from an input (constants, tables, weights) is in
clear and may be computed with. With the key 0 nothing is enciphered, so that no candidate can tell by its inputs that
it is watched; what torch computes is noted all the same.

What is a launch: a Triton kernel, a function of a library that is not part of the system, of an extension built by
torch, an operator that is not torch's. A CUDA graph has captured the ciphers with its launches, and is none.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch.autograd import graph
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

_MOVES = frozenset(
    {
        "clone", "copy_", "_to_copy", "cat", "stack", "contiguous", "repeat", "flip", "roll", "index_select",
        "_unsafe_view", "constant_pad_nd", "unfold", "reshape", "_reshape_copy", "lift_fresh", "lift", "alias_copy",
        "t_copy", "view_copy", "permute_copy", "slice_copy", "select_copy", "expand_copy",
        "transpose_copy", "narrow_copy", "detach_copy",
        "as_strided_copy", "zero_", "fill_", "set_", "resize_", "_copy_from", "_copy_from_and_resize", "empty_like",
        "new_empty", "new_zeros", "zeros_like", "ones_like", "full_like", "new_full", "new_ones", "empty_strided",
        "new_empty_strided", "slice_scatter", "select_scatter", "block_diag", "split_with_sizes_copy", "resize_as_",
    }
)  # fmt: skip
_DESCRIBES = frozenset(
    {"is_same_size", "sym_size", "sym_stride", "sym_numel", "size", "stride", "numel", "dim", "prim_device"}
)
_SYSTEM = (
    "/usr/",
    "/lib/",
    "/lib64/",
    "/opt/",
    "/nix/",
    os.path.realpath(sys.prefix),
    os.path.realpath(sys.base_prefix),
)
_TORCH = os.path.dirname(torch.__file__) + os.sep
_MOST_BYTES = 1 << 26  # of what is in clear: what changed in a launch is found by comparing


class Watch:
    """What was seen."""

    def __init__(self, mode: str, key: int, name: str = "") -> None:
        """`name`: of the candidate's module."""
        self.mode = mode
        self.key = key
        self.name = name
        self.interprets = False
        self.launches = 0
        self.computed: dict[str, None] = {}  # by torch, with what is sealed: an ordered set
        self.sealed: dict[int, torch.UntypedStorage] = {}
        self.clear: dict[int, torch.UntypedStorage] = {}
        self.open = 0

    # -- storages -----------------------------------------------------------------------------------------------------

    def is_sealed(self, tensor: torch.Tensor) -> bool:
        """Whether its memory is enciphered (when nothing is open)."""
        return tensor.untyped_storage()._cdata in self.sealed

    def seal(self, tensor: torch.Tensor) -> None:
        """From now on its memory is enciphered."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.sealed and storage.nbytes():
            self.clear.pop(storage._cdata, None)
            self.sealed[storage._cdata] = storage
            if not self.open:
                self._turn(storage)

    def unseal(self, tensor: torch.Tensor) -> None:
        """In clear again, for good."""
        storage = self.sealed.pop(tensor.untyped_storage()._cdata, None)
        if storage is not None:
            self._turn(storage)

    def know(self, tensor: torch.Tensor) -> None:
        """It is in clear, and may be written to by a launch."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.sealed:
            self.clear[storage._cdata] = storage

    def _turn(self, storage: torch.UntypedStorage) -> None:
        flat = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        flat.bitwise_xor_(self.key)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Everything is in clear."""
        with _disable_current_modes():
            if not self.open:
                for storage in self.sealed.values():
                    self._turn(storage)
            self.open += 1
        try:
            yield
        finally:
            with _disable_current_modes():
                self.open -= 1
                if not self.open:
                    for storage in self.sealed.values():
                        self._turn(storage)

    # -- launches -----------------------------------------------------------------------------------------------------

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a kernel, or do not."""
        if self.open:  # a kernel launched by a kernel
            return function(*args, **kwargs)
        self.launches += 1
        if self.mode == "ghost":
            return _nothing_of(function, args, kwargs)
        for tensor in _tensors((args, kwargs)):
            self.know(tensor)
        with self.opened():
            before = self._in_clear()
            # What interprets a kernel computes with torch, and is Python.
            inside = nullcontext() if self.interprets else _Inside(self)
            with inside, nullcontext() if self.interprets else self._no_python():
                result = function(*args, **kwargs)
            self._note_changes(before)
            for tensor in _tensors(result):
                self.seal(tensor)
        return result

    @contextmanager
    def _no_python(self) -> Iterator[None]:
        """Compiled code that calls back into the candidate's Python is no kernel."""
        own = f"<{self.name}>"

        def look(frame: Any, event: str, arg: Any) -> None:
            if event == "call" and frame.f_code.co_filename == own:
                self.computed[f"Python ({frame.f_code.co_name}) called by a kernel"] = None

        sys.setprofile(look)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _in_clear(self) -> dict[int, torch.Tensor]:
        if _is_capturing():
            return {}  # nothing runs now: whatever it may write to is taken for written
        with _disable_current_modes():
            small = {k: s for k, s in self.clear.items() if s.nbytes() <= _MOST_BYTES}
            return {k: torch.empty(0, dtype=torch.uint8, device=s.device).set_(s).clone() for k, s in small.items()}

    def _note_changes(self, before: dict[int, torch.Tensor]) -> None:
        """What a launch wrote was made of inputs."""
        with _disable_current_modes():
            for key, storage in list(self.clear.items()):
                now = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
                if key not in before or not torch.equal(before[key], now):  # ciphers are captured with launches
                    del self.clear[key]
                    self.sealed[key] = storage

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(self, run: Callable[..., Any], arguments: list[Any]) -> Any:
        """One call; its outputs are in clear."""
        if self.mode == "ghost":
            return run(*arguments)
        for tensor in _tensors(arguments):
            self.seal(tensor)
        try:
            with _Outside(self):
                outputs = run(*arguments)
        finally:
            for storage in self.sealed.values():
                self._turn(storage)
            self.sealed.clear()
        return outputs


def _tensors(values: Any) -> list[torch.Tensor]:
    return [v for v in _pytree.tree_leaves(values) if isinstance(v, torch.Tensor)]


def _nothing_of(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What a launch that does nothing returns: noise, where the function returns tensors."""
    if not getattr(function, "returns_tensors", False):
        return None
    result = function(*args, **kwargs)
    for tensor in _tensors(result):
        storage = tensor.untyped_storage()
        torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).fill_(0xA5)
    return result


class _Outside(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """While a wrapper runs: torch moves what is sealed, and computes with what is not."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        watch, kwargs = self.watch, kwargs or {}
        if watch.open:  # what an interpreter of kernels does: it moves what it is given, and computes with NumPy
            if any(map(watch.is_sealed, _tensors((args, kwargs)))) and not _moves(func):
                watch.computed[func._schema.name] = None
            return func(*args, **kwargs)
        if func.namespace not in ("aten", "prims", "prim", "profiler"):
            return watch.launch(_Operator(func), *args, **kwargs)
        given = _tensors((args, kwargs))
        sealed = [t for t in given if watch.is_sealed(t)]
        if not sealed:
            result = func(*args, **kwargs)
            for tensor in _tensors(result):
                watch.know(tensor)
            return result
        name = func._schema.name.partition("::")[2]
        if _is_view(func) or name in _DESCRIBES:
            return func(*args, **kwargs)
        moves = name in _MOVES and not _casts(given, kwargs, func)
        if moves or (name in ("add", "add_") and _adds_up_gradients()):
            with watch.opened():
                result = func(*args, **kwargs)
                written = [a for a, s in zip(args, func._schema.arguments, strict=False) if s.is_write]
                for tensor in _tensors((result, written)):
                    watch.seal(tensor)
            return result
        watch.computed[func._schema.name] = None
        result = func(*args, **kwargs)  # with noise
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            watch.clear.pop(storage._cdata, None)
            watch.sealed[storage._cdata] = storage
        return result


def _adds_up_gradients() -> bool:
    """Whether autograd itself calls, as it does to add what reaches a tensor from several sides: no Python of anybody
    else is between its engine (or the bottom of its own thread) and here.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code is not graph._engine_run_backward.__code__:
        if not frame.f_code.co_filename.startswith(_TORCH):
            return False
        frame = frame.f_back
    return True


class _Inside(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """While a kernel runs: it may allocate, but the work is its own."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _tensors((args, kwargs)) and not _moves(func):
            self.watch.computed[func._schema.name] = None
        return func(*args, **(kwargs or {}))


class _Operator:
    """An operator that is not torch's, as a kernel."""

    returns_tensors = True

    def __init__(self, func: Any) -> None:
        self.func = func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)


def _moves(func: Any) -> bool:
    """Whether it computes nothing."""
    return _is_view(func) or func._schema.name.partition("::")[2] in _MOVES | _DESCRIBES


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _casts(given: list[torch.Tensor], kwargs: dict[str, Any], func: Any) -> bool:
    if func._schema.name.endswith(("_to_copy", "copy_")):
        kinds = {t.dtype for t in given} | ({kwargs["dtype"]} if kwargs.get("dtype") is not None else set())
        return len(kinds) > 1
    return False


# --------------------------------------------------------------------------------------------------------------------
# Finding launches


@contextmanager
def watching(mode: str, key: int, source: str, name: str) -> Iterator[Watch]:
    """While inside, whatever launches a kernel is seen. The candidate, whose source that is, is to be executed inside.

    What it does not name is not loaded to be watched: its launches, if it has any, are not known for such.
    """
    watch = Watch(mode, key, name)
    with ExitStack() as stack:
        _watch_libraries(watch, stack)
        if "triton" in source:
            _watch_triton(watch, stack)
        if "cpp_extension" in source:
            _watch_extensions(watch, stack)
        _watch_cuda(watch, stack)
        yield watch


def _replace(stack: ExitStack, owner: Any, name: str, watch: Watch) -> None:
    """A method that launches."""
    original = getattr(owner, name)

    def launching(self: Any, *args: Any, **kwargs: Any) -> Any:
        return watch.launch(original, self, *args, **kwargs)

    stack.enter_context(mock.patch.object(owner, name, launching))


def _launches_from_python(stack: ExitStack, kind: Any, watch: Watch) -> None:
    """Triton's functions, interpreted or compiled: both run some Python (the grid's), and hooks."""
    run = kind.run

    def launching(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.pre_run_hooks:
            watch.computed["Python in a hook before a launch"] = None
        outer, watch.interprets = watch.interprets, True
        try:
            return watch.launch(run, self, *args, **kwargs)
        finally:
            watch.interprets = outer

    stack.enter_context(mock.patch.object(kind, "run", launching))


def _watch_triton(watch: Watch, stack: ExitStack) -> None:
    try:
        from triton.compiler.compiler import CompiledKernel
        from triton.runtime.interpreter import InterpretedFunction
        from triton.runtime.jit import JITFunction
    except ImportError:
        return
    for kind in (InterpretedFunction, JITFunction):
        _launches_from_python(stack, kind, watch)
    get = CompiledKernel.__getitem__

    def compiled(self: Any, grid: Any) -> Callable[..., Any]:
        runner = get(self, grid)
        return lambda *args, **kwargs: watch.launch(runner, *args, **kwargs)

    stack.enter_context(mock.patch.object(CompiledKernel, "__getitem__", compiled))


class _Function:
    """A function of a candidate's own library."""

    def __init__(self, function: Any, watch: Watch) -> None:
        object.__setattr__(self, "_function", function)
        object.__setattr__(self, "_watch", watch)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._function, name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __call__(self, *args: Any) -> Any:
        if self._function.restype is ctypes.py_object:  # it makes functions
            made = self._function(*args)
            return (lambda *a, **k: self._watch.launch(made, *a, **k)) if callable(made) else made
        found = self._watch.launch(self._function, *args)
        return 0 if found is None and self._function.restype is not None else found


def _watch_libraries(watch: Watch, stack: ExitStack) -> None:
    attribute, item = ctypes.CDLL.__getattr__, ctypes.CDLL.__getitem__

    def is_own(library: ctypes.CDLL) -> bool:
        path = os.path.realpath(library._name) if library._name else ""
        return os.path.isfile(path) and not path.startswith(_SYSTEM)

    def by_attribute(self: ctypes.CDLL, name: str) -> Any:
        found = attribute(self, name)
        if not is_own(self):
            return found
        self.__dict__.pop(name, None)  # where ctypes keeps it
        wrapped = _Function(found, watch)
        self.__dict__[name] = wrapped
        return wrapped

    def by_item(self: ctypes.CDLL, name: Any) -> Any:
        found = item(self, name)
        return _Function(found, watch) if is_own(self) and sys._getframe(1).f_code is not attribute.__code__ else found

    stack.enter_context(mock.patch.object(ctypes.CDLL, "__getattr__", by_attribute))
    stack.enter_context(mock.patch.object(ctypes.CDLL, "__getitem__", by_item))


class _Extension:
    """A module that torch has built for a candidate."""

    def __init__(self, module: Any, watch: Watch) -> None:
        self.__dict__.update(_module=module, _watch=watch)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not callable(found) or isinstance(found, type):
            return found

        def function(*args: Any, **kwargs: Any) -> Any:
            return found(*args, **kwargs)

        function.returns_tensors = True  # type: ignore[attr-defined]
        return lambda *args, **kwargs: self._watch.launch(function, *args, **kwargs)


def _watch_extensions(watch: Watch, stack: ExitStack) -> None:
    from torch.utils import cpp_extension

    for name in ("load", "load_inline"):
        original = getattr(cpp_extension, name)

        def loading(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            return _Extension(_original(*args, **kwargs), watch)

        stack.enter_context(mock.patch.object(cpp_extension, name, loading))


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _watch_cuda(watch: Watch, stack: ExitStack) -> None:
    if not torch.cuda.is_available():
        return
    kernel = getattr(torch.cuda._utils, "_CudaKernel", None)
    if kernel is not None:
        _replace(stack, kernel, "__call__", watch)
    if hasattr(torch._C, "_StaticCudaLauncher"):  # modules that find none launch by Triton
        stack.enter_context(mock.patch.object(torch._C, "_StaticCudaLauncher", None))
