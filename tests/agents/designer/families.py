"""Functions of every family of operators, with small arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Case = tuple[Callable[..., Any], tuple[torch.Tensor, ...]]


def rand(*shape: int) -> torch.Tensor:
    """Random numbers, the same on every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def ints(high: int, *shape: int) -> torch.Tensor:
    """Random integers below `high`, the same on every call."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(high))


def gradients(f: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """The gradients of f with respect to all its floating-point arguments."""

    def backward(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [a.detach().requires_grad_(a.is_floating_point()) for a in args]
        y = f(*leaves)
        return torch.autograd.grad((y * y).sum(), [a for a in leaves if a.requires_grad])

    return backward


FORWARD: dict[str, Case] = {
    "pointwise with broadcasting": (lambda x, y: (x + y) * 2 - torch.exp(x), (rand(5, 7), rand(7))),
    "broadcast in the middle": (lambda x, y: x * y + 1, (rand(4, 1, 6), rand(3, 1))),
    "permuted operand": (lambda x, y: x + y.t(), (rand(6, 9), rand(9, 6))),
    "a value and its transpose": (lambda x: x + x.t() * 2, (rand(6, 6),)),
    "permuted output": (lambda x: (x * 2).permute(2, 0, 1).contiguous(), (rand(3, 4, 5),)),
    "several outputs": (lambda x, y: (x + y, x - y, (x * y).sum(-1)), (rand(5, 7), rand(5, 7))),
    "0-dim operands": (lambda x, y: x * y + y, (rand(4, 3), rand())),
    "0-dim result": (lambda x, y: x * y, (rand(), rand())),
    "softmax": (lambda x: torch.softmax(x * 2, -1), (rand(6, 1100),)),
    "softmax over the outer dim": (lambda x: torch.softmax(x, 0), (rand(6, 40),)),
    "softmax over a middle dim": (lambda x: torch.softmax(x, 1), (rand(3, 5, 7),)),
    "softmax of rows made by a view": (
        lambda x: torch.softmax((x + 1).view(-1, 8), -1).view(2, 3, 8),
        (rand(2, 3, 8),),
    ),
    "log_softmax and a gather": (lambda x, i: torch.log_softmax(x, -1).gather(1, i), (rand(5, 9), ints(9, 5, 1))),
    "cross entropy": (F.cross_entropy, (rand(6, 11), ints(11, 6))),
    "cross entropy that ignores": (
        lambda x, t: F.cross_entropy(x, t - 1, ignore_index=-1),
        (rand(6, 11), ints(12, 6)),
    ),
    "logsumexp": (lambda x: torch.logsumexp(x, 1), (rand(5, 30),)),
    "full sum": (lambda x: (x * x).sum(), (rand(30, 41),)),
    "full sum in chunks": (lambda x: (x * x).sum(), (rand(300, 411),)),
    "few long rows": (lambda x: torch.softmax(x, -1), (rand(2, 50_001),)),
    "standardised by the whole": (lambda x: (x - x.mean()) / x.std(), (rand(300, 400),)),
    "column sum": (lambda x: x.sum(0), (rand(70, 41),)),
    "column sum in chunks": (lambda x: x.sum(0) * 2, (rand(1301, 100),)),
    "sum over outer and inner": (lambda x: (x * 2).sum((0, 2)), (rand(6, 4, 5),)),
    "rows and columns of one read": (lambda x: (x.sum(0), x.sum(1), x.amax(1)), (rand(9, 14),)),
    "var_mean": (lambda x: torch.var_mean(x, 1), (rand(6, 40),)),
    "std over everything": (lambda x: x.std(), (rand(6, 40),)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (40,), w, b), (rand(2, 3, 40), rand(40), rand(40))),
    "rms_norm": (lambda x, w: F.rms_norm(x, (40,), w), (rand(2, 3, 40), rand(40))),
    "group_norm": (lambda x, w, b: F.group_norm(x, 4, w, b), (rand(2, 8, 3, 5), rand(8), rand(8))),
    "group_norm then relu": (lambda x: F.group_norm(x, 2).relu() + x, (rand(2, 6, 7),)),
    "instance_norm": (F.instance_norm, (rand(3, 4, 5, 6),)),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), (rand(4, 3, 5, 6),)),
    "batch_norm, channels last": (
        lambda x: F.batch_norm(x.to(memory_format=torch.channels_last), None, None, training=True),
        (rand(4, 20, 5, 6),),
    ),
    "batch_norm, evaluation": (
        lambda x, m, v: F.batch_norm(x, m, v.abs() + 0.1, training=False),
        (rand(4, 3, 5, 6), rand(3), rand(3)),
    ),
    "a loss over softmaxes": (
        lambda x, y: F.kl_div(torch.log_softmax(x, 1), torch.softmax(y, 1), reduction="batchmean"),
        (rand(20, 33), rand(20, 33)),
    ),
    "a loss over softmaxes of a middle dim": (
        lambda x, y: (torch.softmax(x, 1) * y - torch.softmax(y, 1)).abs().sum((0, 1)),
        (rand(20, 9, 3), rand(20, 9, 3)),
    ),
    "a sum of what rows and the whole were scaled by": (
        lambda x: (x / x.norm(dim=1, keepdim=True) / x.abs().max()).exp().sum(),
        (rand(40, 21),),
    ),
    "cosine similarity": (lambda x, y: (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)), (rand(5, 30), rand(5, 30))),
    "binary cross entropy": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid()),
        (rand(5, 30), rand(5, 30)),
    ),
    "smooth l1": (F.smooth_l1_loss, (rand(5, 30), rand(5, 30))),
    "argmax of rows": (lambda x: (x * 2).argmax(-1), (rand(5, 9),)),
    "argmax of everything": (lambda x: x.argmax(), (rand(5, 9),)),
    "argmin of columns": (lambda x: x.argmin(0), (rand(50, 40),)),
    "max with indices": (lambda x: torch.max(x * 1, 1), (rand(5, 9),)),
    "any and all": (lambda x: ((x > 2).any(1), (x > -2).all(0), (x > 3).any()), (rand(5, 40),)),
    "prod": (lambda x: x.prod(1), (rand(5, 9),)),
    "cat": (lambda x, y: torch.cat([x, y * 2, x + 1], 1), (rand(3, 4), rand(3, 6))),
    "cat of outer dims": (lambda x, y: torch.cat([x + 1, y], 0) * 2, (rand(3, 4), rand(2, 4))),
    "stack": (lambda x, y: torch.stack([x, y], -1) * 2, (rand(3, 4), rand(3, 4))),
    "pad": (lambda x: F.pad(x, (1, 2, 3, 0), value=1.5) * 2, (rand(3, 4),)),
    "crop by padding": (lambda x: F.pad(x * 2, (-1, 1, 0, -1)), (rand(3, 4),)),
    "slices": (lambda x: x[:, 1:7:2] + x[:, 2:8:2], (rand(5, 9),)),
    "halves, rotated": (
        lambda x, c: x * c + torch.cat([-x[..., 4:], x[..., :4]], -1),
        (rand(2, 3, 8), rand(3, 8)),
    ),
    "flip": (lambda x: x.flip(0) + x.flip(1), (rand(5, 7),)),
    "roll": (lambda x: (x + 1).roll((2, -1), (1, 0)), (rand(5, 7),)),
    "repeat": (lambda x: x.repeat(2, 3) * 2, (rand(3, 4),)),
    "tril": (lambda x: torch.tril(x, 1) + torch.triu(x), (rand(5, 7),)),
    "embedding": (lambda w, i: F.embedding(i, w) * 2, (rand(10, 6), ints(10, 3, 4))),
    "index_select": (lambda x, i: torch.index_select(x, 1, i) + 1, (rand(4, 6), ints(6, 9))),
    "advanced index": (lambda x, i, j: x[i - 2, :, j] * 2, (rand(4, 6, 5), ints(4, 7), ints(5, 7))),
    "a view that divides nothing": (lambda x: (x + 1).view(6, 4) * 2 + (x * 2).view(6, 4), (rand(8, 3),)),
    "heads to rows": (lambda x: (x * 2).view(2, 4, 3, 5).transpose(1, 2).reshape(2, 3, 20) + 1, (rand(2, 4, 15),)),
    "where and comparisons": (lambda x, y: torch.where(x > y, x, y * 2).clamp(-1, 1), (rand(5, 7), rand(5, 7))),
    "integers": (
        lambda x, y: (x // (y + 1), x % (y + 1), (x << 2) ^ y, x.float() / 3),
        (ints(100, 5, 7), ints(9, 7)),
    ),
    "arange and full": (lambda x: x + torch.arange(7) * 2 + torch.full((5, 7), 0.5), (rand(5, 7),)),
    "gelu, silu, mish": (lambda x: F.gelu(x) + F.silu(x) + F.mish(x) + F.gelu(x, approximate="tanh"), (rand(5, 30),)),
    "max pooling": (lambda x: F.max_pool2d(x, 3, 2, 1) + 1, (rand(2, 3, 9, 12),)),
    "max pooling of what is normalised": (
        lambda x, m, v: F.max_pool2d(F.batch_norm(x, m, v.abs() + 0.1, training=False).relu(), 3, 2, 1),
        (rand(2, 3, 9, 12), rand(3), rand(3)),
    ),
    "average pooling": (
        lambda x: F.avg_pool2d(x.sigmoid(), 3, 2, 1, ceil_mode=True, count_include_pad=False),
        (rand(2, 3, 9, 12),),
    ),
    "pooling, channels last": (
        lambda x: (F.max_pool2d(x, 2) + F.avg_pool2d(x, 2), F.max_pool2d(x, (3, 1), 1, (1, 0))),
        (rand(2, 3, 8, 12).to(memory_format=torch.channels_last),),
    ),
    "pooling of a pooling": (lambda x: F.avg_pool2d(F.max_pool2d(x * 2, 3, 1, 1) + 1, 2, 2), (rand(2, 7, 10),)),
    "deep chain over rolled values": (
        lambda x: sum((x := torch.tanh(x + x.roll(k, 1))) for k in range(1, 7)),
        (rand(3, 16),),
    ),
}

BACKWARD: dict[str, Case] = {
    "layer_norm": FORWARD["layer_norm"],
    "rms_norm": FORWARD["rms_norm"],
    "group_norm": FORWARD["group_norm"],
    "softmax": FORWARD["softmax"],
    "log_softmax": (lambda x: torch.log_softmax(x, 1), (rand(5, 30),)),
    "gelu": (lambda x: F.gelu(x) * F.gelu(x, approximate="tanh"), (rand(5, 30),)),
    "silu": (F.silu, (rand(5, 30),)),
    "broadcast": (lambda x, y: x * y, (rand(5, 1, 30), rand(4, 1))),
    "variance": (lambda x: x.var(1), (rand(5, 30),)),
}
