# silu_mul: x in bf16, g in bf16, y out bf16
import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice


@triton.jit
def divide(a, b):
    # Correctly rounded: the / of f32 is not.
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def sigmoid(x):
    return divide(tl.full([], 1.0, x.dtype), 1.0 + libdevice.exp(-x))


@triton.jit
def silu_mul(x_ptr, g_ptr, y_ptr, N: tl.int64):
    i = tl.program_id(0).to(tl.int64) * 1024 + tl.arange(0, 1024)
    i_mask = i < N
    x = tl.load(x_ptr + i, mask=i_mask)
    v = x.to(tl.float32)
    g = tl.load(g_ptr + i, mask=i_mask)
    tl.store(y_ptr + i, (v * sigmoid(v) * g.to(tl.float32)).to(tl.bfloat16), mask=i_mask)
