"""The way to the machine: designed, lowered to C++, built, run."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def test_rows(lowered: Callable[..., None]) -> None:
    """One kernel of every shape of loop over rows, with tails."""
    x, w = torch.randn(37, 1037), torch.randn(1037)
    lowered(
        lambda x, w: (torch.softmax(x, -1), F.layer_norm(x, (1037,), w), x.argmax(-1), (x * w).sum(-1), x.amin(-1)),
        x, w,
    )  # fmt: skip


def test_columns_and_chunks(lowered: Callable[..., None]) -> None:
    x = torch.randn(1301, 103)
    lowered(lambda x: (x.sum(0), x.mean(), torch.softmax(x, 0), x.t() * 2, x.argmin(0)), x)


def test_transpositions(lowered: Callable[..., None]) -> None:
    lowered(lambda x: (x.permute(0, 2, 1) * 2 + 1, torch.softmax(x.permute(0, 2, 1), -1)), torch.randn(3, 77, 301))


def test_moves(lowered: Callable[..., None]) -> None:
    x, i = torch.randn(13, 40).bfloat16(), torch.randint(0, 13, (21,))
    lowered(
        lambda x, i: (torch.cat([x, x * 2], 1), F.pad(x, (3, 2)), x[i - 13], x.flip(0), x.roll(3, 1), x[:, ::3] + 1),
        x, i,
    )  # fmt: skip
