"""Norms, softmaxes, losses and their gradients: the algorithm we want, not the one torch decomposes to."""

from __future__ import annotations

from collections.abc import Sequence

from akg_dynamo.agents.designer.calls import Call, NoRule, Result, rule
from akg_dynamo.agents.designer.reductions import variance
from akg_dynamo.agents.designer.sizes import Size, floor_div, product
from akg_dynamo.agents.designer.values import (
    INF,
    V,
    checked,
    exp,
    fn,
    full,
    log,
    maximum,
    minimum,
    number,
    rsqrt,
    take,
    where,
)
from akg_dynamo.agents.sketch.ast import DType

# --------------------------------------------------------------------------------------------------------------------
# Softmax


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def _softmax(c: Call) -> Result:
    x = c.value("self")
    if not x.shape:
        x = x.reshape((1,))  # one element is its own maximum and sum; NaN and Inf still come out as NaN
        return _softmax_over(c, x, 0).reshape(())
    return _softmax_over(c, x, c["dim"] % len(x.shape))


def _softmax_over(c: Call, x: V, dim: int) -> V:
    dims = [dim]
    most = x.reduce("max", dims, keep=True)
    shifted = x - most
    if "log" in c.name:
        return shifted - log(exp(shifted).sum(dims, keep=True))
    weights = exp(shifted)
    result = weights * (1.0 / weights.sum(dims, keep=True))
    return where(most.eq(-INF), 0.0, result) if c.name == "_safe_softmax" else result


@rule("_softmax_backward_data", "_log_softmax_backward_data")
def _softmax_backward(c: Call) -> Result:
    grad, y = c.value("grad_output"), c.value("output")
    dims = [c["dim"] % len(y.shape)] if y.shape else []
    if "log" in c.name:
        return grad - exp(y) * grad.sum(dims, keep=True)
    # The same but for where Inf and NaN come out: each of torch's two kernels has its own form.
    weighted = grad * y
    total = weighted.sum(dims, keep=True)
    return weighted - y * total if c.on_cuda else y * (grad - total)


# --------------------------------------------------------------------------------------------------------------------
# Norms over trailing dims


def _trailing(x: V, normalized: Sequence[Size]) -> list[int]:
    rank = len(x.shape)
    return list(range(rank - len(normalized), rank))


def _as_result(c: Call, k: int, x: V | None) -> V | None:
    if x is None or not c.wants(k):
        return None
    return x.to(c.dtype_of(k)).reshape(c.shape_of(k))


@rule("native_layer_norm")
def _layer_norm(c: Call) -> Result:
    x = c.value("input")
    dims = _trailing(x, c["normalized_shape"])
    spread, mean = variance(x, dims)
    scale = rsqrt(spread + float(c["eps"]))
    y = (x - mean) * scale
    weight, bias = c.maybe("weight"), c.maybe("bias")
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y, _as_result(c, 1, mean), _as_result(c, 2, scale)


@rule("native_layer_norm_backward")
def _layer_norm_backward(c: Call) -> Result:
    dtype = _grad_dtype(c)
    grad, x = c.value("grad_out", dtype), c.value("input", dtype)
    dims = _trailing(x, c["normalized_shape"])
    lead = [d for d in range(len(x.shape)) if d not in dims]
    mean, scale, weight = c.value("mean", dtype), c.value("rstd", dtype), c.maybe("weight", dtype)
    normal = (x - mean) * scale
    scaled = grad if weight is None else grad * weight
    own = weighted = shifted = None
    if c.wants(0):
        inner = scaled - scaled.mean(dims, keep=True) - normal * (scaled * normal).mean(dims, keep=True)
        own = inner * scale
    if c.wants(1):
        weighted = (grad * normal).sum(lead)
    if c.wants(2):
        shifted = grad.sum(lead)
    return _as_result(c, 0, own), _as_result(c, 1, weighted), _as_result(c, 2, shifted)


def _grad_dtype(c: Call) -> DType:
    return next(c.dtype_of(k) for k in range(len(c.specs)) if c.wants(k))


_EPS = {"float64": 2.220446049250313e-16, "float16": 0.0009765625, "bfloat16": 0.0078125}


@rule("_fused_rms_norm")
def _rms_norm(c: Call) -> Result:
    x = c.value("input")
    dims = _trailing(x, c["normalized_shape"])
    spec = c.specs[0]
    assert spec is not None
    eps = c["eps"] if c["eps"] is not None else _EPS.get(spec.dtype, 1.1920928955078125e-07)
    scale = rsqrt((x * x).mean(dims, keep=True) + float(eps))
    y = x * scale
    weight = c.maybe("weight")
    return (y if weight is None else y * weight), _as_result(c, 1, scale)


@rule("_fused_rms_norm_backward")
def _rms_norm_backward(c: Call) -> Result:
    dtype = _grad_dtype(c)
    grad, x, scale = c.value("grad_out", dtype), c.value("input", dtype), c.value("rstd", dtype)
    dims = _trailing(x, c["normalized_shape"])
    lead = [d for d in range(len(x.shape)) if d not in dims]
    weight = c.maybe("weight", dtype)
    normal = x * scale
    scaled = grad if weight is None else grad * weight
    own = (scaled - normal * (scaled * normal).mean(dims, keep=True)) * scale if c.wants(0) else None
    weighted = (grad * normal).sum(lead) if c.wants(1) else None
    return _as_result(c, 0, own), _as_result(c, 1, weighted)


# --------------------------------------------------------------------------------------------------------------------
# Group and batch norm


@rule("native_group_norm")
def _group_norm(c: Call) -> Result:
    x = c.value("input")
    shape = x.shape
    groups = c["group"]
    grouped = x.reshape([shape[0], groups, floor_div(shape[1], groups), *shape[2:]])
    dims = list(range(2, len(grouped.shape)))
    spread, mean = variance(grouped, dims)
    scale = rsqrt(spread + float(c["eps"]))
    weight, bias = c.maybe("weight"), c.maybe("bias")
    saved = _as_result(c, 1, mean), _as_result(c, 2, scale)
    alone = c.on_cuda and product(shape[2:]) == 1
    if (weight is None and bias is None) or alone:
        y = ((grouped - mean) * scale).reshape(shape)
        if weight is not None:
            y = y * _per_channel(weight, len(shape))
        if bias is not None:
            y = y + _per_channel(bias, len(shape))
        return y, *saved
    # One multiplication and one addition per element, and Inf and NaN where torch, which does the same, has them.
    per_group = [1, groups, grouped.shape[2], *[1] * (len(grouped.shape) - 3)]
    factor = scale if weight is None else scale * weight.reshape(per_group)
    shift = -(mean * factor)
    if bias is not None:
        shift = shift + bias.reshape(per_group)
    return (grouped * factor + shift).reshape(shape), *saved


def _per_channel(x: V, rank: int) -> V:
    """A value per channel (dim 1) as one that broadcasts against the input."""
    return x.reshape([product(x.shape), *[1] * (rank - 2)])


@rule("native_group_norm_backward")
def _group_norm_backward(c: Call) -> Result:
    dtype = _grad_dtype(c)
    grad, x = c.value("grad_out", dtype), c.value("input", dtype)
    shape, groups = x.shape, c["group"]
    weight = c.maybe("weight", dtype)
    wide = [shape[0], groups, floor_div(shape[1], groups), *shape[2:]]
    per_group = [shape[0], groups, *[1] * (len(wide) - 2)]
    mean, scale = c.value("mean", dtype).reshape(per_group), c.value("rstd", dtype).reshape(per_group)
    dims = list(range(2, len(wide)))
    normal = (x.reshape(wide) - mean) * scale
    scaled = (grad if weight is None else grad * _per_channel(weight, len(shape))).reshape(wide)
    lead = [d for d in range(len(shape)) if d != 1]
    own = weighted = shifted = None
    if c.wants(0):
        own = (scaled - scaled.mean(dims, keep=True) - normal * (scaled * normal).mean(dims, keep=True)) * scale
    if c.wants(1):
        weighted = (grad * normal.reshape(shape)).sum(lead)
    if c.wants(2):
        shifted = grad.sum(lead)
    return _as_result(c, 0, own), _as_result(c, 1, weighted), _as_result(c, 2, shifted)


@rule(
    "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training",
    "native_batch_norm",
)  # fmt: skip
def _batch_norm(c: Call) -> Result:
    x = c.value("input")
    rank = len(x.shape)
    dims = [d for d in range(rank) if d != 1]
    training = c.args.get("training", "no_training" not in c.name)
    running_mean, running_var = c.maybe("running_mean"), c.maybe("running_var")
    if training and running_mean is not None and not c.name.endswith("functional"):
        raise NoRule("a batch norm that writes into its running statistics")
    eps, momentum = float(c["eps"]), float(c["momentum"])
    updates: list[V | None] = []
    if training:
        spread, mean = variance(x, dims)
        scale = rsqrt(spread + eps)
        saved = [_as_result(c, 1, mean), _as_result(c, 2, scale)]
        if running_mean is not None and running_var is not None:
            count = x.count(dims)
            unbiased = spread * (count / (count - 1.0))
            flat = (x.shape[1],)
            updates = [
                _as_result(c, 3, mean.reshape(flat) * momentum + running_mean * (1.0 - momentum)),
                _as_result(c, 4, unbiased.reshape(flat) * momentum + running_var * (1.0 - momentum)),
            ]
    else:
        if running_mean is None or running_var is None:
            raise NoRule("a batch norm without statistics")
        mean, scale = _per_channel(running_mean, rank), rsqrt(_per_channel(running_var, rank) + eps)
        saved = [full(0.0, c.dtype_of(k), c.shape_of(k)) if c.wants(k) else None for k in (1, 2)]
        updates = [_as_result(c, 3, running_mean), _as_result(c, 4, running_var)]
    y = (x - mean) * scale
    weight, bias = c.maybe("weight"), c.maybe("bias")
    if weight is not None:
        y = y * _per_channel(weight, rank)
    if bias is not None:
        y = y + _per_channel(bias, rank)
    return [y, *saved, *updates][: len(c.specs)]


@rule("native_batch_norm_backward", "batch_norm_backward")
def _batch_norm_backward(c: Call) -> Result:
    dtype = _grad_dtype(c)
    grad, x = c.value("grad_out", dtype), c.value("input", dtype)
    rank = len(x.shape)
    dims = [d for d in range(rank) if d != 1]
    training = c["train"] if "train" in c.args else c["update"]
    weight = c.maybe("weight", dtype)
    if training:
        mean = _per_channel(c.value("save_mean", dtype), rank)
        saved = "save_invstd" if "save_invstd" in c.args else "save_var"
        scale = _per_channel(c.value(saved, dtype), rank)
    else:
        mean = _per_channel(c.value("running_mean", dtype), rank)
        scale = rsqrt(_per_channel(c.value("running_var", dtype), rank) + float(c["eps"]))
    # The scale stays outside the sum, as in torch's kernel: inside, an infinite x under a scale of 0 would be NaN.
    centred = x - mean
    total, along = grad.sum(dims, keep=True), (grad * centred).sum(dims, keep=True)
    own = None
    if c.wants(0):
        count = x.count(dims)
        own = (grad - total / count - centred * (along * scale * scale / count)) if training else grad
        own = own * scale if weight is None else own * scale * _per_channel(weight, rank)
    return _as_result(c, 0, own), _as_result(c, 1, along * scale), _as_result(c, 2, total)


# --------------------------------------------------------------------------------------------------------------------
# Losses


def _reduced(c: Call, loss: V) -> V:
    """A loss under its `reduction`: 0 none, 1 mean, 2 sum."""
    dims = list(range(len(loss.shape)))
    reduction = c["reduction"]
    if reduction == 0:
        return loss.expand(c.shape)
    return loss.mean(dims) if reduction == 1 else loss.sum(dims)


def _spread(c: Call, grad: V, like: V) -> V:
    """A loss's gradient per element, before the elementwise factor."""
    grad = grad.expand(like.shape)
    return grad / like.count(range(len(like.shape))) if c["reduction"] == 1 else grad


def _both(c: Call) -> tuple[V, V]:
    x, target = c.value("self"), c.value("target")
    shape = x.shape if len(x.shape) >= len(target.shape) else target.shape
    return x.expand(shape), target.expand(shape)


@rule("mse_loss")
def _mse(c: Call) -> Result:
    x, target = _both(c)
    return _reduced(c, (x - target) * (x - target))


@rule("mse_loss_backward")
def _mse_backward(c: Call) -> Result:
    x, target = _both(c)
    return _spread(c, c.value("grad_output"), x) * (2.0 * (x - target))


@rule("smooth_l1_loss", "huber_loss")
def _smooth_l1(c: Call) -> Result:
    x, target = _both(c)
    edge = float(c["beta"] if c.name == "smooth_l1_loss" else c["delta"])
    off = fn("abs", x - target)
    if c.name == "smooth_l1_loss":
        return _reduced(c, off if edge == 0 else where(off < edge, 0.5 * off * off / edge, off - 0.5 * edge))
    return _reduced(c, where(off <= edge, 0.5 * off * off, edge * (off - 0.5 * edge)))


@rule("smooth_l1_loss_backward", "huber_loss_backward")
def _smooth_l1_backward(c: Call) -> Result:
    x, target = _both(c)
    edge = float(c["beta"] if c.name.startswith("smooth") else c["delta"])
    off, grad = x - target, _spread(c, c.value("grad_output"), x)
    if c.name.startswith("smooth"):
        return grad * where(fn("abs", off) < edge, off / edge if edge else off, fn("sign", off))
    return grad * where(fn("abs", off) <= edge, off, fn("sign", off) * edge)


@rule("soft_margin_loss", "soft_margin_loss_backward")
def _soft_margin(c: Call) -> Result:
    x, target = _both(c)
    if c.name == "soft_margin_loss":
        return _reduced(c, fn("log1p", exp(-target * x)))
    z = exp(-target * x)
    return _spread(c, c.value("grad_output"), x) * (-target * z / (z + 1.0))


@rule("binary_cross_entropy")
def _bce(c: Call) -> Result:
    x, target = _both(c)
    loss = (target - 1.0) * maximum(fn("log1p", -x), -100.0) - target * maximum(log(x), -100.0)
    weight = c.maybe("weight")
    return _reduced(c, loss if weight is None else loss * weight)


@rule("binary_cross_entropy_backward")
def _bce_backward(c: Call) -> Result:
    x, target = _both(c)
    result = _spread(c, c.value("grad_output"), x) * (x - target) / maximum(x * (1.0 - x), 1e-12)
    weight = c.maybe("weight")
    return result if weight is None else result * weight


@rule("binary_cross_entropy_with_logits")
def _bce_logits(c: Call) -> Result:
    x, target = _both(c)
    positive = c.maybe("pos_weight")
    log_sigmoid = minimum(x, 0.0) - fn("log1p", exp(-fn("abs", x)))
    if positive is not None:
        loss = (1.0 - target) * x - ((positive - 1.0) * target + 1.0) * log_sigmoid
    else:
        loss = (1.0 - target) * x - log_sigmoid
    weight = c.maybe("weight")
    return _reduced(c, loss if weight is None else loss * weight)


@rule("nll_loss_forward", "nll_loss2d_forward")
def _nll(c: Call) -> Result:
    x, target = c.value("self"), c.raw("target").to(DType.I64)
    rank = len(x.shape)
    channel = 0 if rank == 1 else 1
    shape = tuple(s for d, s in enumerate(x.shape) if d != channel)
    target = target.reshape(shape)
    kept = target.ne(c["ignore_index"])
    safe = checked(where(kept, target, 0), x.shape[channel])
    sources: list[int | V] = [safe if d == channel else d - (d > channel) for d in range(rank)]
    picked = -take(x, sources, shape)
    weight = c.maybe("weight")
    factor = number(1.0, x.dtype, shape) if weight is None else take(weight, [safe], shape)
    factor = where(kept, factor, 0.0)
    loss = where(kept, picked if weight is None else picked * factor, 0.0)
    dims = list(range(len(shape)))
    total = factor.sum(dims)
    if c["reduction"] == 0 and rank > 1:
        return loss, full(0.0, x.dtype, ())
    summed = loss.sum(dims)
    return (summed / total if c["reduction"] == 1 else summed), total
