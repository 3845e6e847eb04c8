"""Matrix products with rows that begin at odd addresses, on CUDA: computed with wider rows, block by block.

A vocabulary of 50257 makes rows of 100514 bytes in bf16. The fast kernels of cuBLAS write rows that begin at multiples
of 16 bytes; for others it takes one that is three times slower. So the product goes into a block with a few columns
more, and from there to its place: one more pass over the result, and no more memory than a block.
"""

from __future__ import annotations

import torch
from torch import fx

from akg_dynamo.fusion.symbols import numel_hint

aten = torch.ops.aten

_ALIGN_BYTES = 16
_BLOCK_BYTES = 64 << 20
_LEAST_COLUMNS = 1024  # of fewer, those that are added cost too much
_LEAST_OPERATIONS = 1 << 34  # less is done before a second kernel is launched


def align_products(graph: fx.Graph) -> None:
    """Rewrites `graph` in place: `linear_in_blocks` for every linear that it makes faster."""
    for node in graph.nodes:
        if node.target is aten.linear.default and _is_slow(node):
            node.target = linear_in_blocks
            node.args = node.args[:2]


def linear_in_blocks(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``torch.nn.functional.linear(x, weight)``, contiguous."""
    columns, inner = weight.shape
    padded = columns + -columns % (_ALIGN_BYTES // weight.element_size())
    wide = weight.new_empty((padded, inner))
    wide[:columns] = weight
    wide[columns:] = 0
    rows = x.reshape(-1, inner)
    result = x.new_empty((*x.shape[:-1], columns))
    flat = result.view(-1, columns)
    step = max(1, _BLOCK_BYTES // (padded * x.element_size()))
    block = x.new_empty((min(step, len(rows)), padded))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        torch.mm(part, wide.t(), out=block[: len(part)])
        flat[start : start + step] = block[: len(part), :columns]
    return result


linear_in_blocks.stands_for = aten.linear.default  # type: ignore[attr-defined]  # what reports say of it


def _is_slow(node: fx.Node) -> bool:
    x, weight, *bias = (a.meta.get("val") if isinstance(a, fx.Node) else a for a in node.args)
    result = node.meta.get("val")
    if not (isinstance(x, torch.Tensor) and isinstance(weight, torch.Tensor) and isinstance(result, torch.Tensor)):
        return False
    if (bias and bias[0] is not None) or weight.device.type != "cuda" or x.dtype != weight.dtype:
        return False
    if weight.dtype not in (torch.float16, torch.bfloat16) or weight.dim() != 2:
        return False
    columns, inner = weight.shape
    if not isinstance(columns, int) or not isinstance(inner, int) or tuple(weight.stride()) != (inner, 1):
        return False
    even = _ALIGN_BYTES // weight.element_size()
    operations = 2 * numel_hint(x.shape) * columns
    return columns % even != 0 and inner % even == 0 and columns >= _LEAST_COLUMNS and operations >= _LEAST_OPERATIONS
