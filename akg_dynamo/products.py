"""Matrix products with rows that begin at odd addresses, on CUDA: computed through blocks with wider rows.

A vocabulary of 50257 makes rows of 100514 bytes in bf16. The fast kernels of cuBLAS read and write rows that begin at
multiples of 16 bytes; for others it takes one that is several times slower. So a part of such a matrix goes through a
block whose rows lie a little further apart: one more pass over the matrix, and no more memory than a block.

    logits = linear(x, weight)                          the rows of the result, `linear_in_blocks`
    grad_x = linear(grad_logits, weight.t())            the rows of the left factor, `linear_of_blocks`
    grad_weight = mm(grad_logits.t(), x)                the columns of the left factor, `mm_of_blocks`
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import fx

from akg_dynamo.fusion.symbols import numel_hint

aten = torch.ops.aten

_ALIGN_BYTES = 16
_BLOCK_BYTES = 96 << 20
_TILE = 128  # rows or columns that a library's kernel computes together
_LEAST_ODD = 1024  # columns of the odd matrix: of fewer, those in between cost too much
_LEAST_OPERATIONS = 1 << 34  # less is done before a second kernel is launched


def align_products(graph: fx.Graph) -> None:
    """Rewrites `graph` in place: every product that a function of this module makes faster."""
    for node in graph.nodes:
        if node.target not in (aten.linear.default, aten.mm.default) or not _is_large(node):
            continue
        left, right = (n.meta["val"] for n in node.args[:2])
        if node.target is aten.mm.default:
            node.target = mm_of_blocks if _is_odd_and_turned(left, right) else node.target
        elif _makes_odd_rows(right):
            node.target, node.args = linear_in_blocks, node.args[:2]
        elif _reads_odd_rows(right):
            node.target, node.args = linear_of_blocks, node.args[:2]


# --------------------------------------------------------------------------------------------------------------------
# The products. Nothing is summed up but by the library.


def linear_in_blocks(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``torch.nn.functional.linear(x, weight)``, contiguous: rows of the result at a time.

    The few columns beyond the last multiple of 16 bytes are a product of their own. With them in the large one it took
    9.8 ms on an H200 where eager takes 8.8 and this should take 2 (8192 x 1024 by 50257, bf16): the width counts too,
    not only the distance between rows.
    """
    columns, inner = weight.shape
    even = columns - columns % _even(weight)
    rows = x.reshape(-1, inner)
    result = x.new_empty((*x.shape[:-1], columns))
    flat = result.view(-1, columns)
    step = _rows_of_a_block(columns, x)
    block = x.new_empty((min(step, len(rows)), even))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        torch.mm(part, weight[:even].t(), out=block[: len(part)])
        _copy_rows(flat[start : start + step, :even], block[: len(part)])
    flat[:, even:] = torch.mm(rows, weight[even:].t())
    return result


def linear_of_blocks(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``torch.nn.functional.linear(x, weight)``, contiguous: rows of `x` at a time.

    Both factors get zeros up to the next multiple of 16 bytes: the products of what is beyond it, added afterwards,
    would be rounded once more than eager rounds.
    """
    columns, inner = weight.shape
    padded = inner + -inner % _even(x)
    wide = weight.new_empty((padded, columns))
    wide[:inner] = weight.t()
    wide[inner:] = 0
    rows = x.reshape(-1, inner)
    result = x.new_empty((*x.shape[:-1], columns))
    flat = result.view(-1, columns)
    step = _rows_of_a_block(inner, x)
    block = x.new_empty((min(step, len(rows)), padded))
    block[:, inner:] = 0
    for start in range(0, len(rows), step):
        part = block[: len(rows[start : start + step])]
        _copy_rows(part[:, :inner], rows[start : start + step])
        torch.mm(part, wide, out=flat[start : start + step])
    return result


def mm_of_blocks(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``torch.mm(left, right)``, contiguous, where `left` is transposed: its columns in memory at a time."""
    columns, inner = left.shape
    result = left.new_empty((columns, right.shape[1]))
    step = max(_TILE, _rows_of_a_block(inner, left))
    block = left.new_empty((inner, min(step, columns + -columns % _even(left))))
    for start in range(0, columns, step):
        part = block[:, : min(step, columns - start)]
        _copy_rows(part, left[start : start + step].t())
        torch.mm(part.t(), right, out=result[start : start + step])
    return result


# what reports say of them
linear_in_blocks.stands_for = aten.linear.default  # type: ignore[attr-defined]
linear_of_blocks.stands_for = aten.linear.default  # type: ignore[attr-defined]
mm_of_blocks.stands_for = aten.mm.default  # type: ignore[attr-defined]


def _copy_rows(to: torch.Tensor, source: torch.Tensor) -> None:
    """``to.copy_(source)``."""
    ours = _kernel() if to.is_cuda and to.stride(1) == source.stride(1) == 1 else None
    if ours is None:
        to.copy_(source)
    else:
        ours(to, source)


@functools.cache
def _kernel() -> Callable[[torch.Tensor, torch.Tensor], None] | None:
    try:
        from akg_dynamo.odd_rows import copy_rows
    except ImportError:  # no Triton
        return None
    return copy_rows


def _even(x: torch.Tensor) -> int:
    return _ALIGN_BYTES // x.element_size()


def _rows_of_a_block(columns: int, x: torch.Tensor) -> int:
    rows = max(1, _BLOCK_BYTES // max(1, columns * x.element_size()))
    return rows - rows % _TILE if rows > _TILE else rows


# --------------------------------------------------------------------------------------------------------------------
# Which are slow: sizes that are known, of matrices as the library takes them without a copy.


def _is_large(node: fx.Node) -> bool:
    x, weight, *bias = (a.meta.get("val") if isinstance(a, fx.Node) else a for a in node.args)
    result = node.meta.get("val")
    if not (isinstance(x, torch.Tensor) and isinstance(weight, torch.Tensor) and isinstance(result, torch.Tensor)):
        return False
    if (bias and bias[0] is not None) or weight.device.type != "cuda" or x.dtype != weight.dtype:
        return False
    if weight.dtype not in (torch.float16, torch.bfloat16) or weight.dim() != 2:
        return False
    return 2 * numel_hint(result.shape) * numel_hint(x.shape[-1:]) >= _LEAST_OPERATIONS


def _makes_odd_rows(weight: torch.Tensor) -> bool:
    columns, inner = weight.shape
    return _is_odd(columns, weight) and _is_even(inner, weight) and _lies(weight, (inner, 1))


def _reads_odd_rows(weight: torch.Tensor) -> bool:
    columns, inner = weight.shape
    return _is_odd(inner, weight) and _is_even(columns, weight) and _lies(weight, (1, columns))


def _is_odd_and_turned(left: torch.Tensor, right: torch.Tensor) -> bool:
    columns, width = left.shape[0], right.shape[1]
    even = _is_even(width, right) and _lies(right, (width, 1))
    return even and _is_odd(columns, left) and _lies(left, (1, columns))


def _lies(x: torch.Tensor, strides: tuple[int, int]) -> bool:
    return all(isinstance(s, int) for s in x.stride()) and x.stride() == strides


def _is_odd(size: object, x: torch.Tensor) -> bool:
    return isinstance(size, int) and size >= _LEAST_ODD and size % _even(x) != 0


def _is_even(size: object, x: torch.Tensor) -> bool:
    return isinstance(size, int) and size % _even(x) == 0
