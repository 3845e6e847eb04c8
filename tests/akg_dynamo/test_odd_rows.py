"""Copies of rows at odd addresses: values in Triton's interpreter, and that the kernel compiles for GPUs."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton")

from akg_dynamo import odd_rows  # noqa: E402
from akg_dynamo.agents.lowering.triton_interpreter import interpreted  # noqa: E402


@pytest.mark.parametrize("shape", [(3, 5), (4, 64), (2, 2500), (1, 1), (0, 7), (7, 0)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_values(shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = shape
    source = torch.randn(rows, columns + 3).to(dtype)[:, 1 : columns + 1]
    whole = torch.full((rows, columns + 2), 7.0).to(dtype)
    with interpreted():
        monkeypatch.setattr(odd_rows, "_copy", triton.jit(odd_rows._copy.fn))
        odd_rows.copy_rows(whole[:, :columns], source)
    assert torch.equal(whole[:, :columns], source)
    assert (whole[:, columns:] == 7).all(), "nothing beside the rows is written"


def test_rows_beyond_the_reach_of_32_bits_are_addressed() -> None:
    """The row's number is 64 bits wide before it is multiplied by a distance."""
    assert any(wide in _compile(90).asm["ptx"] for wide in ("mul.wide.s32", "mad.wide.s32", "mul.lo.s64", "mad.lo.s64"))


@pytest.mark.parametrize("arch", [80, 90])
def test_it_compiles(arch: int) -> None:
    assert _compile(arch).asm["cubin"]


def _compile(arch: int):  # type: ignore[no-untyped-def]
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    integers = dict.fromkeys(("columns", "chunks", "source_stride", "to_stride"), "i32")
    signature = {"source": "*bf16", "to": "*bf16", **integers, "BLOCK": "constexpr"}
    source = ASTSource(odd_rows._copy, signature, constexprs={"BLOCK": 1024})
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
