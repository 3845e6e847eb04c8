"""The flags are read however they were set, and another process can take them over."""

from __future__ import annotations

import pickle
import subprocess
import sys

CHANGES = (
    ("torch.set_float32_matmul_precision('high')", "legacy() == ('high', True, True)"),
    ("torch.set_float32_matmul_precision('medium')", "legacy() == ('medium', True, True)"),
    ("torch.backends.cuda.matmul.allow_tf32 = True", "torch.backends.cuda.matmul.allow_tf32"),
    ("torch.backends.cudnn.allow_tf32 = False", "legacy() == ('highest', False, False)"),
    ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "True"),
    ("torch.backends.cudnn.conv.fp32_precision = 'ieee'", "True"),
    ("torch.backends.fp32_precision = 'tf32'", "True"),
    ("torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False", "True"),
    ("torch.backends.cuda.matmul.allow_fp16_accumulation = True", "True"),
    ("torch.backends.cuda.enable_flash_sdp(False)", "not torch.backends.cuda.flash_sdp_enabled()"),
    ("torch.use_deterministic_algorithms(True)", "torch.are_deterministic_algorithms_enabled()"),
)

# Every change in a process of its own: torch cannot undo having seen both its older and its newer switches. They are
# forks of one process, since loading torch takes a second.
SCRIPT = """
import os, pickle, sys, torch
from akg_dynamo.cache.flags import EagerFlags

def legacy():
    cuda, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return torch.get_float32_matmul_precision(), cuda, cudnn

def in_fork(work):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, pickle.dumps(work()))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        return pickle.loads(answer.read())

def changed(change):
    exec(change)
    return EagerFlags.now()

def taken_over(flags, then):
    flags.apply()
    return EagerFlags.now(), eval(then)

before = EagerFlags.now()
for change, then in pickle.loads(bytes.fromhex(sys.argv[1])):
    flags = in_fork(lambda: changed(change))
    assert flags != before, change
    found, holds = in_fork(lambda: taken_over(flags, then))
    assert found == flags, (change, found, flags)
    assert holds, (change, then)
    assert in_fork(lambda: taken_over(before, "True"))[0] == before
"""


def test_flags_are_read_and_taken_over() -> None:
    command = [sys.executable, "-c", SCRIPT, pickle.dumps(CHANGES).hex()]
    done = subprocess.run(command, check=False, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
