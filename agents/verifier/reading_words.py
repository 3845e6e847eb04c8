"""What the screen that reads sources knows by name: modules, functions, methods, and what their use is called."""

from __future__ import annotations

from functools import cache

import torch

from akg_dynamo.core.types import Trick


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODULES = _words(
    "torch math cmath typing typing_extensions __future__ dataclasses functools itertools collections enum numbers abc "
    "textwrap contextlib string re warnings logging"
)
"""What any candidate may import."""

BUILDERS = _words("ctypes hashlib json os pathlib platform shutil subprocess tempfile")
"""What one that has a compiler to call may import beside."""

_OF_MODULES: dict[Trick, frozenset[str]] = {
    Trick.LOOKS_AROUND: _words("gc inspect sys types dis traceback tracemalloc weakref linecache akg_dynamo unittest"),
    Trick.HIDES_CALLS: _words(
        "importlib builtins runpy imp pkgutil code codeop marshal pickle copyreg ctypes cffi operator ast zipimport "
        "base64 "
        "codecs zlib"
    ),
    Trick.THREADS: _words("threading multiprocessing concurrent asyncio _thread queue sched selectors joblib"),
    Trick.FORGES: _words("atexit faulthandler signal pty tty termios"),
    Trick.CLOCKS: _words("time timeit datetime resource cProfile profile pstats"),
    Trick.ESCAPES: _words(
        "socket urllib http requests ssl ftplib smtplib subprocess shutil pathlib glob io mmap tempfile os pip site "
        "getpass "
        "ensurepip webbrowser sqlite3 pwd fcntl posix shelve platform httpx aiohttp"
    ),
    Trick.CALLS_TORCH: _words(
        "numpy scipy numba cupy jax tensorflow sklearn pandas einops xformers flash_attn apex transformers torchvision "
        "torchaudio cutlass bitsandbytes functorch mkl onednn opt_einsum"
    ),
}
_COMPILERS = _words("g++ c++ gcc cc clang clang++ nvcc hipcc")
ENVIRONMENT = _words(
    "CXX CUDA_HOME XDG_CACHE_HOME TRITON_CACHE_DIR TORCH_CUDA_ARCH_LIST TORCH_EXTENSIONS_DIR MAX_JOBS BUILD_DIR"
)
"""Variables that may be asked for."""


def trick_of_module(name: str) -> Trick:
    """What importing a module that is on no list is called."""
    root = name.partition(".")[0]
    return next((trick for trick, names in _OF_MODULES.items() if root in names), Trick.HIDES_CALLS)


def is_compiler(name: str) -> bool:
    """Whether a program of that name (or path) compiles C++ or CUDA."""
    return name.rpartition("/")[2] in _COMPILERS


BUILTINS: dict[str, Trick] = {
    **dict.fromkeys(
        ("eval", "exec", "compile", "__import__", "globals", "locals", "vars", "dir", "delattr"), Trick.HIDES_CALLS
    ),
    **dict.fromkeys(("breakpoint", "input", "memoryview"), Trick.LOOKS_AROUND),
    **dict.fromkeys(("exit", "quit", "SystemExit", "KeyboardInterrupt"), Trick.FORGES),
    **dict.fromkeys(("id", "hash"), Trick.REPLAYS),
    "open": Trick.ESCAPES,
}
"""Functions of Python's own that no kernel's wrapper has a use for."""

ATTRIBUTES: dict[str, Trick] = {
    **dict.fromkeys(
        (
            "__subclasses__", "__globals__", "__builtins__", "__closure__", "__getattribute__", "__mro__", "__bases__",
            "__loader__", "__spec__", "__wrapped__", "__self__", "__func__", "__reduce__", "__import__", "__dict__",
        ),
        Trick.HIDES_CALLS,
    ),
    **dict.fromkeys(
        ("f_back", "f_locals", "f_globals", "tb_frame", "gi_frame", "cr_frame", "ag_frame", "__code__", "__traceback__",
         "_current_frames", "_getframe", "co_code"),
        Trick.LOOKS_AROUND,
    ),
    "_version": Trick.REPLAYS,
    "__class__": Trick.SUBCLASS,
    "_make_subclass": Trick.SUBCLASS,
    "_make_wrapper_subclass": Trick.SUBCLASS,
    "as_subclass": Trick.SUBCLASS,
}  # fmt: skip

METHODS: dict[str, Trick] = {
    "__torch_function__": Trick.SUBCLASS,
    "__torch_dispatch__": Trick.SUBCLASS,
    "__del__": Trick.FORGES,
    "__getattr__": Trick.HIDES_CALLS,
    "__getattribute__": Trick.HIDES_CALLS,
    "__reduce__": Trick.HIDES_CALLS,
    "__reduce_ex__": Trick.HIDES_CALLS,
    "__class_getitem__": Trick.HIDES_CALLS,
    "__init_subclass__": Trick.HIDES_CALLS,
    "__set_name__": Trick.HIDES_CALLS,
}
"""Methods that a candidate must not define."""

OS: dict[str, Trick] = {
    **dict.fromkeys(("_exit", "abort", "kill", "killpg", "write", "pipe", "dup", "dup2", "close", "writev", "sendfile"),
                    Trick.FORGES),
    **dict.fromkeys(("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen", "sched_setaffinity", "nice"),
                    Trick.THREADS),
    **dict.fromkeys(("times", "getloadavg"), Trick.CLOCKS),
    **dict.fromkeys(("environ", "getenv", "environb", "putenv", "listdir", "scandir", "walk", "open", "read", "chmod",
                     "symlink", "link", "chdir", "getppid", "getpid"), Trick.ESCAPES),
}  # fmt: skip
"""Functions of os that even a candidate with a compiler to call must leave alone."""

FLAGS = _words(
    "torch.set_float32_matmul_precision torch.set_default_dtype torch.set_num_threads torch.set_num_interop_threads "
    "torch.set_flush_denormal torch.use_deterministic_algorithms torch.set_default_device torch.set_grad_enabled "
    "torch.set_default_tensor_type torch.manual_seed torch.set_rng_state torch.seed"
)
"""Functions of torch that change what others compute, or how fast."""

_STATE_OF_TORCH = _words(
    "torch.are_deterministic_algorithms_enabled torch.is_deterministic_algorithms_warn_only_enabled torch._dynamo "
    "torch.get_num_threads torch.initial_seed torch.random torch.get_rng_state torch._C torch._logging torch.overrides "
    "torch.utils._python_dispatch torch.utils.deterministic"
)
"""What tells a candidate how and by whom it is run, or lets it take the place of torch's functions."""


def tells_of_the_judge(dotted: str) -> bool:
    """Whether it is of that sort."""
    inside = any(dotted == name or dotted.startswith(name + ".") for name in _STATE_OF_TORCH)
    return inside and not allowed_of_torch(dotted)


IN_KERNELS = _words("range min max abs int float len tuple print isinstance static_range cdiv slice bool")

_TORCH = _words(
    "torch.Tensor torch.Size torch.device torch.dtype torch.layout torch.memory_format torch.strided torch.no_grad "
    "torch.inference_mode torch.enable_grad torch.contiguous_format torch.channels_last torch.preserve_format "
    "torch.empty torch.empty_like torch.empty_strided torch.zeros torch.zeros_like torch.ones torch.ones_like "
    "torch.full "
    "torch.full_like torch.arange torch.tensor torch.as_strided torch.is_tensor torch.finfo torch.iinfo "
    "torch.jit.ignore "
    "torch.numel torch.get_default_dtype torch.version torch.__version__ torch.is_grad_enabled torch.empty_permuted "
    "torch.cat torch.stack torch.chunk torch.split torch.transpose torch.permute torch.reshape torch.squeeze "
    "torch.unsqueeze "
    "torch.flatten torch.clone torch.broadcast_to torch.broadcast_shapes torch.movedim torch.swapaxes torch.t "
    "torch.autograd.Function torch.autograd.function torch.Generator "
    "torch.utils torch.utils.cpp_extension torch.utils.cpp_extension.load_inline torch.utils.cpp_extension.load "
    "torch.backends torch.nn torch.nn.Module torch.nn.Parameter torch.nn.parameter torch.nn.ParameterList "
    "torch.nn.Buffer "
    "torch.nn.ParameterDict torch.nn.ModuleList torch.nn.init torch.nn.modules torch.autograd torch.cuda "
    "torch._C._dynamo.guards torch._C._dynamo.guards._empty_strided_cpu "
    "torch._C._dynamo.guards._empty_strided_cuda torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr "
    "torch._C._cuda_getCurrentRawStream torch._C._StaticCudaLauncher"
)
_CUDA = _words(
    "device current_device current_stream get_device_properties get_device_capability is_available synchronize "
    "device_count CUDAGraph graph graph_pool_handle is_current_stream_capturing get_device_name default_stream "
    "_compile_kernel nvtx amp OutOfMemoryError"
)
DTYPES = frozenset(f"torch.{n}" for n, v in vars(torch).items() if isinstance(v, torch.dtype))


def allowed_of_torch(dotted: str) -> bool:
    """Whether a wrapper may use what has that name in torch: it allocates, views, describes or holds, and computes
    nothing."""
    if dotted in _TORCH or dotted in DTYPES or dotted == "torch":
        return True
    for prefix in ("torch.nn.init.", "torch.utils.cpp_extension.", "torch.version.", "torch.Tensor.shape"):
        if dotted.startswith(prefix):
            return True
    if dotted.startswith("torch.cuda."):
        return dotted.split(".")[2] in _CUDA
    return False


def is_layer(dotted: str) -> bool:
    """Whether that is one of torch.nn's layers: it may hold parameters, and must not be called."""
    if not dotted.startswith("torch.nn.") or dotted.startswith("torch.nn.functional"):
        return False
    found = getattr(torch.nn, dotted.removeprefix("torch.nn."), None)
    return isinstance(found, type) and issubclass(found, torch.nn.Module)


VIEWS = _words(
    "view reshape contiguous t transpose permute expand expand_as squeeze unsqueeze flatten unflatten narrow select "
    "detach "
    "clone as_strided view_as reshape_as movedim swapaxes swapdims unbind split chunk diagonal unfold cpu cuda to "
    "type_as "
    "data T mT H mH new_empty new_zeros new_full new_ones new_empty_strided requires_grad_ index_select repeat "
    "is_contiguous"
)
"""Methods and attributes of a tensor that give a tensor and compute nothing."""

_PLAIN = VIEWS | _words(
    "size stride shape numel nelement dim ndim ndimension element_size itemsize data_ptr dtype device layout is_cuda "
    "storage_offset untyped_storage requires_grad is_floating_point is_complex get_device copy_ zero_ fill_ names "
    "item tolist is_leaf grad grad_fn backward register_hook retain_grad is_pinned pin_memory record_stream "
    "resize_ set_ share_memory_ is_sparse nbytes apply_ map_ is_shared is_same_size _is_view "
    # containers and strings have methods of these names
    "get index sort add pop copy count format split index update remove values keys items type"
)


@cache
def computing_methods() -> frozenset[str]:
    """Methods of a tensor that compute something."""
    return frozenset(
        n
        for n in dir(torch.Tensor)
        if not n.startswith("_") and n not in _PLAIN and callable(getattr(torch.Tensor, n, None))
    )
