"""One decode step with a static KV cache: AKG beside eager, and Inductor.

    python benchmarks/kv_decode.py [--layers 4] [--positions 4096]

Functionalisation turns the cache update into a copy of the whole cache; AKG puts the mutation back. Each round times
all backends in random order; what is printed is the median of the rounds' ratios to eager: it should be at most 1.1.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    """Attention over a cache of fixed size, and a gated MLP."""

    def __init__(self, width: int, heads: int, positions: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.gate = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(1, heads, positions, width // heads))

    def forward(self, x: torch.Tensor, at: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        self.keys.index_copy_(2, at, k)
        self.values.index_copy_(2, at, v)
        seen = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class Decoder(nn.Module):
    """A stack of layers; one call decodes one position."""

    def __init__(self, layers: int, positions: int, width: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads, positions) for _ in range(layers))
        self.register_buffer("steps", torch.arange(positions))

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        mask = (self.steps <= at)[None, None, None]
        for layer in self.layers:
            x = layer(x, at, mask)
        return x


def ratios_to_eager(
    layers: int, positions: int, backends: dict[str, dict[str, object]], rounds: int = 30
) -> tuple[float, dict[str, float]]:
    """Eager's time of one step in microseconds, and each backend's median ratio to it."""
    torch.manual_seed(0)
    x, at = torch.randn(1, 1, 256), torch.tensor([positions // 2])
    steps: dict[str, Callable[..., torch.Tensor]] = {}
    for name, keywords in {"eager": {}, **backends}.items():
        torch.manual_seed(0)
        model = Decoder(layers, positions).eval()
        steps[name] = model if name == "eager" else torch.compile(model, **keywords)  # type: ignore[call-overload]
    times: dict[str, list[float]] = {name: [] for name in steps}
    with torch.no_grad():
        want = steps["eager"](x, at)
        for name in backends:
            torch.testing.assert_close(steps[name](x, at), want)
        names = list(steps)
        for round_number in range(rounds + 2):
            random.shuffle(names)
            for name in names:
                start = time.perf_counter()
                for _ in range(5):
                    steps[name](x, at)
                if round_number >= 2:  # the first rounds warm up
                    times[name].append((time.perf_counter() - start) / 5 * 1e6)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[name], times["eager"], strict=True)) for name in backends
    }
    return statistics.median(times["eager"]), ratios


def main() -> None:
    """Prints one line per backend."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--layers", type=int, default=4)
    arguments.add_argument("--positions", type=int, default=4096)
    chosen = arguments.parse_args()
    backends: dict[str, dict[str, object]] = {
        "aot_eager": {"backend": "aot_eager"},
        "inductor": {"backend": "inductor"},
        "akg": {"backend": "akg"},
        "akg, every kernel that is right": {"backend": "akg", "options": {"gate": "correct"}},
    }
    eager_us, ratios = ratios_to_eager(chosen.layers, chosen.positions, backends)
    print(f"{chosen.layers} layers, a cache of {chosen.positions} positions: eager {eager_us:.0f} us a step")
    for name, ratio in ratios.items():
        print(f"  {name:32s} {ratio:6.2f} x eager's time")


if __name__ == "__main__":
    main()
