"""Every spelling must run the very operator it stands for: tried on torch's own samples of each operator."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from akg_dynamo.spelling import Namespace, Speller

opinfo = pytest.importorskip("torch.testing._internal.common_methods_invocations")


class Recorder(TorchDispatchMode):
    """Keeps the overloads that were dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Evaluator(fx.Interpreter):
    """Runs a graph and, beside each node, its spelling."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.names = {n: n.name for n in gm.graph.nodes}
        self.checked: set[Any] = set()

    def run_node(self, n: fx.Node) -> Any:
        node = n
        result = super().run_node(node)
        target = node.target
        if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
            return result
        if target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags:
            return result
        # Without its overload's own call there is nothing to compare: that spelling is the overload.
        namespace = Namespace(set(self.names.values()))
        text = Speller(namespace, self.names).call(node)
        if f"{target._schema.name.partition('::')[2]}" in text and text.startswith("aten_"):
            return result
        scope = {self.names[k]: v for k, v in self.env.items()}
        with Recorder() as recorder:
            spelled = eval(text, namespace.globals, scope)
        # div.Scalar is div.Tensor of a wrapped number: one operator, whichever of the two Python picks.
        ran = {func._schema.name for func in recorder.seen} - {"aten::lift_fresh"}
        expected = {"aten::view"} if target is torch.ops.aten._unsafe_view.default else {target._schema.name}
        assert ran <= expected, f"{text} ran {ran}, not {target}"
        for got, want in zip(_tensors(spelled), _tensors(result), strict=True):
            assert got.dtype == want.dtype
            assert got.stride() == want.stride()
            if "empty" in target._schema.name:
                continue
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
        self.checked.add(target)
        return result


def _tensors(value: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(value)
    return [v for v in leaves if isinstance(v, torch.Tensor)]


def _caller(op: Any) -> Any:
    return lambda s: op(s.input, *s.args, **s.kwargs)


@pytest.mark.parametrize("part", range(8))
def test_every_spelling_dispatches_to_its_overload(part: int) -> None:
    checked: set[Any] = set()
    for op in opinfo.op_db[part::8]:
        if "jiterator" in op.name or not op.supports_dtype(torch.float32, "cpu") or "linalg" in op.name:
            continue
        for sample in itertools.islice(op.sample_inputs("cpu", torch.float32), 2):
            try:
                gm = make_fx(_caller(op), tracing_mode="real")(sample)
            except (RuntimeError, TypeError, ValueError, NotImplementedError):
                continue  # not traceable without its data
            evaluator = Evaluator(gm)
            with torch.no_grad():
                evaluator.run(sample)
            checked |= evaluator.checked
    assert len(checked) > 15, sorted(map(str, checked))
