"""Transformers' models run attention without the masks that it builds under tracing alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import fx

import akg_dynamo
from akg_dynamo import attention_masks


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "vit"])
def test_attention_has_no_mask(name: str, dynamic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[fx.GraphModule] = []

    def spy(gm: fx.GraphModule) -> tuple[str, ...]:
        graphs.append(gm)
        return attention_masks.simplify_attention_masks(gm)

    monkeypatch.setattr("akg_dynamo.capture.simplify_attention_masks", spy)
    torch._dynamo.reset()
    entry = zoo.build(name)
    compiled = torch.compile(entry.model, backend="akg", dynamic=dynamic, options={"generation": "cached"})
    with torch.no_grad():
        torch.testing.assert_close(compiled(*entry.inputs), entry.model(*entry.inputs), rtol=1e-4, atol=1e-4)
    calls = [n for n in graphs[-1].graph.nodes if n.target is F.scaled_dot_product_attention]
    assert [n.kwargs.get("attn_mask") for n in calls] == [None, None]
    assert [n.kwargs["is_causal"] for n in calls] == [name != "vit"] * 2
    said = akg_dynamo.explain()[-1].rewrites
    assert name == "vit" or any("is_causal=True" in text for text in said)
