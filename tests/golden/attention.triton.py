# attention: q in f16, k in f16, v in f16, scale in f16, o out f16
import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice


@triton.jit
def largest(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def attention(q_ptr, k_ptr, v_ptr, scale_ptr, o_ptr, T: tl.int64, S: tl.int64):
    n_t = tl.cdiv(T, 64).to(tl.int32)
    pid = tl.program_id(0)
    h = pid // n_t
    t = (pid % n_t).to(tl.int64) * 64 + tl.arange(0, 64)
    t_mask = t < T
    d = tl.arange(0, 64)
    scale = tl.load(scale_ptr)
    factor = scale.to(tl.float32)
    query = tl.load(q_ptr + h * (T * 64) + t[:, None] * 64 + d[None, :], mask=t_mask[:, None], other=0.0)
    acc = tl.full([64, 64], 0.0, tl.float32)
    top = tl.full([64], float("-inf"), tl.float32)
    total = tl.full([64], 0.0, tl.float32)
    for s_start in range(0, S, 64):
        s = s_start + tl.arange(0, 64)
        s_mask = s < S
        k = tl.load(k_ptr + h * (S * 64) + s[None, :] * 64 + d[:, None], mask=s_mask[None, :], other=0.0)
        score = tl.dot(query, k) * factor
        score_1 = tl.where((s - S)[None, :] <= (t - T)[:, None], score, float("-inf"))
        peak = tl.maximum(
            top,
            tl.reduce(tl.where(s_mask[None, :], score_1, float("-inf")), 1, largest),
            propagate_nan=tl.PropagateNan.ALL,
        )
        safe = tl.where(peak == float("-inf"), 0.0, peak)
        rescale = libdevice.exp(top - safe)
        weight = tl.exp(score_1 - safe[:, None])
        total = total * rescale + tl.sum(tl.where(s_mask[None, :], weight, 0.0), axis=1)
        v = tl.load(v_ptr + h * (S * 64) + s[None, :] * 64 + d[:, None], mask=s_mask[None, :], other=0.0)
        t36 = tl.dot(tl.where(s_mask[None, :], weight.to(tl.float16), 0.0), tl.trans(v))
        acc = acc * rescale[:, None] + t36
        top = peak
    tl.store(
        o_ptr + h * (T * 64) + t[:, None] * 64 + d[None, :],
        (acc / total[:, None]).to(tl.float16),
        mask=t_mask[:, None],
    )
