# transpose_add: x in f32, c in f32, y out f32
import triton
import triton.language as tl


@triton.jit
def transpose_add(x_ptr, c_ptr, y_ptr):
    pid = tl.program_id(0)
    i = pid // 64 * 64 + tl.arange(0, 64)
    j = pid % 64 * 64 + tl.arange(0, 64)
    x = tl.load(x_ptr + j[None, :] * 4096 + i[:, None])
    c = tl.load(c_ptr + i[:, None] * 4096 + j[None, :])
    tl.store(y_ptr + i[:, None] * 4096 + j[None, :], x + c)
