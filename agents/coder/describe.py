"""What a kernel's module says of its tensors: sizes as source text, what they look like, and quick checks of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from akg_dynamo.core.types import Design, Dim, Role, Subgraph, TensorSpec


@dataclass(frozen=True)
class Described:
    """A tensor as the module's docstring shows it."""

    name: str
    dtype: str
    shape_text: str
    stride_text: str


def describe(name: str, spec: TensorSpec) -> Described:
    """`name` as described by `spec`; strides only where they are not those of a contiguous tensor."""
    return Described(name, spec.dtype, _list(spec.shape), "" if is_contiguous(spec) else _list(spec.stride))


def tuple_text(dims: Sequence[Dim]) -> str:
    """Sizes as a Python tuple."""
    return f"({', '.join(map(str, dims))}{',' if len(dims) == 1 else ''})"


def is_contiguous(spec: TensorSpec) -> bool:
    """Whether its strides are certainly those of a contiguous tensor."""
    step: Dim = 1
    for size, stride in zip(reversed(spec.shape), reversed(spec.stride), strict=True):
        if stride != step:
            return False
        step = step * size if isinstance(step, int) and isinstance(size, int) else -1
    return True


def is_static(*dims: Dim) -> bool:
    """Whether all of them are known."""
    return all(isinstance(d, int) for d in dims)


def in_place_pairs(sub: Subgraph, design: Design, shareable: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
    """Pairs (output, input) of the subgraph, by position, that may be one tensor: what a module says as IN_PLACE.

    shareable: the sketch's tensors that the lowering lets be one.
    """
    whole = {b.tensor: b for b in design.tensors if b.offset == 0}
    pairs: list[tuple[int, int]] = []
    for output, source in shareable:
        if output not in whole or source not in whole:
            continue
        o, i = whole[output].index, whole[source].index
        same = [b.tensor for b in design.tensors if (b.role, b.index) in ((Role.OUTPUT, o), (Role.INPUT, i))]
        if sorted(same) == sorted((output, source)) and sub.output_specs[o] == sub.inputs[i]:
            pairs.append((o, i))
    return sorted(pairs)


def fits(names: Sequence[str], specs: Sequence[TensorSpec], device_test: str) -> list[str]:
    """Quick checks, one line per input: they may refuse what `checks` accepts, never the other way round.

    device_test: an attribute of a tensor that is true on the kernel's device ("is_cpu").
    """
    lines: list[str] = []
    for name, spec in zip(names, specs, strict=True):
        contiguous = is_contiguous(spec)
        laid_out = f"{name}.is_contiguous()" if contiguous else f"{name}.stride() == {tuple_text(spec.stride)}"
        joint = "and " if lines else ""
        lines.append(
            f"{joint}{name}.{device_test} and {name}.dtype is torch.{spec.dtype} "
            f"and {name}.shape == {tuple_text(spec.shape)} and {laid_out}"
        )
    return lines or ["True"]


def checks(names: Sequence[str], specs: Sequence[TensorSpec]) -> list[str]:
    """A call of the module's `_check` for each input."""
    return [
        f"_check({i}, {name}, torch.{spec.dtype}, {tuple_text(spec.shape)}, {tuple_text(spec.stride)})"
        for i, (name, spec) in enumerate(zip(names, specs, strict=True))
    ]


def _list(dims: Sequence[Dim]) -> str:
    return f"[{', '.join(map(str, dims))}]"
