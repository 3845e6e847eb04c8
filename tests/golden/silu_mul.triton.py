# silu_mul: x in bf16, g in bf16, y out bf16
import triton
import triton.language as tl


@triton.jit
def silu_mul(x_ptr, g_ptr, y_ptr):
    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    x = tl.load(x_ptr + i)
    v = x.to(tl.float32)
    g = tl.load(g_ptr + i)
    tl.store(y_ptr + i, (v * tl.sigmoid(v) * g.to(tl.float32)).to(tl.bfloat16))
