"""What is computed last: only what nobody reads, only where it lowers the peak, and nothing overtakes a write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from akg_dynamo import executor
from akg_dynamo.executor import write_forward
from akg_dynamo.postpone import postpone
from akg_dynamo.schedule import schedule, step_inputs

F = Callable[..., Any]


def traced(f: F, *inputs: torch.Tensor) -> tuple[fx.GraphModule, list[fx.Node], fx.Node]:
    """The graph, its steps and its output."""
    gm = make_fx(f)(*inputs)
    steps, _ = schedule(gm.graph, [])
    return gm, [s for s in steps if isinstance(s, fx.Node)], next(n for n in gm.graph.nodes if n.op == "output")


def names(steps: Any) -> list[str]:
    return [step.name for step in steps]


class Held(TorchDispatchMode):
    """Bytes of the tensors that live, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.live.values()))
        return result


def held(gm: fx.GraphModule, *inputs: torch.Tensor) -> int:
    """The most that a call of the generated forward holds, beside its inputs."""
    forward = write_forward(gm, [], on_raise=lambda *_: pytest.fail("no kernel"), inputs_are_guarded=False).forward
    args = [x.clone() for x in inputs]
    mode = Held()
    with mode:
        results = forward(args)
    torch.testing.assert_close(tuple(results), tuple(gm(*inputs)))
    return mode.most


GRAD, HIDDEN, WEIGHT = torch.randn(4, 64), torch.randn(4, 8), torch.randn(64, 8)


def backward(grad: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    grad_weight = torch.mm(grad.t(), hidden)
    x = torch.mm(grad, weight)
    wide = torch.mm(x, weight.t())
    for _ in range(3):
        wide = torch.mm(torch.mm(wide.softmax(1), weight), weight.t())
    return grad_weight.t().t(), wide


def test_a_large_result_that_nobody_reads_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    gm, steps, output = traced(backward, GRAD, HIDDEN, WEIGHT)
    order = names(postpone(steps, output))
    assert order[-3:] == ["mm", "t_5", "t_6"]  # with its views
    assert sorted(order) == sorted(names(steps))
    now = held(gm, GRAD, HIDDEN, WEIGHT)
    monkeypatch.setattr(executor, "postpone", lambda steps, output, freed: list(steps))
    assert now < held(gm, GRAD, HIDDEN, WEIGHT)


def larger_operands(grad: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    tall = torch.mm(weight, hidden.t())
    small = torch.mm(tall.t(), tall)  # its operand would be held instead
    return small, torch.mm(torch.mm(grad, weight), torch.mm(weight.t(), weight))


def read_inside(grad: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    grad_weight = torch.mm(grad.t(), hidden)
    return grad_weight, torch.mm(torch.mm(grad, weight), grad_weight.t())


def before_a_write(grad: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    grad_weight = torch.mm(grad.t(), hidden)
    wide = torch.mm(torch.mm(torch.mm(grad, weight).softmax(1), weight.t()), weight)
    hidden.copy_(wide)
    return grad_weight, wide


@pytest.mark.parametrize("f", [larger_operands, read_inside, before_a_write])
def test_what_stays_where_it_is(f: F) -> None:
    _, steps, output = traced(f, GRAD, HIDDEN.clone(), WEIGHT)
    assert names(postpone(steps, output)) == names(steps)


def test_unknown_sizes_are_left_alone_and_unguarded() -> None:
    gm = make_fx(backward, tracing_mode="symbolic")(GRAD, HIDDEN, WEIGHT)
    steps, _ = schedule(gm.graph, [])
    output = next(n for n in gm.graph.nodes if n.op == "output")
    env = next(n for n in gm.graph.nodes if n.op == "placeholder").meta["val"].shape[0].node.shape_env
    before = len(env.guards)
    assert names(postpone(steps, output)) == names(steps)
    assert len(env.guards) == before


def test_an_input_that_would_be_freed_is_held_instead() -> None:
    """What was saved for the backward pass goes when it has been read: the result must be larger than that."""

    def f(saved: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = torch.mm(saved, x)
        wide = x
        for _ in range(3):
            wide = torch.mm(wide, x).softmax(1)
        return result, wide

    gm, steps, output = traced(f, torch.randn(16, 16), torch.randn(16, 16))
    saved = next(n for n in gm.graph.nodes if n.op == "placeholder")
    assert names(postpone(steps, output))[-1] == "mm"
    assert names(postpone(steps, output, freed=[saved])) == names(steps)


_PROGRAM = st.lists(
    st.tuples(st.sampled_from(["mm", "mm", "outer", "tanh", "t", "softmax", "drop"]), *[st.integers(0, 5)] * 2),
    min_size=3,
    max_size=14,
)


@settings(max_examples=100, deadline=None)
@given(_PROGRAM, st.sets(st.integers(0, 20), max_size=3))
def test_random_graphs(program: list[tuple[str, int, int]], returned: set[int]) -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x, w]
        for name, i, j in program:
            a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
            if name == "mm":
                made = torch.mm(a, b.t()) if a.shape[1] == b.shape[1] else torch.mm(a, a.t())
            elif name == "outer":
                made = torch.mm(a[:, :1], b[:1])
            elif name == "drop":
                made = torch.nn.functional.dropout(a, 0.5)
            else:
                made = a.softmax(1) if name == "softmax" else getattr(a, name)()
            values.append(made / 2 if name == "mm" else made)
        return (values[-1], *(values[k % len(values)] for k in sorted(returned)))

    x, w = torch.rand(3, 7), torch.rand(5, 7)
    gm, steps, output = traced(f, x, w)
    order = postpone(steps, output)
    done = {n for n in gm.graph.nodes if n.op == "placeholder"}
    for step in order:
        assert done.issuperset(step_inputs(step))
        done.add(step)  # type: ignore[arg-type]
    assert len(order) == len(steps)
    draws = [n for n in names(steps) if "dropout" in n or "bernoulli" in n]
    assert [n for n in names(order) if n in draws] == draws
    torch.manual_seed(1)
    expected = gm(x, w)
    torch.manual_seed(1)
    got = write_forward(gm, [], on_raise=lambda *_: pytest.fail("no kernel")).forward([x, w])
    torch.testing.assert_close(tuple(got), tuple(expected))
