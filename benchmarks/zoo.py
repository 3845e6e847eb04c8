"""Real models with random weights, at three sizes: what the model tests check and the model benchmark times.

"small" is for fast tests, "large" for a CPU, "full" has the widths of the real models with 2 to 4 layers, for a GPU.

Each is wrapped to take tensors and return one tensor, in its own library's default configuration but for the widths.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import nn

T = TypeVar("T")
Size: TypeAlias = Literal["small", "large", "full"]
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


def _of(size: Size, small: T, large: T, full: T) -> T:
    return {"small": small, "large": large, "full": full}[size]


def _tokens(vocabulary: int, batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, length))


def _llama(size: Size) -> Entry:
    from transformers import LlamaConfig, LlamaForCausalLM

    small, large, full = (64, 176, 2, 4, 2, 256), (512, 1408, 4, 8, 4, 4096), (4096, 14336, 2, 32, 8, 32000)
    width, inner, layers, heads, kv_heads, vocabulary = _of(size, small, large, full)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
    )
    model = Output(LlamaForCausalLM(config), ("input_ids",), "logits", use_cache=False)
    return Entry("llama", model, (_tokens(vocabulary, *_of(size, (2, 16), (2, 256), (2, 2048))),))


def _qwen2(size: Size) -> Entry:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    small, large, full = (64, 176, 2, 4, 2, 256), (512, 1408, 4, 8, 2, 4096), (3584, 18944, 2, 28, 4, 152064)
    width, inner, layers, heads, kv_heads, vocabulary = _of(size, small, large, full)
    config = Qwen2Config(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
    )
    model = Output(Qwen2ForCausalLM(config), ("input_ids",), "logits", use_cache=False)
    return Entry("qwen2", model, (_tokens(vocabulary, *_of(size, (2, 16), (2, 256), (1, 2048))),))


def _bert(size: Size) -> Entry:
    from transformers import BertConfig, BertModel

    small, large, full = (64, 128, 2, 4, 1024), (512, 2048, 4, 8, 1024), (768, 3072, 4, 12, 30522)
    width, inner, layers, heads, vocabulary = _of(size, small, large, full)
    config = BertConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=512,
    )
    ids = _tokens(vocabulary, *_of(size, (2, 16), (2, 256), (16, 512)))
    mask = torch.ones_like(ids)
    mask[1, -4:] = 0
    model = Output(BertModel(config, add_pooling_layer=False), ("input_ids", "attention_mask"), "last_hidden_state")
    return Entry("bert", model, (ids, mask))


def _gpt2(size: Size) -> Entry:
    from transformers import GPT2Config, GPT2LMHeadModel

    small, large, full = (64, 2, 4, 1024), (512, 4, 8, 1024), (1024, 4, 16, 50257)
    width, layers, heads, vocabulary = _of(size, small, large, full)
    config = GPT2Config(
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        vocab_size=vocabulary,
        n_positions=_of(size, 512, 512, 1024),
        bos_token_id=None,
        eos_token_id=None,
    )
    model = Output(GPT2LMHeadModel(config), ("input_ids",), "logits", use_cache=False)
    return Entry("gpt2", model, (_tokens(vocabulary, *_of(size, (2, 16), (2, 256), (8, 1024))),))


def _vit(size: Size) -> Entry:
    from transformers import ViTConfig, ViTModel

    small, large, full = (32, 8, 64, 128, 2, 4), (224, 16, 384, 1536, 4, 6), (224, 16, 1024, 4096, 4, 16)
    image, patch, width, inner, layers, heads = _of(size, small, large, full)
    config = ViTConfig(
        image_size=image,
        patch_size=patch,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    model = Output(ViTModel(config, add_pooling_layer=False), ("pixel_values",), "last_hidden_state")
    return Entry("vit", model, (torch.randn(_of(size, 2, 2, 32), 3, image, image),))


def _t5(size: Size) -> Entry:
    from transformers import T5Config, T5ForConditionalGeneration

    small, large, full = (64, 128, 2, 4, 1024), (384, 1024, 3, 6, 1024), (768, 3072, 3, 12, 32128)
    width, inner, layers, heads, vocabulary = _of(size, small, large, full)
    config = T5Config(
        d_model=width,
        d_kv=width // heads,
        d_ff=inner,
        num_layers=layers,
        num_heads=heads,
        vocab_size=vocabulary,
        decoder_start_token_id=0,
    )
    names = ("input_ids", "decoder_input_ids")
    model = Output(T5ForConditionalGeneration(config), names, "logits", use_cache=False)
    inputs = (
        _tokens(vocabulary, *_of(size, (2, 16), (2, 256), (8, 512))),
        _tokens(vocabulary, *_of(size, (2, 8), (2, 128), (8, 128))),
    )
    return Entry("t5", model, inputs)


def _mamba(size: Size) -> Entry:
    from transformers import MambaConfig, MambaForCausalLM

    # Its scan is a Python loop over positions, unrolled in the graph: the length is what the graph's size grows with.
    width, layers, batch, length = _of(size, (64, 2, 2, 8), (256, 2, 2, 32), (768, 2, 8, 64))
    config = MambaConfig(hidden_size=width, num_hidden_layers=layers, vocab_size=1024, state_size=16)
    model = Output(MambaForCausalLM(config), ("input_ids",), "logits", use_cache=False)
    return Entry("mamba", model, (_tokens(1024, batch, length),))


def _resnet(size: Size) -> Entry:
    module = example("resnet")
    if size == "small":
        return Entry("resnet", module.ResNet((1, 1), (16, 32), 10), (torch.randn(2, 3, 32, 32),))
    return Entry("resnet", module.ResNet(), (torch.randn(4 if size == "large" else 32, 3, 224, 224),))


def _convnext(size: Size) -> Entry:
    module = example("convnext")
    if size == "small":
        return Entry("convnext", module.ConvNeXt((1, 1), (16, 32), 10), (torch.randn(2, 3, 32, 32),))
    return Entry("convnext", module.ConvNeXt(), (torch.randn(4 if size == "large" else 32, 3, 224, 224),))


def _gpt(size: Size) -> Entry:
    module = example("gpt")
    arguments = _of(size, (2, 64, 4, 256, 32), (4, 512, 8), (4, 1024, 16, 32000, 1024))
    shape = _of(size, (2, 16), (2, 256), (8, 1024))
    return Entry("gpt", module.GPT(*arguments), (_tokens(256, *shape),))


_BUILDERS: dict[str, Callable[[Size], Entry]] = {
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


def build(name: str, size: Size = "small", *, seed: int = 0) -> Entry:
    """The model of that name, in eval mode, with weights and inputs drawn from `seed`."""
    torch.manual_seed(seed)
    entry = _BUILDERS[name](size)
    entry.model.eval()
    return entry


def nudged(model: nn.Module, seed: int) -> nn.Module:
    """A copy with every parameter moved by a unit in the last place or not at all.

    Where a ReLU's input is zero but for rounding, the gradients before it jump: one step of eager's says little of how
    far they may be off on a model with millions of them. A few, each of a model that rounds to the same, say more.
    """
    moved = copy.deepcopy(model)
    generators: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for p in moved.parameters():
            if p.device not in generators:
                generators[p.device] = torch.Generator(p.device).manual_seed(seed)
            steps = torch.randint(-1, 2, p.shape, generator=generators[p.device], device=p.device)
            p.mul_(1 + torch.finfo(p.dtype).eps * steps)
    return moved


def without_dropout(model: nn.Module) -> nn.Module:
    """The model in training mode, with nothing random: contenders draw different streams."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model.train()
