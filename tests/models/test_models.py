"""Real models with random weights: outputs and gradients within the contract, and nearly everything in our kernels."""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
import zoo
from torch import nn

import akg_dynamo
from akg_dynamo.core.types import SplitReasonType
from akg_dynamo.explanation import GraphReport, records

THEIRS = {
    SplitReasonType.MATMUL,
    SplitReasonType.CONV,
    SplitReasonType.ATTENTION,
    SplitReasonType.SORT,
    SplitReasonType.VIEW,
    SplitReasonType.NOT_TENSOR,
}
VIEWS = re.compile(
    r"(_unsafe_view|view|permute|transpose|t|expand|unsqueeze|squeeze|slice|select|split|split_with_sizes|getitem"
    r"|detach|alias|as_strided|unbind|diagonal|unfold)(_\d+)?"
)
SIZES = [pytest.param("small", id="small"), pytest.param("large", id="large", marks=pytest.mark.conformance)]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    records.clear()


@dataclass(frozen=True)
class Passed:
    """A forward and a backward pass: the output, and the gradients of parameters and floating inputs, by name."""

    output: torch.Tensor
    gradients: dict[str, torch.Tensor]


def forward(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(*inputs)
    return output


def both(model: nn.Module, called: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Passed:
    """`called` is `model`, compiled or not."""
    model.zero_grad(set_to_none=True)
    output = called(*inputs)
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(output.shape, generator=generator).to(output.dtype)
    (output * weights).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return Passed(output.detach(), gradients)


def wide(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The same in fp64: the oracle."""
    return copy.deepcopy(model).double(), tuple(x.double() if x.is_floating_point() else x for x in inputs)


def beyond(actual: torch.Tensor, expected: torch.Tensor, exact: torch.Tensor, floor: float) -> str:
    """How `actual` breaks the contract; empty if it does not.

    RMS and largest error are at most twice eager's own, plus a few units in the last place of the largest value, plus
    `floor`: some gradients (of a key's bias) are zero but for rounding, and eager's own error is then one draw of it.
    """
    assert (actual.shape, actual.dtype, actual.stride()) == (expected.shape, expected.dtype, expected.stride())
    mine, theirs = actual.double() - exact, expected.double() - exact
    allowed = 8 * torch.finfo(expected.dtype).eps * exact.abs().max() + floor
    for name, norm in (("RMS", lambda x: x.square().mean().sqrt()), ("largest", lambda x: x.abs().max())):
        if not norm(mine) <= 2 * norm(theirs) + allowed:
            return f"{name} error {norm(mine):.3g}, eager's is {norm(theirs):.3g}, and {allowed:.3g} more is allowed"
    return ""


def coverage(graphs: list[GraphReport]) -> tuple[int, int, Counter[str]]:
    """Operators in our kernels, operators that could be (all but products, convolutions, … and views), and the rest.

    Copies into inputs are not the model's operators: AOTAutograd ends a graph with them where an input was changed.
    """
    ours = sum(not VIEWS.fullmatch(node) for graph in graphs for kernel in graph.kernels for node in kernel.nodes)
    left = [left for graph in graphs for left in graph.left if left.reason.kind not in THEIRS]
    rest = [x for x in left if not VIEWS.fullmatch(x.node) and x.target != "aten.copy_.default"]
    return ours, ours + len(rest), Counter(f"{x.target}: {x.reason}" for x in rest)


def assert_covered(graphs: list[GraphReport]) -> None:
    assert graphs, "nothing was compiled"
    for graph in graphs:
        assert not graph.fallbacks, graph.fallbacks
    ours, possible, rest = coverage(graphs)
    assert ours >= 0.9 * possible, f"{ours} of {possible}; not: {rest.most_common()}"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_outputs_and_coverage(name: str, size: zoo.Size) -> None:
    entry = zoo.build(name, size)
    compiled = torch.compile(entry.model, backend="akg", options={"gate": "correct"})
    actual, expected = forward(compiled, entry.inputs), forward(entry.model, entry.inputs)
    assert beyond(actual, expected, forward(*wide(entry.model, entry.inputs)), 0.0) == ""
    assert_covered(akg_dynamo.explain())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_gradients_and_coverage(name: str, size: zoo.Size) -> None:
    entry = zoo.build(name, size)
    model = zoo.without_dropout(entry.model)
    oracle, wide_inputs = wide(model, entry.inputs)
    untouched = copy.deepcopy(model)  # batch norm's running statistics move with every pass
    before = copy.deepcopy(model)
    compiled = torch.compile(model, backend="akg", options={"gate": "correct"})
    actual = both(model, compiled, entry.inputs)
    expected = both(untouched, untouched, entry.inputs)
    exact = both(oracle, oracle, wide_inputs)
    assert beyond(actual.output, expected.output, exact.output, 0.0) == ""
    assert actual.gradients.keys() == expected.gradients.keys()
    floor = 1e-7 * max(float(gradient.abs().max()) for gradient in exact.gradients.values())
    draws = [expected]

    def wrong() -> dict[str, str]:
        """By parameter, how its gradient breaks the contract against every draw of eager's error."""
        found = {}
        for parameter, gradient in actual.gradients.items():
            texts = [beyond(gradient, d.gradients[parameter], exact.gradients[parameter], floor) for d in draws]
            if all(texts):
                found[parameter] = texts[0]
        return found

    if wrong():
        draws += [both(m, m, entry.inputs) for m in (zoo.nudged(before, seed) for seed in range(4))]
    assert not wrong()
    for key, value in untouched.state_dict().items():  # running statistics
        torch.testing.assert_close(model.state_dict()[key], value)
    assert_covered(akg_dynamo.explain())


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_dropout_draws_what_eager_draws(name: str) -> None:
    entry = zoo.build(name)
    entry.model.train()
    compiled = torch.compile(entry.model, backend="akg", options={"gate": "correct"})
    torch.manual_seed(3)
    actual = both(entry.model, compiled, entry.inputs)
    torch.manual_seed(3)
    expected = both(entry.model, entry.model, entry.inputs)
    torch.testing.assert_close(actual.output, expected.output, rtol=1e-4, atol=1e-4)
    for parameter, gradient in expected.gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(actual.gradients[parameter], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-6)


@pytest.mark.parametrize("name", ["llama", "convnext"])
def test_with_the_profit_gate_values_hold_too(name: str) -> None:
    entry = zoo.build(name)
    actual = forward(torch.compile(entry.model, backend="akg"), entry.inputs)
    exact = forward(*wide(entry.model, entry.inputs))
    assert beyond(actual, forward(entry.model, entry.inputs), exact, 0.0) == ""
    assert akg_dynamo.explain()


def test_a_second_length_of_a_dynamic_model() -> None:
    entry = zoo.build("llama")
    compiled = torch.compile(entry.model, backend="akg", dynamic=True, options={"gate": "correct"})
    for length in (16, 23, 7):
        ids = torch.randint(0, 256, (2, length))
        exact = forward(*wide(entry.model, (ids,)))
        assert beyond(forward(compiled, (ids,)), forward(entry.model, (ids,)), exact, 0.0) == ""
    assert len(akg_dynamo.explain()) == 1, "a length compiled again"
    assert_covered(akg_dynamo.explain())
