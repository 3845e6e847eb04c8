"""Every formula against the tensor it stands for, at the sizes that were traced and at others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from akg_dynamo.closed_form import Form, closed_forms
from akg_dynamo.formulas import Choice, Linear

INF = float("inf")


def traced(f: Callable[..., object], *inputs: Tensor, dynamic: bool = False) -> fx.GraphModule:
    """Dynamo's graph of `f`; if `dynamic`, for every size of the inputs."""
    graphs: list[fx.GraphModule] = []

    def keep(gm: fx.GraphModule, _inputs: object) -> Callable[..., Any]:
        graphs.append(gm)
        return gm.forward

    torch._dynamo.reset()
    for x in inputs if dynamic else ():
        torch._dynamo.mark_dynamic(x, tuple(range(x.dim())))
    torch.compile(f, backend=keep, fullgraph=True)(*inputs)
    (gm,) = graphs
    return gm


def value_of(linear: Linear, shape: torch.Size, symbols: Mapping[Any, int]) -> Tensor:
    constant = linear.constant if isinstance(linear.constant, int) else int(linear.constant.subs(symbols))
    total = torch.full(shape, constant)
    for dim, slope in linear.slopes:
        total += slope * torch.arange(shape[dim]).view(-1, *[1] * (len(shape) - dim - 1))
    return total


def made(form: Form, shape: torch.Size, symbols: Mapping[Any, int]) -> Tensor:
    """The tensor that a form says it is."""
    if isinstance(form.element, Linear):
        return value_of(form.element, shape, symbols).to(form.dtype)
    holds = torch.ones(shape, dtype=torch.bool)
    for condition in form.element.conditions:
        holds &= value_of(condition, shape, symbols) >= 0
    yes, no = (torch.tensor(v, dtype=form.dtype) for v in (form.element.yes, form.element.no))
    return torch.where(holds, yes, no)


class Compare(fx.Interpreter):
    """Runs a graph and compares each node that has a form."""

    def __init__(self, gm: fx.GraphModule, forms: Mapping[fx.Node, Form]) -> None:
        super().__init__(gm, garbage_collect_values=False)
        self.forms = forms
        self.symbols: dict[Any, int] = {}
        self.compared = 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        example = n.meta.get("example_value")
        if n.op == "placeholder" and isinstance(example, torch.SymInt):
            self.symbols[example.node.expr] = value
        if n in self.forms:
            assert value.dtype is self.forms[n].dtype
            torch.testing.assert_close(made(self.forms[n], value.shape, self.symbols), value, rtol=0, atol=0)
            self.compared += 1
        return value


def compare(gm: fx.GraphModule, *inputs: object) -> dict[str, Form]:
    """The forms of a graph by name, each compared with what the graph computes."""
    forms = closed_forms(gm.graph)
    interpreter = Compare(gm, forms)
    interpreter.run(*inputs)
    assert interpreter.compared == len(forms)
    return {node.name: form for node, form in forms.items()}


def last(f: Callable[..., Tensor], x: Tensor | None = None) -> Form | None:
    """The form of what `f` returns, if it has one: of several sizes that one graph is for, each compared."""
    x = torch.zeros(5, 7) if x is None else x
    for dynamic in (False, True):
        gm = traced(lambda x: (f(x), x + 1), x.clone(), dynamic=dynamic)
        (output,) = gm.graph.find_nodes(op="output")
        for rows, columns in ((5, 7),) if not dynamic else ((5, 7), (9, 3), (2, 11)):
            sizes = [rows, columns] if dynamic else []
            forms = compare(gm, *sizes, x.new_zeros(rows, columns))
    return forms.get(output.args[0][0].name)


def ramp(n: Any) -> Tensor:
    return torch.arange(n)


def subsequent(kept: Tensor) -> Tensor:
    return kept.float().masked_fill(kept == 0, -INF).masked_fill(kept == 1, 0.0)


def packed(positions: Tensor) -> Tensor:
    return (torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1) != 1).cumsum(-1)


KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "a ramp": lambda x: torch.arange(x.shape[1]),
    "ramp from, by": lambda x: torch.arange(3, 40, 4) + torch.arange(start=2, end=12),
    "causal": lambda x: ramp(x.shape[1])[None, :] <= ramp(x.shape[0])[:, None],
    "window": lambda x: (ramp(x.shape[1]) <= ramp(x.shape[0])[:, None]) & (
        ramp(x.shape[1]) > ramp(x.shape[0])[:, None] - 3
    ),
    "outside the window": lambda x: ~(
        (ramp(x.shape[1]) <= ramp(x.shape[0])[:, None]) & (ramp(x.shape[1]) > ramp(x.shape[0])[:, None] - 3)
    ),
    "tril": lambda x: torch.ones_like(x, dtype=torch.bool).tril(),
    "tril, diagonal": lambda x: torch.ones(x.shape, dtype=torch.int64).tril(2),
    "triu of -inf": lambda x: torch.triu(torch.full(x.shape, -INF), diagonal=1),
    "subsequent": lambda x: subsequent((torch.triu(torch.ones(x.shape)) == 1).transpose(0, 1)),
    "where": lambda x: torch.where(ramp(x.shape[1]) >= 2, 0.0, -INF),
    "packed": lambda x: packed(ramp(x.shape[1])[None].expand(x.shape)),
    "gathered": lambda x: (ramp(x.shape[0]).new_ones(x.shape) - 3)[ramp(x.shape[0])[:, None], ramp(x.shape[1])],
    "gathered ramp": lambda x: ramp(x.shape[1])[None].expand(x.shape)[ramp(x.shape[0])[:, None], ramp(x.shape[1])],
    "slices": lambda x: ramp(x.shape[1])[None, 1::2, None][..., 0],
    "the last one": lambda x: ramp(x.shape[1])[-1],
    "reshaped": lambda x: ramp(x.shape[1]).view(1, -1, 1).transpose(0, 1).reshape(-1, 1).squeeze(1).unsqueeze(0),
    "eq": lambda x: ramp(x.shape[0])[:, None] == ramp(x.shape[1]) - 1,
    "ne": lambda x: ramp(x.shape[0])[:, None].ne(ramp(x.shape[1])),
    "or": lambda x: (ramp(x.shape[1]) >= 3) | (torch.zeros(x.shape) > 1),
    "or of two": lambda x: (ramp(x.shape[1]) >= 3) | (ramp(x.shape[1]) < 1),
    "contradiction": lambda x: (ramp(x.shape[1]) >= 3) & ~(ramp(x.shape[1]) >= 3),
    "cast": lambda x: (ramp(x.shape[1]) < 2).to(torch.bfloat16),
    "repeat": lambda x: (ramp(x.shape[1]) < 2)[None].repeat(x.shape[0], 1).type(torch.int32),
}  # fmt: skip

UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "of the input": lambda x: x.bool(),
    "random": lambda x: torch.rand(x.shape) > 2,
    "rounded": lambda x: torch.full(x.shape, 0.1),
    "beyond half": lambda x: torch.full(x.shape, -1e9, dtype=torch.float32),
    "wraps": lambda x: torch.arange(300, dtype=torch.uint8)[: x.shape[1]],
    "float ramp": lambda x: torch.arange(0.0, 1.0, 0.25),
    "list index": lambda x: torch.arange(9)[[0, 1]],
    "negative index": lambda x: torch.arange(99)[torch.arange(x.shape[1]) - 1],
    "too large an index": lambda x: torch.arange(99)[torch.arange(x.shape[1]) + 1],
    "two windows": lambda x: KNOWN["window"](x) | (ramp(x.shape[1]) > ramp(x.shape[0])[:, None] + 2),
    "alpha": lambda x: torch.add(ramp(x.shape[1]), ramp(x.shape[1]), alpha=2),
    "cumsum of a ramp": lambda x: ramp(x.shape[1]).cumsum(0),
    "flip": lambda x: ramp(x.shape[1]).flip(0),
    "empty": lambda x: torch.empty(x.shape, dtype=torch.bool),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known(name: str) -> None:
    assert last(KNOWN[name]) is not None


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown(name: str) -> None:
    assert last(UNKNOWN[name]) is None


def test_a_chance_is_no_proof() -> None:
    """What holds at the traced sizes alone has a formula that says so, or none."""
    narrow_window = last(lambda x: ramp(x.shape[0])[:, None] - ramp(x.shape[1]) < 5)
    assert narrow_window is not None
    assert isinstance(narrow_window.element, Choice)
    assert not narrow_window.element.is_constant


Step = tuple[str, int, int, int]
Pool = dict[str, list[Tensor]]
LITERALS = st.integers(-4, 9)
NAMES = (
    "ramp, shift, subtract, le, lt, eq, ne, ge scalar, and, or, not, tril, triu, where, masked_fill, transposed, "
    "gather, expand, slice, diff, cumsum, long, equals zero"
)
STEPS = st.tuples(st.sampled_from(NAMES.split(", ")), st.integers(0, 9), st.integers(0, 9), LITERALS)


def run(steps: list[Step], x: Tensor) -> list[Tensor]:
    """What the steps make, all of x's shape: integers, bools and floats."""
    n = x.shape[0]
    ints, bools, floats = [ramp(n)[:, None].expand(n, n)], [torch.ones_like(x, dtype=torch.bool)], [torch.zeros(n, n)]
    for name, i, j, literal in steps:
        a, b = ints[i % len(ints)], ints[j % len(ints)]
        p, q = bools[i % len(bools)], bools[j % len(bools)]
        f, g = floats[i % len(floats)], floats[j % len(floats)]
        match name:
            case "ramp":
                ints.append(torch.arange(literal, literal + n).expand(n, n))
            case "shift":
                ints.append(a + literal)
            case "subtract":
                ints.append(a - b)
            case "le":
                bools.append(a <= b)
            case "lt":
                bools.append(a < b)
            case "eq":
                bools.append(a == b)
            case "ne":
                bools.append(a.ne(b))
            case "ge scalar":
                bools.append(a >= literal)
            case "and":
                bools.append(p & q)
            case "or":
                bools.append(p | q)
            case "not":
                bools.append(~p)
            case "tril":
                bools.append(p.tril(literal))
            case "triu":
                floats.append(torch.triu(f, diagonal=literal))
            case "where":
                floats.append(torch.where(p, f, float(literal)))
            case "masked_fill":
                floats.append(g.masked_fill(p, -INF))
            case "transposed":
                bools.append(p.transpose(0, 1))
            case "gather":
                ints.append(a[ramp(n)[:, None], ramp(n)[None, :]])
            case "expand":
                ints.append(a[:1].expand(n, n))
            case "slice":
                bools.append(p[1:, None, :][:, 0].repeat(1, 1)[:1].expand(n, n))
            case "diff":
                ints.append(torch.diff(a, prepend=a[:, :1] - 1, dim=-1))
            case "cumsum":
                ints.append(p.cumsum(j % 2))
            case "long":
                bools.append(p.long() >= literal)
            case "equals zero":
                bools.append(f == 0)
    return [*ints, *bools, *floats]


def follow(steps: list[Step], dynamic: bool) -> None:
    gm = traced(lambda x: (*run(steps, x), x + 1), torch.zeros(6, 6), dynamic=dynamic)
    symbols = sum(isinstance(p.meta["example_value"], torch.SymInt) for p in gm.graph.find_nodes(op="placeholder"))
    for n in (6,) if not dynamic else (6, 2, 13):
        compare(gm, *[n] * symbols, torch.zeros(n, n))


CHAINS = given(st.lists(STEPS, min_size=3, max_size=14), st.booleans())


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@CHAINS
def test_random_chains(steps: list[Step], dynamic: bool) -> None:
    follow(steps, dynamic)


@pytest.mark.conformance
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@CHAINS
def test_many_random_chains(steps: list[Step], dynamic: bool) -> None:
    follow(steps, dynamic)
