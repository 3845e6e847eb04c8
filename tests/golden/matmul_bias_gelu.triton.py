# matmul_bias_gelu: a in f16, b in f16, bias in f16, y out f16
import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice


@triton.jit
def matmul_bias_gelu(a_ptr, b_ptr, bias_ptr, y_ptr):
    pid = tl.program_id(0)
    m = pid // 32 * 128 + tl.arange(0, 128)
    n = pid % 32 * 128 + tl.arange(0, 128)
    acc = tl.full([128, 128], 0.0, tl.float32)
    for k_start in tl.range(0, 4096, 64, num_stages=3):
        k = k_start + tl.arange(0, 64)
        a = tl.load(a_ptr + m[:, None] * 4096 + k[None, :])
        b = tl.load(b_ptr + k[None, :] * 4096 + n[:, None])
        acc = acc + tl.dot(a, tl.trans(b))
    bias = tl.load(bias_ptr + n)
    t = acc + bias.to(tl.float32)[None, :]
    tl.store(y_ptr + m[:, None] * 4096 + n[None, :], (0.5 * t * (1.0 + libdevice.erf(t * 0.70710677))).to(tl.float16))
