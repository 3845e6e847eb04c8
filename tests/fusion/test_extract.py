"""Canonical subgraphs: the same operation is the same digest, layouts and sizes are the trace's, no guard is added."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from graphs import CORRECT, CPU, capture
from torch import fx, nn

from akg_dynamo.core.types import Subgraph, SymInt, TensorSpec
from akg_dynamo.fusion.extract import Cut, extract
from akg_dynamo.fusion.partition import plan


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x)) * 2) + 1)


def cuts_of(function: Callable[..., Any], *args: Any, **how: Any) -> list[Cut]:
    found = []
    for gm in capture(function, *args, **how):
        found += extract(gm, plan(gm, target=CPU, options=CORRECT))
    return found


def one(function: Callable[..., Any], *args: Any, **how: Any) -> Subgraph:
    (cut,) = cuts_of(function, *args, **how)
    return cut.subgraph


def digests(layers: int) -> tuple[set[str], int]:
    found = set()
    count = 0
    for dynamic in (False, True):
        model = nn.Sequential(*(Block() for _ in range(layers)))
        for cut in cuts_of(model, torch.randn(6, 16), dynamic=dynamic, backward=True):
            found.add(cut.subgraph.digest)
            count += 1
    return found, count


def test_deeper_models_have_no_more_subgraphs_to_solve() -> None:
    four, count_four = digests(4)
    eight, count_eight = digests(8)
    assert four == eight
    assert count_eight > count_four


def test_strides_are_the_traces() -> None:
    sub = one(lambda x, y: x.t() * 2 + y, torch.randn(8, 4), torch.randn(4, 8).t().contiguous().t())
    assert [s.stride for s in sub.inputs] == [(1, 4), (1, 4)]
    assert sub.output_specs[0].stride == (1, 4)


def test_what_differs_is_another_digest() -> None:
    x = torch.randn(4, 8)
    base = one(lambda x: x * 2 + 1, x)
    assert base.digest == one(lambda z: z * 2 + 1, torch.ones(4, 8)).digest
    others = [
        one(lambda x: x * 2 + 2, x),
        one(lambda x: x * 2 - 1, x),
        one(lambda x: x * 2 + 1, x.double()),
        one(lambda x: x * 2 + 1, torch.randn(4, 9)),
        one(lambda x: x * 2 + 1, torch.randn(8, 4).t()),
        one(lambda x: (x * 2 + 1, x * 2)[0] + 0.5, x),
    ]
    assert len({base.digest, *(s.digest for s in others)}) == 1 + len(others)


def test_symbols_are_renumbered_and_bounded() -> None:
    (cut,) = cuts_of(lambda x, y: (x.view(-1) * 2 + y).sin(), torch.randn(6, 10), torch.randn(60), dynamic=True)
    sub = cut.subgraph
    assert [s.name for s in sub.symbols] == [f"s{i}" for i in range(len(sub.symbols))]
    assert all(s.lo >= 2 for s in sub.symbols)
    assert len(cut.symbols) == len(sub.symbols)
    (again,) = cuts_of(lambda p, q: (p.view(-1) * 2 + q).sin(), torch.randn(6, 10), torch.randn(60), dynamic=True)
    assert again.subgraph.digest == sub.digest


def test_hints_are_not_in_the_digest() -> None:
    a = one(lambda x: x * 2 + 1, torch.randn(6, 10), dynamic=True)
    b = one(lambda x: x * 2 + 1, torch.randn(7, 12), dynamic=True)
    assert a.digest == b.digest
    assert [s.hint for s in a.symbols] == [6, 10]
    assert [s.hint for s in b.symbols] == [7, 12]


def test_sizes_as_arguments_are_expressions() -> None:
    sub = one(lambda x: (x + x.shape[0] * 3) / x.shape[1], torch.randn(6, 10), dynamic=True)
    constants = [a for n in sub.nodes for a in n.args if isinstance(a, SymInt)]
    assert {c.expr.replace(" ", "") for c in constants} == {"3*s0", "s1"}


def test_no_guard_is_added() -> None:
    counts: list[int] = []

    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = torch.cat([x, y]) * 2
        return (z[: x.shape[0] // 2] + 1).softmax(-1)

    for gm in capture(f, torch.randn(6, 10), torch.randn(5, 10), dynamic=True):
        sizes = [n.meta["val"] for n in gm.graph.nodes if isinstance(n.meta.get("val"), torch.SymInt)]
        env = sizes[0].node.shape_env
        counts += [len(env.guards), len(env.replacements)]
        extract(gm, plan(gm, target=CPU, options=CORRECT))
        counts += [len(env.guards), len(env.replacements)]
    assert counts[:2] == counts[2:4]


def test_one_compilation_serves_all_sizes() -> None:
    compiled = []

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        from torch._dynamo.backends.common import aot_autograd

        def inner(g: fx.GraphModule, _: Any) -> Any:
            compiled.append(extract(g, plan(g, target=CPU, options=CORRECT)))
            return g.forward

        return aot_autograd(fw_compiler=inner, inference_compiler=inner, decompositions={})(gm, inputs)

    torch._dynamo.reset()
    f = torch.compile(lambda x: (x * 2).softmax(-1).sum(0), backend=backend, dynamic=True)
    with torch.no_grad():
        for n in (3, 4, 5, 16, 17, 100):
            f(torch.randn(n, n + 3))
    assert len(compiled) == 1


def test_sizes_read_from_intermediates_do_not_make_them_outputs() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        h = (x * 2).relu()
        return torch.mm(h / h.shape[0], w)

    (cut,) = cuts_of(f, torch.randn(6, 10), torch.randn(10, 3), dynamic=True)
    assert len(cut.outputs) == 1


def test_a_data_dependent_size_stays_with_torch() -> None:
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        cuts = cuts_of(lambda x: torch.nonzero(x + 1).float() * 2, torch.randn(6))
    assert [[n.target for n in c.subgraph.nodes] for c in cuts] == [["aten.add.Tensor"]]


def test_cutting_is_cheap() -> None:
    model = nn.Sequential(*(Block() for _ in range(16)))
    gm, _ = capture(model, torch.randn(6, 16), backward=True)
    found = plan(gm, target=CPU, options=CORRECT)
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        extract(gm, found)
        best = min(best, time.process_time() - start)
    assert best / len(gm.graph.nodes) < 0.3e-3


def test_every_value_is_numbered() -> None:
    for cut in cuts_of(Block(), torch.randn(6, 16), backward=True):
        sub = cut.subgraph
        assert all(isinstance(sub.spec_of(v), TensorSpec) for v in sub.outputs)
        assert min(sub.outputs) >= len(sub.inputs)
