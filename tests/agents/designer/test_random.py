"""Random graphs of fusible operators: every one has a design, and it computes what torch computes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from akg_dynamo.core.types import Design

_UNARY = [
    torch.tanh, torch.sigmoid, torch.abs, torch.cos, lambda x: x * 0.5 + 1, lambda x: x.relu(), lambda x: x.clamp(-1, 1)
]  # fmt: skip
_BINARY = [torch.add, torch.sub, torch.mul, torch.maximum, lambda a, b: torch.where(a > b, a, b * 0.5)]


class _Graph:
    """A random function of tensors, the same on every call."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rng = random.Random(self.seed)
        values = list(inputs)
        for _ in range(rng.randint(3, 14)):
            values.append(self._step(rng, values))
        made = values[len(inputs) :]
        return tuple({id(v): v * 1 for v in [made[-1], *rng.sample(made, min(2, len(made)))]}.values())

    def _step(self, rng: random.Random, values: list[torch.Tensor]) -> torch.Tensor:
        x = rng.choice(values[-4:])
        kind = rng.choice(["unary", "binary", "binary", "reduce", "view", "move", "norm"])
        if kind == "binary":
            y = rng.choice(values)
            shape = self._broadcast(x, y)
            return rng.choice(_BINARY)(x, y) if shape else rng.choice(_BINARY)(x, torch.cos(x))
        if kind == "reduce" and x.dim():
            dims = rng.sample(range(x.dim()), rng.randint(1, x.dim()))
            op = rng.choice([torch.sum, torch.mean, torch.amax, torch.amin])
            return op(x, dims, keepdim=rng.random() < 0.7)
        if kind == "view" and x.dim():
            return self._view(rng, x)
        if kind == "move" and x.dim():
            return self._move(rng, x)
        if kind == "norm" and x.dim():
            return torch.softmax(x, rng.randrange(x.dim()))
        return rng.choice(_UNARY)(x)

    def _broadcast(self, x: torch.Tensor, y: torch.Tensor) -> bool:
        try:
            shape = torch.broadcast_shapes(x.shape, y.shape)
        except RuntimeError:
            return False
        return shape.numel() < 5000

    def _view(self, rng: random.Random, x: torch.Tensor) -> torch.Tensor:
        choice = rng.randrange(5)
        if choice == 0:
            return x.permute(rng.sample(range(x.dim()), x.dim()))
        if choice == 1:
            return x.reshape(-1)
        if choice == 2:
            n = x.numel()
            a = rng.choice([d for d in range(1, n + 1) if n % d == 0])
            return x.reshape(a, n // a)
        dim = rng.randrange(x.dim())
        if choice == 3 and x.shape[dim] > 2:
            return x.narrow(dim, 1, x.shape[dim] - 2)
        return x.unsqueeze(dim)

    def _move(self, rng: random.Random, x: torch.Tensor) -> torch.Tensor:
        dim = rng.randrange(x.dim())
        choice = rng.randrange(4)
        if choice == 0 and x.numel() < 1000:
            return torch.cat([x, torch.cos(x)], dim)
        if choice == 1:
            return x.flip(dim)
        if choice == 2:
            return x.roll(1, dim)
        if x.numel() < 1000:
            return torch.nn.functional.pad(x, (1, 2), value=0.5)
        return torch.sigmoid(x)


def _tensors(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rng = random.Random(-seed - 1)
    shape = [rng.choice([1, 3, 4, 6, 17]) for _ in range(rng.randint(1, 4))]
    while torch.Size(shape).numel() > 1500:
        shape.pop()
    full = torch.randn(shape, generator=generator)
    thin = torch.randn([s if rng.random() < 0.5 else 1 for s in shape], generator=generator)
    strided = torch.randn([2 * s for s in shape], generator=generator)[tuple(slice(0, 2 * s, 2) for s in shape)]
    return [full, thin, strided]


@pytest.mark.parametrize("seed", range(60))
def test_random_graph(seed: int, designed: Callable[..., Design]) -> None:
    designed(_Graph(seed), *_tensors(seed))


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("seed", range(60, 100))
def test_random_graph_on_cuda(seed: int, designed_for_cuda: Callable[..., Design]) -> None:
    designed_for_cuda(_Graph(seed), *_tensors(seed))
