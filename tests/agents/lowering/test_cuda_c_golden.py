"""The generated CUDA C of the four programs: as files to read, and as machine code for two GPUs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cuda_goldens import goldens
from cuda_lowered import compiled

from akg_dynamo.agents.lowering.cuda_c import lower

FOLDER = Path(__file__).parents[2] / "golden"
NAMES = sorted(goldens())


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    golden = goldens()[name]
    path = FOLDER / f"{name}.cu"
    assert lower(golden.sketch, sizes=golden.sizes).source == path.read_text(), f"{path} differs: make golden"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", NAMES)
def test_machine_code(name: str, arch: int) -> None:
    """It compiles without a GPU; registers and shared memory are bounded, and no registers are spilled."""
    golden = goldens()[name]
    kernel = lower(golden.sketch, sizes=golden.sizes)
    usage = compiled(kernel, arch)
    assert sorted(usage) == sorted(phase.name for phase in kernel.phases)
    for phase in kernel.phases:
        assert usage[phase.name].registers <= golden.registers
        assert usage[phase.name].local_bytes == 0
        assert phase.shared_bytes <= golden.shared_bytes
