"""Real models with random weights, at two sizes: what the model tests check and the model benchmark times.

Each is wrapped to take tensors and return one tensor, in its own library's default configuration but for the widths.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@dataclass(frozen=True)
class Entry:
    """A model and the inputs it is called with."""

    name: str
    model: nn.Module
    inputs: tuple[torch.Tensor, ...]


class Output(nn.Module):
    """Calls a transformers model with named tensors and returns one field of what it returns."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], field: str, **settings: Any) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.field = field
        self.settings = settings

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.names, tensors, strict=True))
        output: torch.Tensor = getattr(self.model(**named, **self.settings), self.field)
        return output


def example(name: str) -> ModuleType:
    """One of examples/*.py as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _tokens(large: bool, vocabulary: int, length: int | None = None) -> torch.Tensor:
    return torch.randint(0, vocabulary, (2, length or (256 if large else 16)))


def _llama(large: bool) -> Entry:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = (512, 1408, 4, 8, 4, 4096) if large else (64, 176, 2, 4, 2, 256)
    width, inner, layers, heads, kv_heads, vocabulary = sizes
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
    )
    model = Output(LlamaForCausalLM(config), ("input_ids",), "logits", use_cache=False)
    return Entry("llama", model, (_tokens(large, vocabulary),))


def _qwen2(large: bool) -> Entry:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = (512, 1408, 4, 8, 2, 4096) if large else (64, 176, 2, 4, 2, 256)
    width, inner, layers, heads, kv_heads, vocabulary = sizes
    config = Qwen2Config(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
    )
    model = Output(Qwen2ForCausalLM(config), ("input_ids",), "logits", use_cache=False)
    return Entry("qwen2", model, (_tokens(large, vocabulary),))


def _bert(large: bool) -> Entry:
    from transformers import BertConfig, BertModel

    width, inner, layers, heads = (512, 2048, 4, 8) if large else (64, 128, 2, 4)
    config = BertConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=1024,
        max_position_embeddings=512,
    )
    ids = _tokens(large, 1024)
    mask = torch.ones_like(ids)
    mask[1, -4:] = 0
    model = Output(BertModel(config, add_pooling_layer=False), ("input_ids", "attention_mask"), "last_hidden_state")
    return Entry("bert", model, (ids, mask))


def _gpt2(large: bool) -> Entry:
    from transformers import GPT2Config, GPT2LMHeadModel

    width, layers, heads = (512, 4, 8) if large else (64, 2, 4)
    config = GPT2Config(
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        vocab_size=1024,
        n_positions=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = Output(GPT2LMHeadModel(config), ("input_ids",), "logits", use_cache=False)
    return Entry("gpt2", model, (_tokens(large, 1024),))


def _vit(large: bool) -> Entry:
    from transformers import ViTConfig, ViTModel

    image, patch, width, inner, layers, heads = (224, 16, 384, 1536, 4, 6) if large else (32, 8, 64, 128, 2, 4)
    config = ViTConfig(
        image_size=image,
        patch_size=patch,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    model = Output(ViTModel(config, add_pooling_layer=False), ("pixel_values",), "last_hidden_state")
    return Entry("vit", model, (torch.randn(2, 3, image, image),))


def _t5(large: bool) -> Entry:
    from transformers import T5Config, T5ForConditionalGeneration

    width, inner, layers, heads = (384, 1024, 3, 6) if large else (64, 128, 2, 4)
    config = T5Config(
        d_model=width,
        d_kv=width // heads,
        d_ff=inner,
        num_layers=layers,
        num_heads=heads,
        vocab_size=1024,
        decoder_start_token_id=0,
    )
    names = ("input_ids", "decoder_input_ids")
    model = Output(T5ForConditionalGeneration(config), names, "logits", use_cache=False)
    return Entry("t5", model, (_tokens(large, 1024), _tokens(large, 1024, 128 if large else 8)))


def _mamba(large: bool) -> Entry:
    from transformers import MambaConfig, MambaForCausalLM

    # Its scan is a Python loop over positions, unrolled in the graph: the length is what the graph's size grows with.
    width, layers, length = (256, 2, 32) if large else (64, 2, 8)
    config = MambaConfig(hidden_size=width, num_hidden_layers=layers, vocab_size=1024, state_size=16)
    model = Output(MambaForCausalLM(config), ("input_ids",), "logits", use_cache=False)
    return Entry("mamba", model, (_tokens(large, 1024, length),))


def _resnet(large: bool) -> Entry:
    module = example("resnet")
    if large:
        return Entry("resnet", module.ResNet(), (torch.randn(4, 3, 224, 224),))
    return Entry("resnet", module.ResNet((1, 1), (16, 32), 10), (torch.randn(2, 3, 32, 32),))


def _convnext(large: bool) -> Entry:
    module = example("convnext")
    if large:
        return Entry("convnext", module.ConvNeXt(), (torch.randn(4, 3, 224, 224),))
    return Entry("convnext", module.ConvNeXt((1, 1), (16, 32), 10), (torch.randn(2, 3, 32, 32),))


def _gpt(large: bool) -> Entry:
    module = example("gpt")
    model = module.GPT(4, 512, 8) if large else module.GPT(2, 64, 4, 256, 32)
    return Entry("gpt", model, (_tokens(large, 256),))


_BUILDERS: dict[str, Callable[[bool], Entry]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "bert": _bert,
    "gpt2": _gpt2,
    "vit": _vit,
    "t5": _t5,
    "mamba": _mamba,
    "resnet": _resnet,
    "convnext": _convnext,
    "gpt": _gpt,
}
NAMES = tuple(_BUILDERS)


def build(name: str, *, large: bool = False, seed: int = 0) -> Entry:
    """The model of that name, in eval mode, with weights and inputs drawn from `seed`."""
    torch.manual_seed(seed)
    entry = _BUILDERS[name](large)
    entry.model.eval()
    return entry
