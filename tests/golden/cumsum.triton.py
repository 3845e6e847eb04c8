# cumsum: x in f32, y out f32
import triton
import triton.language as tl


@triton.jit
def cumsum(x_ptr, y_ptr):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    before = tl.full([4], 0.0, tl.float32)
    for j_start in range(0, 5000, 1024):
        j = j_start + tl.arange(0, 1024)
        j_mask = j < 5000
        t = tl.load(x_ptr + i[:, None] * 5000 + j[None, :], mask=j_mask[None, :], other=0.0)
        tl.store(y_ptr + i[:, None] * 5000 + j[None, :], tl.cumsum(t, axis=1) + before[:, None], mask=j_mask[None, :])
        before = before + tl.sum(t + 0.0, axis=1)
