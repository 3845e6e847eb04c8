"""Triton's interpreter as a bounds checker: what is masked out is not touched, all else must be an argument's."""

from __future__ import annotations

import types

import pytest
import torch

from akg_dynamo.agents.lowering.triton_bounds import watched_bounds
from akg_dynamo.agents.lowering.triton_interpreter import interpreted

pytest.importorskip("triton")

SOURCE = """
import triton
import triton.language as tl

@triton.jit
def copy(x, y, n_read, n_written, first, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + first + i, mask=i < n_read, other=0.0)
    tl.store(y + i, v, mask=i < n_written)

@triton.jit
def unmasked(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i))

@triton.jit
def added(x, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(y + i, tl.load(x + i, mask=i < n, other=0.0), mask=i < n)

@triton.jit
def by_address(table, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(table).to(tl.pointer_type(tl.float32))
    tl.store(y + i, tl.load(x + i, mask=i < n, other=0.0), mask=i < n)
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> types.ModuleType:
    import importlib.util

    path = tmp_path_factory.mktemp("kernels") / "bounds_kernels.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("bounds_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    with interpreted():
        spec.loader.exec_module(made)
    return made


def run(module: types.ModuleType, name: str, *args: object, blocks: int = 1) -> str:
    from triton.runtime.errors import InterpreterError

    with interpreted(), watched_bounds() as bounds:
        try:
            getattr(module, name)[(blocks,)](*args, BLOCK=16)
        except InterpreterError:
            assert bounds.broken
    return bounds.broken


def test_what_is_masked_out_may_be_anywhere(module: types.ModuleType) -> None:
    x, y = torch.randn(20), torch.empty(20)
    assert run(module, "copy", x, y, 20, 20, 0, blocks=2) == ""
    assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("read", "written", "first", "says"),
    [
        (21, 20, 0, "reads 4 bytes, 0 past the end"),
        (20, 23, 0, "writes 4 bytes, 0 past the end"),
        (20, 20, -1, "reads 4 bytes, 4 before the start"),
        (19, 20, 3, "reads 4 bytes, 0 past the end"),
    ],
)
def test_an_access_past_an_end_is_seen_and_not_carried_out(
    module: types.ModuleType, read: int, written: int, first: int, says: str
) -> None:
    whole = torch.zeros(3, 40)
    x, y = whole[0, 10:30].fill_(1), whole[2, 10:30]  # a storage larger than they are
    assert says in run(module, "copy", x, y, read, written, first, blocks=2)
    assert bool((whole[2, :10] == 0).all())
    assert bool((whole[2, 30:] == 0).all())


def test_without_a_mask(module: types.ModuleType) -> None:
    assert run(module, "unmasked", torch.ones(16), torch.empty(16)) == ""
    assert "reads" in run(module, "unmasked", torch.ones(15), torch.empty(16))
    assert "writes" in run(module, "unmasked", torch.ones(16), torch.empty(15))
    assert run(module, "unmasked", torch.ones(1).expand(16)[:16], torch.empty(16)) != ""  # one element, however often


def test_atomics(module: types.ModuleType) -> None:
    y = torch.zeros(16)
    assert run(module, "added", torch.ones(12), y[:12], 12) == ""
    assert float(y.sum()) == 12
    assert "updates 4 bytes, 0 past the end" in run(module, "added", torch.ones(13), y[:12], 13)


@pytest.mark.parametrize("x_at", [0, 32, 1000])  # before y in memory, just after it, far from it
def test_addresses_from_a_table_are_not_known(module: types.ModuleType, x_at: int) -> None:
    whole = torch.zeros(2000)
    x, y = whole[x_at : x_at + 12].fill_(1), whole[16:28]
    table = torch.tensor([x.data_ptr()])
    assert run(module, "by_address", table, y, 12) == ""
    assert torch.equal(x, y)
    assert "writes 4 bytes, 0 past the end" in run(module, "by_address", table, y[:8], 12)


def test_what_lies_beside_an_argument_needs_an_address_of_its_own(module: types.ModuleType) -> None:
    y = torch.zeros(2000)[1000:1012]
    before = run(module, "by_address", torch.tensor([y.data_ptr() - 48, 5000]), y, 12)
    assert before == ""  # a table may name what the judge does not know
    inside = torch.tensor([y.data_ptr() + 16])
    assert "reads 4 bytes, 0 past the end" in run(module, "by_address", inside, y, 12)  # on from within an argument
    indices = torch.arange(12)  # no addresses: they excuse nothing
    assert "reads 8 bytes, 8 before the start" in run(module, "copy", indices, torch.zeros(12), 12, 12, -1)


def test_a_broadcast_table_is_not_laid_out(module: types.ModuleType) -> None:
    x, y = torch.ones(12), torch.zeros(12)
    assert run(module, "by_address", torch.tensor([x.data_ptr()]).expand(1 << 40), y, 12) == ""
    assert torch.equal(x, y)
