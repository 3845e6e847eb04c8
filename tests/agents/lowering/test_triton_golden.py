"""The generated Triton of a few sketches: as files to read, and as machine code for two GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
from triton_goldens import goldens
from triton_lowered import compile_phase, load

from akg_dynamo.agents.lowering.triton_cuda import lower

FOLDER = Path(__file__).parents[2] / "golden"
NAMES = sorted(goldens())


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    golden = goldens()[name]
    path = FOLDER / f"{name}.triton.py"
    assert lower(golden.sketch, sizes=golden.sizes).source == path.read_text(), f"{path} differs: make golden"


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", NAMES)
def test_machine_code(name: str, arch: int) -> None:
    """It compiles without a GPU; registers are bounded, and none are spilled."""
    golden = goldens()[name]
    kernel = lower(golden.sketch, sizes=golden.sizes)
    module = load(kernel)
    for phase in kernel.phases:
        usage = compile_phase(getattr(module, phase.name), phase, golden.sketch, arch)
        assert usage.registers <= golden.registers, phase.name
        assert usage.local_bytes == 0, phase.name
        assert usage.shared_bytes <= 160 << 10, phase.name
