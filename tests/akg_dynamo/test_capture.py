"""What is captured computes what eager computes: values, gradients, mutation, aliasing, layouts, memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import akg_dynamo
from akg_dynamo.background import background

from .conftest import ReferenceSolver, Run

ALL = {"gate": "correct"}


def compiled(function: Any, **options: object) -> Any:
    dynamic = options.pop("dynamic", None)
    return torch.compile(function, backend="akg", options={**ALL, **options}, dynamic=dynamic)


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(s, requires_grad=True) for s in shapes]


def gradients(function: Callable[..., torch.Tensor], tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    out = function(*tensors)
    return (out.detach(), *torch.autograd.grad(out.pow(2).sum(), tensors))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_gradients(solver: ReferenceSolver, dynamic: bool, causal: bool) -> None:
    """torch's core decompositions give CPU attention a forward whose second output its backward misreads."""

    def f(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q * 2, k + 1, v, is_causal=causal).relu() + 1

    tensors = leaves(*[(2, 3, 8, 16)] * 3)
    for got, want in zip(gradients(compiled(f, dynamic=dynamic), tensors), gradients(f, tensors), strict=True):
        torch.testing.assert_close(got, want)
    assert {r.kind for r in akg_dynamo.explain()} == {"forward", "backward"}


def test_composite_operators_are_kept(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = F.group_norm(F.gelu(F.layer_norm(x, (16,))), 4)
        return F.log_softmax(F.dropout(y, 0.5), -1) @ w

    tensors = leaves((2, 8, 16), (16, 4))
    for got, want in zip(gradients(compiled(f), tensors), gradients(f, tensors), strict=True):
        torch.testing.assert_close(got, want)
    targets = {t for r in akg_dynamo.explain() for k in r.kernels for t in k.nodes}
    targets |= {n.target for r in akg_dynamo.explain() for n in r.left}
    for name in ("native_layer_norm", "native_group_norm", "gelu", "_log_softmax", "native_dropout"):
        assert any(name in t for t in targets), (name, targets)


def test_dropout_draws_the_numbers_eager_draws(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        a = F.dropout(x * 2, 0.5)
        return F.dropout(a + 1, 0.3) + torch.rand_like(x)

    x = torch.randn(64, 64)
    torch.manual_seed(3)
    want = f(x)
    torch.manual_seed(3)
    torch.testing.assert_close(compiled(f)(x), want, rtol=0, atol=0)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_batch_norm_updates_its_buffers(solver: ReferenceSolver, training: bool, grad: bool) -> None:
    def net() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).train(training)

    ours, theirs = net(), net()
    g = compiled(ours)
    with torch.set_grad_enabled(grad):
        for seed in range(3):
            torch.manual_seed(seed)
            x = torch.randn(2, 3, 8, 8)
            torch.testing.assert_close(g(x), theirs(x))
    for (name, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_training_steps(solver: ReferenceSolver) -> None:
    def net() -> torch.nn.Module:
        torch.manual_seed(0)
        layers = [torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4)]
        return torch.nn.Sequential(*layers)

    losses = []
    for wrap in (lambda m: m, compiled):
        model = net()
        step = wrap(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        torch.manual_seed(5)
        x, y = torch.randn(32, 8), torch.randint(0, 4, (32,))
        trace = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = F.cross_entropy(step(x), y)
            loss.backward()
            optimizer.step()
            trace.append(loss.item())
        losses.append(trace)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_tangents_of_any_layout(solver: ReferenceSolver) -> None:
    """What .backward() hands over is not guarded by Dynamo: an expanded or transposed tangent must work."""

    def f(x: torch.Tensor) -> torch.Tensor:
        return (x * 2).sigmoid() + 1

    (x,) = leaves((4, 6))
    g = compiled(f)
    for tangent in (
        torch.ones(1, 1).expand(4, 6),
        torch.randn(6, 4).t(),
        torch.randn(4, 12)[:, ::2],
        torch.randn(4, 6),
    ):
        (got,) = torch.autograd.grad(g(x), x, tangent)
        (want,) = torch.autograd.grad(f(x), x, tangent)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dynamic", [False, True])
def test_inputs_at_an_offset_and_with_strides(solver: ReferenceSolver, dynamic: bool) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).tanh()

    g = compiled(f, dynamic=dynamic)
    base = torch.randn(40, 12)
    for x in (base[3:19], base[5:21], base[1:33:2], base.t()[:, 4:20], base[:16, 1:9], base[:1].expand(16, 12)):
        got, want = g(x), f(x)
        torch.testing.assert_close(got, want)
        assert got.stride() == want.stride()


@pytest.mark.parametrize(
    "layout",
    [
        lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        lambda: torch.randn(5, 4, 3).permute(2, 0, 1),
        lambda: torch.randn(6, 4)[:, :1],
        lambda: torch.randn(0, 3),
        lambda: torch.tensor(2.0),
    ],
)
def test_results_have_eagers_strides(solver: ReferenceSolver, layout: Callable[[], torch.Tensor]) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = (x * 2).exp()
        return y, (y + 1).transpose(0, -1) if y.dim() else y + 1

    x = layout()
    for got, want in zip(compiled(f)(x), f(x), strict=True):
        assert got.stride() == want.stride()
        torch.testing.assert_close(got, want)


def test_an_input_returned_is_the_input(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y = (x + 1).relu()
        return x, y, x.view(-1)

    x = torch.randn(2, 3)
    same, fresh, view = compiled(f)(x)
    assert same is x
    assert view.data_ptr() == x.data_ptr()
    fresh.add_(100)
    torch.testing.assert_close(x, same)
    assert fresh.data_ptr() != x.data_ptr()


def test_fresh_results_never_share_storage(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x * 1, x + 0, (x * 1).clone()

    x = torch.randn(4)
    kept = x.clone()
    for result in compiled(f)(x):
        result.fill_(7)
    torch.testing.assert_close(x, kept)


@pytest.mark.parametrize("dynamic", [False, True])
def test_writes_into_inputs(solver: ReferenceSolver, dynamic: bool) -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        old = x * 2
        x.add_(y)
        y[1:3] = x[0:2].exp()
        y.mul_(2)
        return old + x + y

    ours, theirs = ([torch.randn(6, 5, generator=torch.Generator().manual_seed(s)) for s in (1, 2)] for _ in range(2))
    torch.testing.assert_close(compiled(f, dynamic=dynamic)(*ours), f(*theirs))
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want)


def test_inputs_that_are_views_of_each_other(solver: ReferenceSolver) -> None:
    def f(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a.add_(1)
        return (b * 2).relu()

    ours, theirs = torch.randn(8), None
    theirs = ours.clone()
    torch.testing.assert_close(compiled(f)(ours[:6], ours[2:]), f(theirs[:6], theirs[2:]))
    torch.testing.assert_close(ours, theirs)


class Alive:
    """How many of the tensors it was shown still exist."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[torch.Tensor]] = []
        self.most = 0

    def show(self, tensors: tuple[torch.Tensor, ...]) -> None:
        self.seen += [weakref.ref(t) for t in tensors]
        self.most = max(self.most, sum(ref() is not None for ref in self.seen))


def test_values_die_at_their_last_use(solver: ReferenceSolver) -> None:
    alive = Alive()

    def watch(_: object, run: Run) -> Run:
        def watched(*args: object) -> tuple[torch.Tensor, ...]:
            results = run(*args)
            alive.show(results)
            return results

        return watched

    solver.wrap = watch

    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        for _ in range(12):
            x = (x @ w).relu() + 1
        return x

    x, w = torch.randn(4, 4), torch.randn(4, 4)
    with torch.no_grad():
        compiled(f)(x, w)
    assert len(alive.seen) == 12
    assert alive.most <= 2


def test_activations_are_freed_during_backward(solver: ReferenceSolver) -> None:
    """A compiled backward that is not boxed keeps every saved activation alive until it returns."""
    saved: list[weakref.ref[torch.Tensor]] = []
    left_at_the_end: list[int] = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            gc.collect()
            left_at_the_end.append(sum(ref() is not None for ref in saved))
            return gradient

    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            x = (x @ w).sigmoid()
        return x

    x, w = leaves((8, 8), (8, 8))
    probed = Probe.apply(x)
    out = compiled(f)(probed, w)
    saved += [weakref.ref(t) for t in out.grad_fn.saved_tensors if t is not w and t is not probed]
    assert len(saved) >= 5
    out.sum().backward()
    assert left_at_the_end == [0]


def test_symbols_become_kernel_arguments(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.cat([x, y], 1) * 2, -1).view(-1) + 1

    g = compiled(f, dynamic=True)
    for rows, a, b in ((3, 5, 7), (4, 6, 9), (11, 2, 3)):
        x, y = torch.randn(rows, a), torch.randn(rows, b)
        torch.testing.assert_close(g(x, y), f(x, y))
    assert any(sub.symbols for sub in solver.solved)


def test_dynamic_training(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.gelu(F.layer_norm(x, (x.shape[-1],)) @ w).softmax(-1)

    g = compiled(f, dynamic=True)
    for rows in (3, 7, 12):
        tensors = leaves((rows, 5, 8), (8, 6))
        for got, want in zip(gradients(g, tensors), gradients(f, tensors), strict=True):
            torch.testing.assert_close(got, want)


def test_background_generation(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).relu()

    x = torch.randn(5)
    g = compiled(f, generation="background")
    torch.testing.assert_close(g(x), f(x))
    assert background.wait(300)
    before = solver.calls
    torch.testing.assert_close(g(x), f(x))
    assert solver.calls == before + 1
    assert akg_dynamo.explain()[0].state == "ready"


def test_background_generation_of_a_training_step(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.gelu(F.layer_norm(x, (8,)) @ w).softmax(-1)

    g = compiled(f, generation="background")
    for _ in range(2):  # before the kernels are there, and with them
        tensors = leaves((3, 8), (8, 6))
        for got, want in zip(gradients(g, tensors), gradients(f, tensors), strict=True):
            torch.testing.assert_close(got, want)
        assert background.wait(300)
    assert solver.calls > 0


def test_a_meta_function_with_the_wrong_strides(solver: ReferenceSolver) -> None:
    """A kernel reads with the strides of the trace: what an operator really returned is brought to them."""
    with torch.library._scoped_library("akg_test", "FRAGMENT") as library:
        library.define("liar(Tensor x) -> Tensor")
        library.impl("liar", lambda x: (x.t().contiguous() * 1).t(), "CPU")
        library.impl("liar", lambda x: torch.empty(x.shape, device="meta"), "Meta")

        def f(x: torch.Tensor) -> torch.Tensor:
            return (torch.ops.akg_test.liar(x) * 2 + 1).relu()

        x = torch.randn(3, 5)
        torch.testing.assert_close(compiled(f)(x), f(x))
        assert solver.calls == 1


def test_integers_and_nothing_among_the_results(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor) -> tuple[Any, ...]:
        return (x * 2 + 1).relu(), x.shape[0] * 2, None, [x.shape[1], {"mean": (x + 1).mean()}]

    g = compiled(f, dynamic=True)
    for shape in ((3, 4), (5, 6)):
        x = torch.randn(shape)
        got, want = g(x), f(x)
        assert got[1] == want[1]
        assert got[2] is None
        assert got[3][0] == want[3][0]
        torch.testing.assert_close(got[3][1], want[3][1])


def test_a_scalar_read_from_a_tensor(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        size = n.item()
        torch._check(size >= 2)
        torch._check(size <= 100)
        return (torch.zeros(size) + 1).exp() + (x * 2).relu().sum()

    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        g = compiled(f)
        for n in (3, 8):
            x, size = torch.randn(4), torch.tensor(n)
            torch.testing.assert_close(g(x, size), f(x, size))


def test_autocast(solver: ReferenceSolver) -> None:
    linear = torch.nn.Linear(8, 8)

    def f(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.gelu(linear(x)).softmax(-1)

    x = torch.randn(4, 8)
    torch.testing.assert_close(compiled(f)(x), f(x), rtol=0, atol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8), (2, 3, 5, 8)])
def test_linear_layers_are_one_call(solver: ReferenceSolver, bias: bool, dynamic: bool, shape: tuple[int, ...]) -> None:
    layer = torch.nn.Linear(8, 6, bias)
    x = torch.randn(shape)
    g = compiled(lambda x: layer(x * 2).relu(), dynamic=dynamic)
    with torch.no_grad():
        torch.testing.assert_close(g(x), layer(x * 2).relu(), rtol=0, atol=0)
    source = akg_dynamo.explain()[-1].source
    assert "linear(" in source
    assert "mm(" not in source


def test_linear_on_rows_that_are_not_contiguous(solver: ReferenceSolver) -> None:
    layer = torch.nn.Linear(8, 6)
    x = torch.randn(3, 4, 8).transpose(0, 1)
    torch.testing.assert_close(compiled(lambda x: layer(x) * 2)(x), layer(x) * 2)
