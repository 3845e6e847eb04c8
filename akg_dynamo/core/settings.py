"""The environment, read here and nowhere else.

AKG_CACHE_DIR   where verdicts, sources and built kernels are kept (default: the user's cache folder)
AKG_JUDGE_STDERR  set: what the judge itself prints on stderr is shown (never what candidates print)
NVIDIA_TF32_OVERRIDE  NVIDIA's libraries use TF32 (1) or do not (0), whatever torch asks them for
CXX             the C++ compiler (default: the first of g++, c++, clang++ on PATH)
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder; it need not exist."""
    chosen = os.environ.get("AKG_CACHE_DIR", "")
    if chosen:
        return Path(os.path.expanduser(chosen))  # unlike Path.expanduser, leaves a user that is not known
    import platformdirs  # 2 ms that a caller with its own folder does not pay

    return Path(platformdirs.user_cache_dir("akg-dynamo", appauthor=False))


def cxx() -> str | None:
    """The compiler the user named, if any."""
    return os.environ.get("CXX") or None


def tf32_override() -> str:
    """What NVIDIA's libraries were told of TF32, if anything."""
    return os.environ.get("NVIDIA_TF32_OVERRIDE", "")


def judge_stderr() -> bool:
    """Whether the judge's processes write to this program's stderr."""
    return bool(os.environ.get("AKG_JUDGE_STDERR"))
