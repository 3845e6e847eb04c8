"""The Coder by rules: a design becomes a kernel in the target's DSL, by that DSL's lowering and module template."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from akg_dynamo.agents.coder import builders
from akg_dynamo.core.errors import ToolchainError
from akg_dynamo.core.types import Candidate, Design, Subgraph, Target

# What a lowering needs is imported when its DSL is used.


def _cpp(sub: Subgraph, design: Design, name: str, numerics: str) -> Candidate:
    from akg_dynamo.agents.coder import module
    from akg_dynamo.agents.lowering.cpp import lower

    return module.render(sub, design, lower(design.sketch), name, fp_fusion=numerics != "eager")


def _cpp_version() -> str:
    from akg_dynamo.agents.coder import toolchain

    return toolchain.version_text()


def _load_cpp(candidate: Candidate, build_dir: Path) -> types.ModuleType:
    from akg_dynamo.agents.coder import module

    return module.load(candidate, build_dir)


def _build_cpp(module: types.ModuleType, target: Target) -> None:
    try:
        module.build()
    except RuntimeError as error:  # what the module raises for a compiler's failure
        raise ToolchainError(str(error)) from error


def _triton_cuda(sub: Subgraph, design: Design, name: str, numerics: str) -> Candidate:
    from akg_dynamo.agents.coder import triton_module
    from akg_dynamo.agents.lowering.triton_cuda import lower

    kernel = lower(design.sketch, sizes=triton_module.known_sizes(design), exact=numerics == "eager")
    return triton_module.render(sub, design, kernel, name, fp_fusion=numerics != "eager")


def _triton_version() -> str:
    from akg_dynamo.agents.coder import triton_toolchain

    return triton_toolchain.version_text()


def _load_triton(candidate: Candidate, build_dir: Path) -> types.ModuleType:
    from akg_dynamo.agents.coder import triton_toolchain

    return triton_toolchain.load(candidate, build_dir)


def _build_triton(module: types.ModuleType, target: Target) -> None:
    from akg_dynamo.agents.coder import triton_toolchain

    triton_toolchain.build(module, target)


@dataclass(frozen=True)
class _Dsl:
    """How kernels of one DSL are written, executed as modules and compiled, and the version of what compiles them.

    compiles_here: the compiler is Python, and no program of its own.
    """

    write: Callable[[Subgraph, Design, str, str], Candidate]
    load: Callable[[Candidate, Path], types.ModuleType]
    build: Callable[[types.ModuleType, Target], None]
    version: Callable[[], str]
    compiles_here: bool = False


_DSLS: Mapping[str, _Dsl] = {
    "cpp": _Dsl(_cpp, _load_cpp, _build_cpp, _cpp_version),
    "triton_cuda": _Dsl(_triton_cuda, _load_triton, _build_triton, _triton_version, compiles_here=True),
}


def write(sub: Subgraph, design: Design, target: Target, name: str, *, numerics: str = "bounded") -> Candidate:
    """The kernel of a design, in the target's DSL. numerics: as in the options; "eager" keeps its rounding points.

    Raises:
        LoweringError: the DSL cannot express the design.
    """
    return _DSLS[target.dsl].write(sub, design, name, numerics)


def built(candidate: Candidate, target: Target, build_dir: Path) -> types.ModuleType:
    """The candidate's module, compiled for the target: nothing is left to compile at the first launch.

    Raises:
        ToolchainError: the DSL's compiler is missing or refuses the source, or the folder cannot be written.
    """
    dsl = _DSLS[candidate.dsl]
    try:
        module = dsl.load(candidate, build_dir)
        dsl.build(module, target)
    except OSError as error:
        raise ToolchainError(f"cannot build in {build_dir}: {error}") from error
    return module


def build(candidate: Candidate, target: Target, build_dir: Path) -> None:
    """Compile it, in another process if this one would be kept from its own work: then it is not loaded here.

    Raises:
        ToolchainError: as `built`.
    """
    if not (_DSLS[candidate.dsl].compiles_here and builders.build(candidate, target, build_dir)):
        built(candidate, target, build_dir)


def toolchain_version(target: Target) -> str:
    """Everything about the DSL's compiler that can change what a kernel computes, on one line."""
    return _DSLS[target.dsl].version()
