# layer_norm: x in bf16, w in bf16, b in bf16, y out bf16
import triton
import triton.language as tl


@triton.jit
def layer_norm(x_ptr, w_ptr, b_ptr, y_ptr):
    i = tl.program_id(0)
    j = tl.arange(0, 4096)
    x = tl.load(x_ptr + i * 4096 + j)
    v = x.to(tl.float32)
    mean = tl.sum(v, axis=0) * 0.00024414062
    d = v - mean
    var = tl.sum(d * d, axis=0) * 0.00024414062
    w = tl.load(w_ptr + j)
    scaled = d * tl.div_rn(1.0, tl.sqrt_rn(var + 1e-05)) * w.to(tl.float32)
    b = tl.load(b_ptr + j)
    tl.store(y_ptr + i * 4096 + j, (scaled + b.to(tl.float32)).to(tl.bfloat16))
