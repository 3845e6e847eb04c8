"""What a candidate may know of its surroundings: where tools and libraries are, and how many threads to use."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CXX", "CC")
_KEPT_PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "TRITON_")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|PROXY|URL|URI|DSN", re.IGNORECASE)
_FOLDERS = {
    "HOME": "home", "TMPDIR": "tmp", "TMP": "tmp", "TEMP": "tmp", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "home",
    "XDG_DATA_HOME": "home", "XDG_RUNTIME_DIR": "tmp", "TRITON_HOME": "cache", "TRITON_CACHE_DIR": "cache/triton",
    "TORCHINDUCTOR_CACHE_DIR": "cache/inductor", "TORCH_EXTENSIONS_DIR": "build", "CUDA_CACHE_PATH": "cache/cuda",
}  # fmt: skip
BUILD = "build"
"""The folder for what a candidate builds, in its scratch folder."""


def clean(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that a candidate needs; none that could be a secret, whatever its name begins with."""
    needed = {k: v for k, v in variables.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
    return {k: v for k, v in needed.items() if not _SECRET.search(k)}


def move_into(folder: str) -> None:
    """Make the scratch folder home, temporary folder, cache and working directory of this process."""
    for name in sorted(set(_FOLDERS.values())):
        Path(folder, name).mkdir(mode=0o700, parents=True, exist_ok=True)
    os.umask(0o077)
    os.chdir(folder)
    inside = {name: f"{folder}/{place}" for name, place in _FOLDERS.items()}
    kept = clean(os.environ)
    os.environ.clear()
    os.environ.update(kept | inside | {"USER": "candidate", "LOGNAME": "candidate"})
    tempfile.tempdir = None  # asked for anew
