"""Random well-formed sketches: text, checker, interpreter and torch agree on every one."""

from __future__ import annotations

import numpy as np
import pytest
from random_sketch import assert_agree, random_sketch
from torch_oracle import TorchOracle, from_torch

from akg_dynamo.agents.sketch import check, interpret, parse, to_text

SEEDS = 240
BATCH = 24


@pytest.mark.parametrize("batch", range(SEEDS // BATCH))
def test_interpreter_agrees_with_torch_and_with_itself_in_another_order(batch: int) -> None:
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        sketch, tensors, symbols = random_sketch(np.random.default_rng(seed))
        text = to_text(sketch)
        check(sketch)
        again = parse(text)
        assert again == sketch, text
        assert to_text(again) == text
        other = {name: x.copy() for name, x in tensors.items()}
        interpret(sketch, tensors, symbols)
        interpret(again, other, symbols, rng=np.random.default_rng(seed + 1))
        oracle = TorchOracle(sketch, tensors, symbols)
        want = {t.name: from_torch(oracle.tensors[t.name]) for t in sketch.tensors}
        try:
            assert_agree(sketch, other, tensors)
            assert_agree(sketch, tensors, want)
        except AssertionError as e:
            raise AssertionError(f"seed {seed}\n{text}") from e


def test_the_generator_covers_the_language() -> None:
    seen = "".join(to_text(random_sketch(np.random.default_rng(seed))[0]) for seed in range(400))
    for word in (
        "dot(", "scan_", "reduce_argmax(", "reduce_any(", " tmp", "where=", "other=", "strides(", "lanes(", "axis ",
        "parallel", "cast(", "fma(", "index(", " // ", " % ", "alloc([]", "bf16", "u8", "bool",
    ):  # fmt: skip
        assert word in seen, word
