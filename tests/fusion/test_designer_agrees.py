"""What the operator table calls fusible is what the designer has a sketch for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import CORRECT, CPU, capture
from test_partition import convolutional, small_bert, small_llama

from akg_dynamo.agents.designer.rules import design
from akg_dynamo.core.types import Design
from akg_dynamo.fusion.extract import extract
from akg_dynamo.fusion.partition import plan

X = torch.randn(4, 6, 8)
M = torch.randn(4, 6)
LABELS = torch.randint(0, 6, (4,))

SMALL: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "integer arithmetic": (lambda i: (i * 3 // 2 % 5 & 6) << 1, (LABELS,)),
    "predicates": (lambda x: (x.isnan() | (x > 0)).any(-1), (X,)),
    "norms": (lambda x: F.layer_norm(x, (8,)) + F.group_norm(x, 2) + F.instance_norm(x), (X,)),
    "rms norm": (lambda x: F.rms_norm(x, (8,)), (X,)),
    "reductions": (lambda x: x.sum(0).prod(-1) + x.amax((0, 2)) - x.min(1)[0].mean(), (X,)),
    "statistics": (lambda x: torch.std(x, 1) + torch.logsumexp(x, 1) + x.norm(dim=1), (X,)),
    "arg extremes": (lambda x: x.argmax(1) + x.argmin(1), (X,)),
    "losses": (lambda m: F.mse_loss(m, m * 2) + F.smooth_l1_loss(m, m + 1) + F.huber_loss(m, m - 1), (M,)),
    "probabilities": (lambda m: F.binary_cross_entropy_with_logits(m, m.sigmoid()), (M,)),
    "cross entropy": (lambda m, i: F.cross_entropy(m * 2, i), (M, LABELS)),
    "cosine similarity": (lambda x: F.cosine_similarity(x, x * 2 + 1, dim=1), (X,)),
    "gathers": (lambda x, i: x[i % 4] + x.index_select(0, i % 4) + F.embedding(i, x[0]).sum(), (X, LABELS)),
    "joins": (lambda x: torch.cat([x * 2, torch.stack([x[0], x[1]])]).flip(0).roll(1, 0), (X,)),
    "triangles": (lambda m: m.tril() + F.pad(m, (1, 2))[:, :6].triu(1), (M,)),
    "activations": (lambda x: F.gelu(x) + F.silu(x) + F.mish(x) + F.hardswish(x) + F.elu(x) + F.softplus(x), (X,)),
    "low precision": (lambda x: torch.softmax(x.bfloat16() * 2, -1).half() + 1, (X,)),
    "views": (lambda x: (x * 2).transpose(1, 2).reshape(4, 2, 24).split(8, -1)[1].permute(2, 0, 1) + 1, (X,)),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_designs_every_small_case(name: str, dynamic: bool) -> None:
    function, args = SMALL[name]
    needs_grad = [a.clone().requires_grad_() if a.is_floating_point() else a for a in args]
    out = function(*needs_grad)
    assert designed(function, tuple(needs_grad), dynamic, backward=out.requires_grad) > 0


@pytest.mark.parametrize("model", [small_llama, small_bert, convolutional])
def test_designs_every_subgraph_of_a_model(model: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
    function, args = model()
    assert designed(function, args, dynamic=False, backward=True) > 5


def designed(function: Callable[..., Any], args: tuple[Any, ...], dynamic: bool, backward: bool) -> int:
    subgraphs = {}
    for gm in capture(function, *args, dynamic=dynamic, backward=backward):
        for cut in extract(gm, plan(gm, target=CPU, options=CORRECT)):
            subgraphs[cut.subgraph.digest] = cut.subgraph
    for sub in subgraphs.values():
        answer = design(sub, CPU)
        assert isinstance(answer, Design), f"{answer}\n{sub.text}"
    return len(subgraphs)
