# softmax: x in f32, y out f32
import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice


@triton.jit
def largest(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def softmax(x_ptr, y_ptr):
    i = tl.program_id(0) * 2 + tl.arange(0, 2)
    j = tl.arange(0, 1024)
    j_mask = j < 1000
    v = tl.load(x_ptr + i[:, None] * 1000 + j[None, :], mask=j_mask[None, :], other=float("-inf"))
    e = libdevice.exp(v - tl.reduce(v, 1, largest)[:, None])
    tl.store(
        y_ptr + i[:, None] * 1000 + j[None, :],
        tl.div_rn(e, tl.sum(tl.where(j_mask[None, :], e, 0.0), axis=1)[:, None]),
        mask=j_mask[None, :],
    )
