"""The contract on values, sentence by sentence: what `numerics` means is tested under the words that promise it."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch

from akg_dynamo.agents.verifier import Judge, plan
from akg_dynamo.agents.verifier.numerics import FACTOR, FLOOR, Contract, Expected, Rule
from akg_dynamo.agents.verifier.truth import Truth, rule_of
from akg_dynamo.core.types import OpNode, Outcome, Ref, Subgraph, TorchConst

from .kernels import add_relu, contiguous, job, op, row_sum, single

EPS = torch.finfo(torch.float32).eps
TIMES = 1000


def verdict(
    rule: Rule, kernel: torch.Tensor, expected: Expected, absolute: torch.Tensor | None = None, **options: object
) -> str | None:
    """What the contract says of one case."""
    contract = Contract(rule, float(str(options.get("rtol", 0.0))), 1.0)
    reason = contract.add(0, kernel, expected, "a case", None if absolute is None else lambda: absolute)
    return reason or contract.finish()


def truth_of(sub: Subgraph, *inputs: torch.Tensor, numerics: str = "bounded") -> tuple[list[Expected], Truth]:
    truth = Truth(sub, numerics)
    with torch.no_grad():
        return truth.expected(truth.eager(inputs, {}), inputs, {}), truth


def holds(sub: Subgraph, kernel: Callable[..., torch.Tensor], *inputs: torch.Tensor, numerics: str = "bounded") -> bool:
    """Whether a kernel keeps to the contract on these inputs."""
    (wanted,), truth = truth_of(sub, *inputs, numerics=numerics)
    absolute = truth.absolute(inputs, {})[0] if truth.rule is not Rule.EXACT else None
    return verdict(truth.rule, kernel(*inputs), wanted, absolute) is None


def tf32(x: torch.Tensor) -> torch.Tensor:
    """What a matrix unit of ten mantissa bits sees of a float32."""
    bits = x.view(torch.int32)
    nearest = bits + 0xFFF + ((bits >> 13) & 1)
    return (nearest & ~0x1FFF).view(torch.float32)


# -- "Oracle: fp64 (double-double for fp64 tasks)" --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_oracle_is_fp64(dtype: str) -> None:
    x = torch.randn(64, 512).to(getattr(torch, dtype))
    (wanted,), _ = truth_of(row_sum(64, 512, dtype), x)
    assert wanted.oracle.dtype == torch.float64
    exact = torch.tensor([math.fsum(row) for row in x.tolist()], dtype=torch.float64)
    assert torch.allclose(wanted.oracle, exact, rtol=0, atol=1e-12)


def test_the_oracle_of_fp64_has_twice_the_digits() -> None:
    x = torch.randn(8, 513, dtype=torch.float64)
    (wanted,), truth = truth_of(row_sum(8, 513, "float64"), x)
    assert wanted.low is not None
    assert not truth.no_wide
    with mpmath.workprec(300):
        for high, low, row in zip(wanted.oracle.tolist(), wanted.low.tolist(), x.tolist(), strict=True):
            error = abs(mpmath.fsum(row) - (mpmath.mpf(high) + mpmath.mpf(low)))
            assert error <= mpmath.mpf(2) ** -95 * sum(map(abs, row))


def test_an_equally_accurate_fp64_sum_passes_and_one_of_fewer_digits_does_not() -> None:
    sub, x = row_sum(64, 512, "float64"), torch.randn(64, 512, dtype=torch.float64)
    assert holds(sub, lambda t: t.flip(1).sum(1), x)
    assert not holds(sub, lambda t: t.float().sum(1).double(), x)
    assert not holds(sub, lambda t: t.sum(1) * (1 + 1e-13), x)


def test_a_jump_of_fp64_values_is_open_only_within_eagers_error() -> None:
    """floor(49 * (x / 49)): with one rounding more or less it falls on either side of a whole number."""
    s = contiguous("float64", 4)
    nodes = (
        op("aten.div.Tensor", s, Ref(0), 49.0),
        op("aten.mul.Tensor", s, Ref(1), 49.0),
        op("aten.floor.default", s, Ref(2)),
    )
    sub = Subgraph((s,), (), nodes, (3,))
    x = torch.tensor([1.0, 2.5, 1.0, 7.25], dtype=torch.float64)
    assert float((x[0] / 49) * 49) < 1.0
    assert holds(sub, lambda t: t.floor(), x)
    assert not holds(sub, lambda t: t.floor() + torch.tensor([0.0, 1.0, 0.0, 0.0]), x)


def test_where_there_is_no_such_oracle_it_is_said(judge: Judge) -> None:
    s = contiguous("float64", 500)
    exp, lgamma = single("aten.exp.default", s, s), single("aten.lgamma.default", s, s)
    found = judge.judge([job(exp, "return (args[0].exp(),)"), job(lgamma, "return (args[0].lgamma(),)")])
    assert [v.outcome for v in found] == [Outcome.RIGHT, Outcome.RIGHT], [v.detail for v in found]
    assert not any("digits" in c for c in found[0].checked)
    assert any("no oracle of more digits: lgamma" in c for c in found[1].checked)


# -- "Per output tensor, RMS and maximum error <= 2 x eager's own on the same inputs" ---------------------------------


def _with_errors(largest: float, others: float, n: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    """An oracle of ones, and values that are off by so many last bits: the first, and all others."""
    values = torch.ones(n)
    values[1:] += others * EPS
    values[0] += largest * EPS
    return torch.ones(n, dtype=torch.float64), values


@pytest.mark.parametrize(
    ("largest", "others", "right"), [(130, 60, True), (70, 68, True), (140, 64, False), (64, 80, False)]
)
def test_the_largest_and_the_rms_error_may_be_twice_eagers(largest: float, others: float, right: bool) -> None:
    oracle, eager = _with_errors(64, 32)
    _, kernel = _with_errors(largest, others)
    assert (verdict(Rule.BOUNDED, kernel, Expected(eager, oracle)) is None) is right
    assert FACTOR == 2.0


def test_it_holds_for_each_output_alone() -> None:
    """A second output with large errors of eager's own does not pay for the first."""
    oracle, good = _with_errors(2, 2)
    _, bad = _with_errors(900, 900)
    contract = Contract(Rule.BOUNDED, 0.0, 1.0)
    assert contract.add(0, bad, Expected(good, oracle), "a case") is None
    assert contract.add(1, bad, Expected(bad, oracle), "a case") is None
    assert "output 0" in str(contract.finish())


def test_one_element_that_is_far_off_among_a_million_fails() -> None:
    x = torch.randn(1_000_000)
    kernel = x.exp()
    kernel[123_456] *= 1 + 1e-4
    sub = single("aten.exp.default", contiguous("float32", 1_000_000), contiguous("float32", 1_000_000))
    assert holds(sub, torch.exp, x)
    assert not holds(sub, lambda _: kernel, x)


def test_eagers_error_is_measured_and_not_assumed() -> None:
    """The same error, within what bfloat16 could be excused for: eager makes it in one program and not in the other."""
    x = torch.randn(64, 512)
    narrow, cast, wide = contiguous("bfloat16", 64, 512), contiguous("bfloat16", 64), contiguous("float32", 64)
    short = Subgraph(
        (contiguous("float32", 64, 512),),
        (),
        (
            op("aten._to_copy.default", narrow, Ref(0), dtype=TorchConst("torch.bfloat16")),
            op("aten.sum.dim_IntList", cast, Ref(1), (1,)),
            op("aten._to_copy.default", wide, Ref(2), dtype=TorchConst("torch.float32")),
        ),
        (3,),
    )

    def kernel(t: torch.Tensor) -> torch.Tensor:
        return t.bfloat16().sum(1).float()

    assert holds(short, kernel, x)
    assert not holds(row_sum(64, 512), kernel, x)


# -- "pooled over >= 32 seeds where the output is small" --------------------------------------------------------------


def test_small_outputs_are_pooled_over_at_least_32_seeds() -> None:
    for rows, seeds in ((1, 32), (8, 32), (63, 32), (64, 16), (512, 2), (1024, 1)):
        first, *_ = plan.groups(row_sum(rows, 300), 0)
        assert first.seeds == seeds, rows
        assert first.seeds >= 32 or first.seeds * rows >= plan.SMALL_OUTPUT


# -- "plus a floor c * eps * (the oracle on absolute values)" ---------------------------------------------------------


@pytest.mark.parametrize(("last_bits", "right"), [(3.5, True), (4.5, False)])
def test_the_floor_counts_in_what_the_values_came_of(last_bits: float, right: bool) -> None:
    """Differences that cancel: eager is exact, and a kernel may lose some last bits of the terms, not of the result."""
    x = torch.full((4096,), 1000.0)
    y = x * (1 + 2**-10)
    sub = single("aten.sub.Tensor", *(contiguous("float32", 4096),) * 3)
    off = last_bits * EPS * 2001.0
    assert off > 4 * EPS * float((y - x)[0])
    assert not holds(sub, lambda a, b: a - b + off, y, x)  # on absolute values a difference cancels as well
    add = single("aten.add.Tensor", *(contiguous("float32", 4096),) * 3)
    assert holds(add, lambda a, b: a + b + off, y, -x) is right
    assert FLOOR[4] == 4.0


# -- "A plain '2 x per element' rejects equally good kernels" ---------------------------------------------------------


def _permuted(columns: int) -> torch.Tensor:
    return torch.randperm(columns, generator=torch.Generator().manual_seed(3))


def _sums(n: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eager's sums of n rows, each on its own; those in a permuted order; the oracle; and on absolute values."""
    x = torch.randn(n, columns, generator=torch.Generator().manual_seed(seed))
    eager = torch.cat([row.sum(1) for row in x.split(1)])
    permuted = torch.cat([row.sum(1) for row in x[:, _permuted(columns)].split(1)])
    return eager, permuted, x.double().sum(1), x.abs().double().sum(1)


def test_a_permuted_order_fails_many_scalar_sums_by_the_plain_rule() -> None:
    eager, kernel, oracle, _ = _sums(2000, 1000, 0)
    failed = float(((kernel - oracle).abs() > 2 * (eager - oracle).abs()).double().mean())
    assert 0.10 < failed < 0.40


def test_by_tensor_maximum_none_fails_where_elementwise_every_tensor_does() -> None:
    elementwise = by_maximum = 0
    for seed in range(50):
        x = torch.randn(64, 4096, generator=torch.Generator().manual_seed(seed))
        error_e = (x.sum(1) - x.double().sum(1)).abs()
        error_k = (x[:, _permuted(4096)].sum(1) - x.double().sum(1)).abs()
        elementwise += bool((error_k > 2 * error_e).any())
        by_maximum += bool(error_k.max() > 2 * error_e.max() + 4 * EPS * x.abs().sum(1).max())
    assert elementwise == 50
    assert by_maximum == 0


def test_an_equally_accurate_sum_in_another_order_passes_1000_of_1000_times() -> None:
    passed = 0
    for seed in range(TIMES):
        eager, kernel, oracle, absolute = _sums(plan.POOLED_SEEDS, 300, seed)
        passed += verdict(Rule.BOUNDED, kernel, Expected(eager, oracle), absolute) is None
    assert passed == TIMES


def test_tf32_where_eager_is_ieee_fails_1000_of_1000_times() -> None:
    """Both ways in which a kernel could pass: by its errors, and by those relative to each element's magnitude."""
    passed = 0
    for seed in range(TIMES):
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(32, 64, generator=generator) for _ in range(2))
        expected = Expected(a @ b.t(), a.double() @ b.double().t())
        absolute = a.double().abs() @ b.double().abs().t()
        kernel = tf32(a) @ tf32(b).t()
        for relative in (False, True):
            contract = Contract(Rule.BOUNDED, 0.0, 1.0, relative=relative)
            assert contract.add(0, kernel, expected, "a case", lambda: absolute) is None  # noqa: B023 - called at once
            passed += contract.finish() is None
    assert passed == 0


MM = single(
    "aten.mm.default", contiguous("float32", 24, 16), contiguous("float32", 24, 48), contiguous("float32", 48, 16)
)
TF32 = """
def tf32(x):
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
"""


def _judged(judge: Judge, sub: Subgraph, body: str, top: str, times: int) -> int:
    verdicts = judge.judge([job(sub, body, top=top, seed=s) for s in range(times)])
    assert {v.outcome for v in verdicts} <= {Outcome.RIGHT, Outcome.WRONG}
    return sum(v.outcome is Outcome.RIGHT for v in verdicts)


BY_THE_JUDGE = pytest.mark.parametrize(
    "times", [25, pytest.param(TIMES, marks=(pytest.mark.conformance, pytest.mark.timeout(600)))]
)


@BY_THE_JUDGE
def test_the_judge_lets_no_tf32_through(judge: Judge, times: int) -> None:
    assert _judged(judge, MM, "return (tf32(args[0]) @ tf32(args[1]),)", TF32, times) == 0


@BY_THE_JUDGE
def test_the_judge_lets_every_other_order_of_summation_through(judge: Judge, times: int) -> None:
    body = "p = torch.randperm(48, generator=torch.Generator().manual_seed(1)); return (args[0][:, p] @ args[1][p],)"
    assert _judged(judge, MM, body, "", times) == times


# -- "Outputs that jump must match only where the oracle's margin exceeds eager's error" ------------------------------


def test_a_jump_is_open_where_the_margin_is_within_eagers_error_and_nowhere_else() -> None:
    """x + 0.1 rounds in eager; where the sum is within that rounding of a half, either side is right."""
    s, whole = contiguous("float32", 3), contiguous("int64", 3)
    nodes = (
        op("aten.add.Tensor", s, Ref(0), 0.1),
        op("aten.round.default", s, Ref(1)),
        op("aten._to_copy.default", whole, Ref(2), dtype=TorchConst("torch.int64")),
    )
    sub = Subgraph((s,), (), nodes, (3,))
    x = torch.tensor([0.4, 0.7, 0.39], dtype=torch.float32)
    right = (x + 0.1).round().long()
    assert holds(sub, lambda _: right, x)
    assert holds(sub, lambda _: torch.tensor([1 - int(right[0]), 1, 0]), x)
    assert not holds(sub, lambda _: torch.tensor([int(right[0]), 0, 0]), x)


# -- "Inf and NaN must be where eager or the oracle has them" ---------------------------------------------------------

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("eager", "oracle", "kernel", "right"),
    [
        (INF, INF, INF, True),
        (INF, INF, -INF, False),
        (INF, INF, NAN, False),
        (INF, INF, 1e38, False),
        (NAN, NAN, NAN, True),
        (NAN, NAN, INF, False),
        (NAN, NAN, 0.0, False),
        (1.0, 1.0, NAN, False),
        (1.0, 1.0, INF, False),
        (INF, 1e39, INF, True),
        (INF, 1e38, 1e38, True),  # eager overflowed on the way
        (NAN, 1e38, INF, True),
        (NAN, -INF, INF, True),  # an intermediate overflowed, whose roundings decide of which kind the result is
        (NAN, -INF, 1.0, False),
    ],
)
def test_what_is_not_finite_is_where_it_must_be(eager: float, oracle: float, kernel: float, right: bool) -> None:
    e, k = torch.tensor([1.0, eager]), torch.tensor([1.0, kernel])
    o = torch.tensor([1.0, oracle], dtype=torch.float64)
    assert (verdict(Rule.BOUNDED, k, Expected(e, o)) is None) is right


@pytest.mark.parametrize(
    ("exponent", "kernel", "right"),
    [
        (88.7265, INF, True),  # exp of it is infinite; bfloat16 makes it 88.5
        (88.7265, NAN, True),  # as what is done with it makes it
        (88.7265, 1e38, False),
        (88.7265, math.exp(88.7265) / 1024, True),
        (88.7227, INF, True),  # of which nobody can say without the last bits
        (88.6, INF, False),
        (88.6, NAN, False),
        (-88.7265, INF, False),
    ],
)
def test_what_eagers_rounding_alone_keeps_in_range_may_overflow(exponent: float, kernel: float, right: bool) -> None:
    narrow, wide = contiguous("bfloat16", 2), contiguous("float32", 2)
    nodes = (
        op("aten.add.Tensor", narrow, Ref(0), Ref(1)),
        op("aten._to_copy.default", wide, Ref(2), dtype=TorchConst("torch.float32")),
        op("aten.exp.default", wide, Ref(3)),
        op("aten.mul.Tensor", wide, Ref(4), 2.0**-10),
    )
    sub = Subgraph((narrow, narrow), (), nodes, (5,))
    x = torch.tensor([1.0, math.copysign(88.0, exponent)]).bfloat16()
    b = torch.tensor([0.0, exponent]).sub(x.float()).bfloat16()
    exact = torch.exp(x.double() + b.double()) / 1024
    got = exact.float()
    got[1] = kernel
    assert torch.exp((x + b).float()).isfinite().all(), "eager's rounding keeps it in range"
    assert holds(sub, lambda *_: got, x, b) is right
    if not math.isfinite(kernel):
        assert not holds(sub, lambda *_: got, x, b, numerics="eager")


# -- "Claims are for what was tested: the report says which inputs" ---------------------------------------------------


def test_the_report_says_which_inputs(judge: Judge) -> None:
    (found,) = judge.judge([job(add_relu(), "return (torch.relu(args[0] + args[1]),)")])
    text = "; ".join(found.checked)
    for kind in ("normal x2", "nan x1 misaligned", "dyadic", "inf", "wide", "offset"):
        assert kind in text


# -- "'eager': eager's rounding points kept; bit-equal only for an allow-list of operators proved so" -----------------


def _fma_like(n: int = 4096) -> Subgraph:
    s = contiguous("float32", n)
    return Subgraph(
        (s, s, s), (), (op("aten.mul.Tensor", s, Ref(0), Ref(1)), op("aten.add.Tensor", s, Ref(3), Ref(2))), (4,)
    )


def test_exact_operators_must_be_bit_equal_and_a_fused_multiply_add_is_not() -> None:
    x = [torch.randn(4096) for _ in range(3)]
    sub = _fma_like()
    assert rule_of(sub, "eager") is Rule.EXACT

    def fused(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (a.double() * b + c).float()

    assert holds(sub, lambda a, b, c: a * b + c, *x, numerics="eager")
    assert not holds(sub, fused, *x, numerics="eager")
    assert holds(sub, fused, *x)  # by default it is as good


def test_zeros_of_another_sign_are_other_bits_and_nan_is_nan() -> None:
    zeros = torch.zeros(8)
    assert verdict(Rule.EXACT, -zeros, Expected(zeros, zeros)) is not None
    nan = torch.full((8,), NAN)
    assert verdict(Rule.EXACT, -nan, Expected(nan, nan)) is None


def test_others_need_not_be_bit_equal_but_keep_eagers_rounding_points() -> None:
    """exp(x) * y in bfloat16: eager rounds the exponential, which a fused kernel need not."""
    s = contiguous("bfloat16", 20_000)
    nodes = (op("aten.exp.default", s, Ref(0)), op("aten.mul.Tensor", s, Ref(2), Ref(1)))
    sub = Subgraph((s, s), (), nodes, (3,))
    x, y = torch.randn(20_000).bfloat16(), torch.randn(20_000).bfloat16()
    assert rule_of(sub, "eager") is Rule.STAGED

    def staged(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.double().exp().bfloat16() * b

    def fused(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.float().exp() * b.float()).bfloat16()

    assert holds(sub, staged, x, y, numerics="eager")
    assert not holds(sub, fused, x, y, numerics="eager")
    assert holds(sub, fused, x, y)


def test_a_sum_has_no_order_to_keep_but_keeps_its_rounding() -> None:
    x = torch.randn(64, 4096)
    sub = row_sum(64, 4096)
    assert holds(sub, lambda t: t[:, _permuted(4096)].sum(1), x, numerics="eager")
    assert not holds(sub, lambda t: t.bfloat16().float().sum(1), x, numerics="eager")


# -- "'fast': the user names an rtol; reduced-precision matrix units allowed" -----------------------------------------


@pytest.mark.parametrize(("rtol", "right"), [(1e-2, True), (1e-5, False)])
def test_fast_allows_what_the_user_named(rtol: float, right: bool) -> None:
    a, b = torch.randn(24, 48), torch.randn(48, 16)
    (wanted,), truth = truth_of(MM, a, b, numerics="fast")
    assert truth.rule is Rule.FAST
    assert (verdict(Rule.FAST, tf32(a) @ tf32(b), wanted, rtol=rtol) is None) is right


# -- "integers, bools, complex, fp8" ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint16", "uint32", "uint64", "bool"])
def test_integers_are_exact(dtype: str) -> None:
    values = torch.arange(100).remainder(2).to(getattr(torch, dtype))
    wrong = values.clone()
    wrong[37] = 1 - int(values[37])
    assert verdict(Rule.BOUNDED, values.clone(), Expected(values, values)) is None
    assert "[37]" in str(verdict(Rule.BOUNDED, wrong, Expected(values, values)))


def test_large_integers_are_not_compared_as_floats() -> None:
    values = torch.full((4,), 2**53, dtype=torch.int64)
    assert verdict(Rule.BOUNDED, values + 1, Expected(values, values)) is not None


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_both_parts_of_a_complex_number_count(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    s = contiguous(name, 500)
    sub = single("aten.mul.Tensor", s, s, s)
    a, b = (torch.randn(500, dtype=dtype) for _ in range(2))
    assert holds(
        sub, lambda x, y: torch.complex(x.real * y.real - x.imag * y.imag, x.real * y.imag + x.imag * y.real), a, b
    )
    for wrong in ("real", "imag"):

        def off(x: torch.Tensor, y: torch.Tensor, wrong: str = wrong) -> torch.Tensor:
            found = x * y
            getattr(found, wrong)[77] += 1e-3
            return found

        assert not holds(sub, off, a, b)
    assert not holds(sub, lambda x, y: (x * y).conj().resolve_conj(), a, b)
    (wanted,), _ = truth_of(sub, a, b)
    assert wanted.oracle.dtype == torch.complex128


def test_a_complex_nan_is_looked_for_in_both_parts() -> None:
    values = torch.complex(torch.ones(4), torch.tensor([1.0, NAN, 1.0, 1.0]))
    wide = values.to(torch.complex128)
    assert verdict(Rule.BOUNDED, values.clone(), Expected(values, wide)) is None
    swapped = torch.complex(values.imag, values.real)
    assert verdict(Rule.BOUNDED, swapped, Expected(values, wide)) is not None


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_may_be_a_tie_apart_and_no_last_bit(dtype: torch.dtype) -> None:
    wide = torch.randn(5000).double()
    eager = wide.float().to(dtype)
    beside = (eager.float() * (1 + torch.finfo(dtype).eps)).to(dtype)
    assert verdict(Rule.BOUNDED, wide.to(dtype), Expected(eager, wide)) is None
    assert verdict(Rule.BOUNDED, beside, Expected(eager, wide)) is not None
    nan = torch.full((8,), NAN).to(dtype)
    assert verdict(Rule.BOUNDED, torch.ones(8).to(dtype), Expected(nan, nan.double())) is not None


def test_arg_max_and_indices_are_exact(judge: Judge) -> None:
    sub = Subgraph(
        (contiguous("float32", 64, 100),),
        (),
        (OpNode("aten.argmax.default", (Ref(0), 1), (), contiguous("int64", 64)),),
        (1,),
    )
    good, off = judge.judge([job(sub, "return (args[0].argmax(1),)"), job(sub, "return (args[0].argmax(1) ^ 1,)")])
    assert (good.outcome, off.outcome) == (Outcome.RIGHT, Outcome.WRONG)
