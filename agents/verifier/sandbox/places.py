"""Which files a candidate may reach: the system's, Python's, the tools of a build; of the user's, none."""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from pathlib import Path

_SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/sys", "/nix/store", "/gnu/store",
    "/run/current-system", "/run/opengl-driver",
)  # fmt: skip
_SETTINGS = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives", "localtime", "timezone",
    "nsswitch.conf", "passwd", "group", "machine-id", "OpenCL", "nvidia", "nvidia-container-runtime", "vulkan",
)  # fmt: skip
# Of processes, a candidate sees itself: the command lines of others can hold secrets.
_FACTS = (
    "cpuinfo", "meminfo", "stat", "devices", "modules", "filesystems", "version", "uptime", "loadavg", "sys", "driver",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom")
_GPU_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps", "dxg", "dri")
_IN_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "LIBRARY_PATH", "CPATH", "CUDA_HOME", "CUDA_PATH")


def readable() -> list[str]:
    """What can be read and executed, beside what can be written."""
    found = [*_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS), *(f"/proc/{name}" for name in _FACTS)]
    found.append(os.path.realpath("/proc/self"))
    return [*found, *_of_python()]


def own_proc(device: str, *, widely: bool) -> list[str]:
    """What of /proc can be written: CUDA names its threads there, and does not start where it cannot."""
    if device == "cpu":
        return []
    return ["/proc"] if widely else [os.path.realpath("/proc/self")]


def devices(device: str) -> list[str]:
    """What can be read, written and controlled."""
    names = list(_DEVICES)
    if device != "cpu":
        names += [*_GPU_DEVICES, *(name for name in os.listdir("/dev") if name.removeprefix("nvidia").isdigit())]
    return [f"/dev/{name}" for name in names]


@functools.cache
def _of_python() -> list[str]:
    """Python, its packages, ours, and the folders that variables name for tools and libraries."""
    ours = {str(Path(path).resolve()) for name in list(sys.modules) for path in _package_path(name)}
    installed = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    named = {path for name in _IN_VARIABLES for path in os.environ.get(name, "").split(os.pathsep)}
    compiler = os.environ.get("CXX", "")
    named |= {os.path.dirname(os.path.realpath(compiler))} if os.path.isabs(compiler) else set()
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.path.realpath(sys.executable))}
    archives = {path for path in sys.path if os.path.isfile(path)}
    found = {os.path.abspath(path) for path in ours | installed | named | prefixes | archives if path}
    return sorted(path for path in found if not _is_private(path))


def _package_path(name: str) -> list[str]:
    """The folders of one of our packages, or of one that another distribution put elsewhere."""
    path = getattr(sys.modules[name], "__path__", None)
    return list(path) if path is not None and ("." not in name or name.startswith("akg_dynamo.")) else []


def _is_private(path: str) -> bool:
    """Whether that is somebody's whole home folder, or contains it: a folder on PATH, say, that was put there badly."""
    home = os.environ.get("HOME") or "/root"
    return os.path.commonpath([os.path.realpath(home), os.path.realpath(path)]) == os.path.realpath(path)
