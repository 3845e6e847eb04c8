"""What is in the key: everything that changes what is computed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from akg_dynamo.cache import shape_class, signature
from akg_dynamo.core.types import OpNode, Ref, Subgraph, Symbol, Target, TensorSpec

SPEC = TensorSpec("float32", (4, 8), (8, 1))
SUB = Subgraph((SPEC,), (), (OpNode("aten.relu.default", (Ref(0),), (), SPEC),), (1,))


def dynamic(hint: int, hi: int | None = None) -> Subgraph:
    spec = TensorSpec("float32", ("s0", 8), (8, 1))
    return Subgraph((spec,), (Symbol("s0", 2, hi, hint),), (OpNode("aten.relu.default", (Ref(0),), (), spec),), (1,))


@pytest.fixture
def restored() -> Iterator[None]:
    precision, tf32, cudnn = (
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch._C._set_cudnn_allow_tf32(cudnn)
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)


def test_the_same_question_has_the_same_key() -> None:
    again = Subgraph((SPEC,), (), (OpNode("aten.relu.default", (Ref(0),), (), SPEC),), (1,))
    assert signature.key(SUB, Target()) == signature.key(again, Target())
    assert len(signature.key(SUB, Target())) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_float32_matmul_precision("high"),
        # torch's own test helpers, once imported, freeze the property that sets this flag
        lambda: torch._C._set_cudnn_allow_tf32(not torch.backends.cudnn.allow_tf32),
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.set_flush_denormal(True),
    ],
    ids=["matmul precision", "cudnn tf32", "deterministic", "denormals"],
)
@pytest.mark.usefixtures("restored")
def test_a_flag_that_changes_eager_changes_the_key(change: Callable[[], object]) -> None:
    before = signature.key(SUB, Target())
    change()
    assert signature.key(SUB, Target()) != before


def test_everything_else_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    stride = replace(SPEC, stride=(1, 4))
    keys = [
        signature.key(SUB, Target()),
        signature.key(SUB, Target(isa="avx2")),
        signature.key(SUB, Target(dsl="triton_cuda")),
        signature.key(SUB, Target("cuda", "triton_cuda", "sm_80", "sm_80")),
        signature.key(SUB, Target("cuda", "triton_cuda", "sm_90", "sm_90")),
        signature.key(SUB, Target(), numerics="eager"),
        signature.key(SUB, Target(), numerics="fast", rtol=1e-2),
        signature.key(SUB, Target(), numerics="fast", rtol=1e-3),
        signature.key(SUB, Target(), toolchain="g++ 12 -O3"),
        signature.key(replace(SUB, inputs=(stride,)), Target()),
        signature.key(dynamic(64), Target()),
        signature.key(dynamic(100_000), Target()),
    ]
    monkeypatch.setattr(torch, "__version__", "9.9")
    keys.append(signature.key(SUB, Target()))
    monkeypatch.undo()
    monkeypatch.setattr(signature, "generator_version", lambda: "another")
    keys.append(signature.key(SUB, Target()))
    assert len(set(keys)) == len(keys)


def test_threads_belong_to_worth_it_only() -> None:
    before, key = signature.device(Target()), signature.key(SUB, Target())
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert signature.device(Target()) != before
        assert signature.key(SUB, Target()) == key
    finally:
        torch.set_num_threads(threads)


def test_a_class_is_bounded() -> None:
    cls = shape_class.of(dynamic(64))
    assert cls.symbols[0].lo == 2
    assert cls.symbols[0].hi == 4096
    assert shape_class.of(dynamic(64, hi=100)).symbols[0].hi == 100
    assert shape_class.of(dynamic(100_000)).symbols[0].hi >= 800_000
    assert cls.text == f"2<={cls.symbols[0].name}<=4096"
    assert shape_class.of(SUB).text == ""


def test_sizes_far_apart_have_keys_of_their_own() -> None:
    """What was found at one says nothing of the other."""
    assert signature.key(dynamic(64), Target()) != signature.key(dynamic(100_000), Target())
