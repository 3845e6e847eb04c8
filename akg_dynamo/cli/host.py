"""What this machine has and lacks: the facts behind `akg doctor`, and the check before anything is generated."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from akg_dynamo.agents.coder import toolchain, triton_toolchain
from akg_dynamo.cache.store import Store
from akg_dynamo.core.errors import JudgeError, ToolchainError
from akg_dynamo.core.protection import Protection
from akg_dynamo.core.targets import cuda_arch, default_dsl

_PROBE = """\
#include <cmath>
extern "C" void probe(float* x, long n) {
#pragma omp parallel for
  for (long i = 0; i < n; ++i) x[i] = std::exp(x[i]);
}
"""
_OPTIONAL = {
    "triton": "kernels for CUDA",
    "torch_npu": "Ascend devices",
    "litellm": "kernels written by a language model",
    "transformers": "the example models",
}


def require_compiler() -> str:
    """The C++ compiler's path, after it has built a small OpenMP library.

    Raises:
        ToolchainError: there is none, or it fails.
    """
    path = toolchain.compiler()
    with tempfile.TemporaryDirectory(prefix="akg-probe-") as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(_PROBE)
        build, built = [path, *toolchain.FLAGS, str(source)], source.with_suffix(".so")
        try:
            done = subprocess.run(
                [*build, "-o", str(built)], capture_output=True, text=True, errors="replace", timeout=60, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolchainError(
                f"the C++ compiler {path} cannot be run: {error}. Set CXX to one that works."
            ) from error
        if done.returncode == 0 and not built.exists():
            raise ToolchainError(
                f"the C++ compiler {path} makes nothing of a small program. Set CXX to one that works."
            )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ToolchainError(
            f"the C++ compiler {path} fails on a small OpenMP program (exit code {done.returncode}): "
            f"{said[0] if said else 'it says nothing'}. Install a working g++ with OpenMP, or set CXX to one."
        )
    return path


@dataclass(frozen=True)
class Health:
    """`missing` stops the product; `optional` does not.

    kept_from: by device, what candidates that nobody trusts are kept from while they are judged, and by what.
    by_rules_kept_from: the same of kernels by rules.
    """

    facts: Mapping[str, str]
    missing: tuple[str, ...]
    optional: Mapping[str, str]
    kept_from: Mapping[str, Protection]
    by_rules_kept_from: Mapping[str, Protection]


def examine() -> Health:
    """Looks at everything the product depends on."""
    missing: list[str] = []
    try:
        compiler = require_compiler()
        version = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, errors="replace", check=False
        ).stdout
        compiler = f"{compiler} ({version.splitlines()[0]})" if version else compiler
    except ToolchainError as error:
        compiler = "none that works"
        missing.append(str(error))
    store = Store()
    problems = store.check()
    missing += [f"cache: {problem}" for problem in problems]
    usable = f"{len(store.ls())} entries, {store.size_bytes() / 1e6:.1f} MB"
    facts = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "backends": "; ".join(_backends()),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "threads": f"{torch.get_num_threads()} used by torch, {os.cpu_count()} in the machine",
        "C++ compiler": compiler,
        "cache": f"{store.folder} ({usable if not store.trouble else 'cannot be used'})",
    }
    if torch.cuda.is_available():
        facts |= _cuda_facts()
        if triton_toolchain.version_text() == "none":
            missing.append("triton, without which nothing is generated for the CUDA device: pip install triton")
    absent = {name: why for name, why in _OPTIONAL.items() if importlib.util.find_spec(name) is None}
    kept_from: dict[str, Protection] = {}
    by_rules: dict[str, Protection] = {}
    try:
        kept_from, by_rules = _kept_from()
    except JudgeError as error:
        missing.append(f"the judge does not work here: {error}")
    return Health(facts, tuple(missing), absent, kept_from, by_rules)


def _kept_from() -> tuple[dict[str, Protection], dict[str, Protection]]:
    """Has the judge start processes for candidates on each kind of device, and asks what confines them: those that
    nobody trusts, and kernels by rules.
    """
    from akg_dynamo.agents.verifier import Judge

    with Judge(keep_warm=False) as judge:
        devices = ["cpu", "cuda"] if cuda_arch() else ["cpu"]
        untrusted, trusted = ({d: judge.protection(d, trusted=t) for d in devices} for t in (False, True))
    return untrusted, trusted


def _backends() -> list[str]:
    """What kernels can be generated for here."""
    found = [f"cpu (dsl {default_dsl('cpu')}, arch native)"]
    arch = cuda_arch()
    return [*found, f"cuda (dsl {default_dsl('cuda')}, arch {arch})"] if arch else found


def _cuda_facts() -> dict[str, str]:
    """The GPUs, their driver, and what torch and Triton were built for."""
    count = torch.cuda.device_count()
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    more = f", {count} of them" if count > 1 else ""
    return {
        "GPU": f"{about.name} ({cuda_arch()}, {about.multi_processor_count} multiprocessors, "
        f"{about.total_memory / 2**30:.0f} GiB){more}",
        "driver": _driver(),
        "CUDA": f"{torch.version.cuda} in torch",
        "triton": triton_toolchain.version_text().removeprefix("triton "),
    }


def _driver() -> str:
    """The NVIDIA driver's version, by the tool that comes with it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown: nvidia-smi does not say"
    return done.stdout.partition("\n")[0].strip()
