"""Reads the C++ and CUDA in a candidate: headers, calls and names that have no business in a kernel.

It looks at words, not at grammar: what no kernel needs is not to be there at all, used or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from akg_dynamo.agents.verifier.reading_words import computing_methods
from akg_dynamo.core.types import Trick

_LOOKS_LIKE_CPP = re.compile(r"#\s*include|extern\s+\"C\"|__global__|\bvoid\s+\w+\s*\(|\btorch::Tensor\b")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', re.MULTILINE)
_ALLOWED_HEADERS = re.compile(
    r"(c(math|stdint|stddef|string|float|limits|assert|stdlib|stdio|complex)|(math|stdint|stddef|string|float|limits|"
    r"assert|stdlib|stdio|complex|stdbool|inttypes)\.h|algorithm|array|vector|utility|tuple|type_traits|limits|numeric|"
    r"functional|memory|initializer_list|new|bit|cstdalign|string|sstream|stdexcept|iostream|optional|variant|"
    r"(imm|x86|avx\d*\w*|xmm|emm|pmm|arm_neon|arm_sve)\w*\.h|omp\.h|Python\.h|pybind11/\w+\.h|"
    r"torch/(extension|types|library|all|torch|script|csrc/\S+)\.h|ATen/(ATen|cuda/\w+|Parallel|core/\w+)\.h|c10/\S+\.h|"
    r"cuda(_\w+)?\.h|cuda_runtime_api\.h|device_launch_parameters\.h|mma\.h|cooperative_groups(/\w+)?(\.h)?|cuda/\S+|"
    r"vector_types\.h|math_constants\.h|nv/\S+|curand_kernel\.h)$"
)
_HEADERS: tuple[tuple[Trick, str], ...] = (
    (
        Trick.CALLS_TORCH,
        r"cublas|cudnn|cutlass|cute/|thrust|cub/|mkl|cblas|openblas|dnnl|oneapi|nvblas|cusparse|ATen/ops",
    ),
    (Trick.THREADS, r"pthread|^thread$|^future$|^atomic$|sched\.h|^mutex$|condition_variable|stop_token"),
    (Trick.CLOCKS, r"chrono|ctime|time\.h|sys/time"),
    (Trick.FORGES, r"signal"),
    (Trick.HIDES_CALLS, r"dlfcn|link\.h|elf\.h"),
    (Trick.LOOKS_AROUND, r"sys/ptrace|sys/uio|execinfo"),
    (Trick.ESCAPES, r"."),
)
_CALLS: tuple[tuple[Trick, str], ...] = (
    (Trick.CALLS_TORCH, r"(?:cublas|cudnn|cusparse|cblas_|mkl_|dnnl_|LAPACKE_|cutlass)\w*|[sdcz]gem[mv]_?"),
    (
        Trick.HIDES_CALLS,
        r"dlopen|dlsym|dlmopen|syscall|PyRun_\w+|PyEval_(?!SaveThread|RestoreThread)\w+|PyImport_\w+|PyObject_Call\w*",
    ),
    (
        Trick.THREADS,
        r"fork|vfork|clone|pthread_create|std::(?:j?thread|async)|sched_setaffinity|system|popen|exec[lv]p?e?",
    ),
    (Trick.CLOCKS, r"clock_gettime|gettimeofday|clock|time|__rdtscp?|_rdtsc|clock_settime|std::chrono::\w+(?:::now)?"),
    (Trick.FORGES, r"_?exit|_Exit|abort|quick_exit|atexit|raise|kill|signal|sigaction|longjmp|siglongjmp|write|dup2"),
    (Trick.LOOKS_AROUND, r"ptrace|process_vm_\w+|mincore|backtrace"),
    (Trick.PATCHES, r"mprotect|mallopt|malloc_hook|setenv|putenv|unsetenv"),
    (Trick.ESCAPES, r"getenv|fopen|open|openat|mmap|socket|connect|bind|remove|unlink|rename|mkdir|std::[io]?fstream"),
    (Trick.EXHAUSTS, r"sleep|usleep|nanosleep|std::this_thread::\w+"),
    (Trick.UNSYNCHRONISED, r"cudaStreamCreate\w*|cudaLaunchHostFunc|cudaStreamAddCallback|cudaStreamBeginCapture"),
)
_OF_TORCH = re.compile(r"\b(?:at|torch|aten)::([a-z_]\w*)\s*\(")
_ALLOWED_OF_TORCH = frozenset(
    ("empty", "empty_like", "empty_strided", "zeros", "zeros_like", "ones", "full", "full_like", "from_blob", "device")
)
_MOVES_OF_TORCH = frozenset(
    ("contiguous", "clone", "view", "reshape", "_to_copy", "zero_", "fill_Scalar", "empty_memory_format", "size_int",
     "transpose_int", "permute", "expand", "squeeze", "unsqueeze", "narrow", "slice_Tensor", "select_int", "copy_",
     "resize_", "zeros_like", "new_empty", "new_zeros", "detach", "alias", "to_dtype_layout")
)  # fmt: skip
_METHOD = re.compile(r"[.](\w+)\s*\(")
_CONSTRUCTOR = re.compile(r"__attribute__\s*\(\(\s*(?:con|de)structor|\.init_array|\.preinit_array")
_ASSEMBLY = re.compile(r"\b(?:__asm__|asm)\b")


def looks_like_cpp(text: str) -> bool:
    """Whether a string is C++ or CUDA to be compiled."""
    return _LOOKS_LIKE_CPP.search(text) is not None


def read_cpp(text: str, *, cuda: bool) -> Iterator[tuple[Trick, int, str]]:
    """What it does that no kernel does: the trick, the line within the text, and the words."""
    plain = _COMMENT.sub(_blank, text)
    for match in _INCLUDE.finditer(plain):
        name = match[1]
        if not _ALLOWED_HEADERS.match(name):
            trick = next(t for t, pattern in _HEADERS if re.search(pattern, name))
            yield trick, _line(plain, match), f"includes <{name}>"
    plain = _STRING.sub(_blank, _INCLUDE.sub(_blank, plain))
    for trick, pattern in _CALLS:
        for match in re.finditer(rf"(?<![\w.>:])(?:::)?(?:std::)?({pattern})\s*[({{<]", plain):
            if not _is_definition(plain, match):
                yield trick, _line(plain, match), f"calls {match[1]}"
    if "torch" in text or "ATen" in text:
        for match in _OF_TORCH.finditer(plain):
            if match[1] not in _ALLOWED_OF_TORCH:
                yield Trick.CALLS_TORCH, _line(plain, match), f"calls {match[0].rstrip('( ')}"
        for match in _METHOD.finditer(plain):
            if match[1] in computing_methods():
                yield Trick.CALLS_TORCH, _line(plain, match), f"calls .{match[1]}() of a tensor"
    for match in _CONSTRUCTOR.finditer(plain):
        yield Trick.FORGES, _line(plain, match), "runs code when it is loaded or unloaded"
    if not cuda:
        for match in _ASSEMBLY.finditer(plain):
            yield Trick.HIDES_CALLS, _line(plain, match), "has assembly"


def trick_of_call(name: str) -> Trick | None:
    """What calling a function of that name in a library is called, or None if kernels may."""
    if name in ("abort", "exit", "raise", "time", "clock"):  # what compilers' own libraries make them call
        return None
    return next((trick for trick, pattern in _CALLS if re.fullmatch(pattern, name.lower())), None)


def trick_of_operator(name: str) -> Trick | None:
    """The same for an operator of torch."""
    allowed = name in _ALLOWED_OF_TORCH or name in _MOVES_OF_TORCH
    return None if allowed else Trick.CALLS_TORCH


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + text[match.start() : match.end()].lstrip(" ").startswith("\n")


def _is_definition(text: str, match: re.Match[str]) -> bool:
    """Whether a function of that name is defined here, as in `static float time(float x)`."""
    before = text[: match.start()].rstrip()
    return bool(re.search(r"(?:\b(?:void|float|double|int|long|bool|auto|char|half|size_t|unsigned|T)|[*&])$", before))
