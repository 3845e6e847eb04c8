# sum_split: x in f32, parts tmp f32, y out f32
import triton
import triton.language as tl


@triton.jit
def sum_split_0(x_ptr, parts_ptr):
    p = tl.program_id(0)
    total_lanes = tl.full([2048], 0.0, tl.float32)
    for j_start in range(p * 65536, (p + 1) * 65536, 2048):
        j = j_start + tl.arange(0, 2048)
        x = tl.load(x_ptr + j)
        total_lanes = total_lanes + x
    total = tl.sum(total_lanes, axis=0)
    tl.store(parts_ptr + p, total)


@triton.jit
def sum_split_1(parts_ptr, y_ptr):
    q = tl.arange(0, 256)
    parts = tl.load(parts_ptr + q)
    tl.store(y_ptr, tl.sum(parts, axis=0))
