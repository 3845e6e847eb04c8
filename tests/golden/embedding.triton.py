# embedding: table in bf16, indices in i64, y out bf16
import triton
import triton.language as tl


@triton.jit
def embedding(table_ptr, indices_ptr, y_ptr, V: tl.int64, N: tl.int64):
    n = tl.program_id(0).to(tl.int64) * 8 + tl.arange(0, 8)
    n_mask = n < N
    row = tl.load(indices_ptr + n, mask=n_mask)
    row_1 = tl.where(row < 0, row + V, row)
    for d_start in range(0, 1024, 256):
        d = d_start + tl.arange(0, 256)
        table = tl.load(
            table_ptr + row_1[:, None] * 1024 + d[None, :],
            mask=(row_1 >= 0)[:, None] & (row_1 < V)[:, None] & n_mask[:, None],
            other=0.0,
        )
        tl.store(y_ptr + n[:, None] * 1024 + d[None, :], table, mask=n_mask[:, None])
