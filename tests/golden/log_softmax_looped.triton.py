# log_softmax_looped: x in bf16, y out bf16
import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice


@triton.jit
def largest(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def log_softmax_looped(x_ptr, y_ptr):
    i = tl.program_id(0)
    top_lanes = tl.full([4096], float("-inf"), tl.float32)
    for j_start in range(0, 128256, 4096):
        j = j_start + tl.arange(0, 4096)
        j_mask = j < 128256
        x = tl.load(x_ptr + i * 128256 + j, mask=j_mask, other=float("-inf"))
        top_lanes = tl.maximum(top_lanes, x.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)
    top = tl.reduce(top_lanes, 0, largest)
    total_lanes = tl.full([4096], 0.0, tl.float32)
    for j_start in range(0, 128256, 4096):
        j = j_start + tl.arange(0, 4096)
        j_mask = j < 128256
        x = tl.load(x_ptr + i * 128256 + j, mask=j_mask)
        total_lanes = total_lanes + tl.where(j_mask, tl.exp(x.to(tl.float32) - top), 0.0)
    total = tl.sum(total_lanes, axis=0)
    shift = top + libdevice.log(total)
    for j_start in range(0, 128256, 4096):
        j = j_start + tl.arange(0, 4096)
        j_mask = j < 128256
        x = tl.load(x_ptr + i * 128256 + j, mask=j_mask)
        tl.store(y_ptr + i * 128256 + j, (x.to(tl.float32) - shift).to(tl.bfloat16), mask=j_mask)
