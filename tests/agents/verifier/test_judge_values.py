"""Right kernels pass, wrong ones fail for the reason they are wrong, and the judge outlives them all."""

from __future__ import annotations

import contextlib
import os

import pytest

from akg_dynamo.agents.verifier import Judge
from akg_dynamo.core.types import OpNode, Outcome, Ref, Subgraph, TensorSpec, TorchConst

from .kernels import add_relu, contiguous, dynamic_softmax, job, op, row_sum, single
from .settling import eventually, settled

RIGHT = "return (torch.relu(args[0] + args[1]),)"


def test_right_kernel_passes_and_says_what_was_checked(judge: Judge) -> None:
    (verdict,) = judge.judge([job(add_relu(), RIGHT)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail
    assert any("normal" in c for c in verdict.checked)
    assert any("nan" in c for c in verdict.checked)


WRONG = {
    "one element off by 1%": (add_relu(), "x = torch.relu(args[0] + args[1]); x[777] *= 1.01; return (x,)", "777"),
    "dtype": (add_relu(), "return (torch.relu(args[0] + args[1]).double(),)", "dtype float64, must be float32"),
    "shape": (add_relu(), "return (torch.relu(args[0] + args[1])[None],)", "shape (1, 1000)"),
    "stride": (
        single("aten.neg.default", contiguous("float32", 8, 6), contiguous("float32", 8, 6)),
        "return (-args[0].t().contiguous().t(),)",
        "strides (1, 8), must be (6, 1)",
    ),
    "mutates": (add_relu(), "args[0].add_(args[1]); return (torch.relu(args[0]),)", "wrote into input 0"),
    "aliases": (
        single("aten.relu.default", contiguous("float32", 9), contiguous("float32", 9)),
        "return (args[0].clamp_(min=0),)",
        "shares memory with an input",
    ),
    "NaN missing": (
        add_relu(),
        "x = args[0] + args[1]; return (torch.where(x > 0, x, torch.zeros(())),)",
        "eager nan",
    ),
    "bf16 inside": (add_relu(), "return (torch.relu(args[0].bfloat16() + args[1].bfloat16()).float(),)", "error"),
    "stale memory": (add_relu(), "x = torch.empty(1000); x[:999] = torch.relu(args[0]+args[1])[:999]; return (x,)", ""),
    "not deterministic": (add_relu(), "global n; n += 1; return (torch.relu(args[0] + args[1] + n - 1),)", "again"),
    "a list": (add_relu(), "return [torch.relu(args[0] + args[1])]", "list, not a tuple"),
    "too many outputs": (add_relu(), "x = torch.relu(args[0] + args[1]); return (x, x + 0)", "2 outputs"),
    "raises": (add_relu(), "raise ValueError('no')", "ValueError: no"),
    "wrong integer": (
        single("aten.argmax.default", contiguous("int64", 16), contiguous("float32", 16, 64), extra=(1,)),
        "x = args[0].flip(1); return (63 - x.argmax(1),)",  # right but for ties: the last one instead of the first
        "dyadic",
    ),
    "past the end of its output": (
        add_relu(),
        "x = torch.empty(1000); torch.add(*args, out=x).relu_(); "
        "x.as_strided((1,), (1,), x.storage_offset() + 1000)[0] = 0; return (x,)",
        "wrote past an end of memory it allocated",
    ),
    "before the start of its scratch": (
        add_relu(),
        f"w = torch.empty(8); w.as_strided((1,), (1,), w.storage_offset() - 1)[0] = 0; {RIGHT}",
        "wrote past an end of memory it allocated",
    ),
    "past the end of an input": (
        add_relu(),
        f"args[1].as_strided((1,), (1,), args[1].storage_offset() + 1000)[0] = 0; {RIGHT}",
        "wrote past an end of input 1",
    ),
    "reads past the end of an input": (
        add_relu(),
        "a = args[0]; x = torch.relu(a + args[1]); "
        "x[9] += a.as_strided((1,), (1,), a.storage_offset() + 1000)[0] * 0; return (x,)",
        "nan",
    ),
    "variance by cancellation": (
        single("aten.var.correction", contiguous("float32", 64), contiguous("float32", 64, 256), extra=((1,),)),
        "x = args[0]; m = x.mean(1); return (((x * x).mean(1) - m * m) * (256 / 255),)",
        "offset",
    ),
    "float64 in float32": (
        add_relu(1000, "float64"),
        "return (torch.relu(args[0].float() + args[1].float()).double(),)",
        "",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernel_fails_with_its_reason(judge: Judge, name: str) -> None:
    sub, body, reason = WRONG[name]
    (verdict,) = judge.judge([job(sub, body, top="n = 0")])
    assert verdict.outcome is Outcome.WRONG, verdict
    assert reason in verdict.detail


def _embedding() -> Subgraph:
    table, index = contiguous("float32", 50, 8), contiguous("int64", 7)
    return single("aten.embedding.default", contiguous("float32", 7, 8), table, index)


def _quantized() -> Subgraph:
    """round(x * 3.7): a jump downstream of a rounding error."""
    s = contiguous("float32", 4096)
    return Subgraph((s,), (), (op("aten.exp.default", s, _ref(0)), op("aten.round.default", s, _ref(1))), (2,))


def _ref(i: int):  # type: ignore[no-untyped-def]
    from akg_dynamo.core.types import Ref

    return Ref(i)


@pytest.mark.parametrize(
    "body",
    ["return (args[0][args[1]],)", "return (args[0][args[1].clamp(0, 49)],)"],
    ids=["a negative one is wrapped", "one too large is clamped"],
)
def test_an_index_that_eager_refuses_must_be_refused(judge: Judge, body: str) -> None:
    (verdict,) = judge.judge([job(_embedding(), body)])
    assert verdict.outcome is Outcome.WRONG
    assert "run() returns where eager raises: index out of range in self" in verdict.detail


EXPANDED = TensorSpec("float32", (4, 6), (0, 1))
GOOD = {
    "embedding": (_embedding(), "return (torch.embedding(args[0], args[1]),)"),
    "permuted sum": (
        row_sum(8, 4096),
        "return (args[0][:, torch.randperm(4096, generator=torch.Generator().manual_seed(1))].sum(1),)",
    ),
    "scalar sum": (row_sum(1, 10_000), "return (args[0].flip(1).sum(1),)"),
    "log of what may be negative": (
        single("aten.log.default", contiguous("float32", 100), contiguous("float32", 100)),
        "return (torch.log(args[0]),)",
    ),
    "division of integers": (
        single("aten.remainder.Tensor", contiguous("int32", 100), contiguous("int32", 100), contiguous("int32", 100)),
        "return (torch.remainder(args[0], args[1]),)",
    ),
    "expanded input": (
        single("aten.neg.default", contiguous("float32", 4, 6), EXPANDED),
        "return ((-args[0]).contiguous(),)",
    ),
    "more precise than eager": (
        add_relu(1000, "bfloat16"),
        "return (torch.relu(args[0].float() + args[1].float()).bfloat16(),)",
    ),
    "float64": (row_sum(64, 512, "float64"), "return (args[0].flip(1).sum(1),)"),
    "half": (row_sum(64, 512, "float16"), "return (args[0].float().flip(1).sum(1).half(),)"),
    "jump within the error": (_quantized(), "return (torch.round(torch.exp(args[0].double()).float()),)"),
    "empty": (add_relu(0), RIGHT),
    "symbolic": (dynamic_softmax(), "return (torch.softmax(args[0].double(), -1).float(),)"),
}


@pytest.mark.parametrize("name", GOOD)
def test_right_kernels_of_every_sort_pass(judge: Judge, name: str) -> None:
    sub, body = GOOD[name]
    (verdict,) = judge.judge([job(sub, body)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail


def test_symbolic_is_judged_at_its_boundaries(judge: Judge) -> None:
    body = "x = torch.softmax(args[0], -1); x[..., 1024:] = 0; return (x,)"
    (verdict,) = judge.judge([job(dynamic_softmax(), body)])
    assert verdict.outcome is Outcome.WRONG
    assert "s1" in verdict.detail


def test_equally_accurate_sum_passes_every_time(judge: Judge) -> None:
    body = """
    x = args[0]
    p = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(3))
    return (x[:, p].sum(1),)
    """
    verdicts = judge.judge([job(row_sum(1, 1000), body, seed=s) for s in range(200)])
    assert sum(v.outcome is Outcome.RIGHT for v in verdicts) == 200, [v.detail for v in verdicts if v.detail][:3]


def _log_softmax_backward() -> Subgraph:
    x = contiguous("float32", 2, 16, 500)
    node = op("aten._log_softmax_backward_data.default", x, _ref(0), _ref(1), -1, TorchConst("torch.float32"))
    return Subgraph((x, x), (), (node,), (2,))


PERMUTED = "p = torch.randperm(args[0].shape[-1], generator=torch.Generator().manual_seed(3))\n"


def test_equally_accurate_kernel_passes_where_one_row_holds_the_largest_values(judge: Judge) -> None:
    """exp of what spans many binades: the tensor's maximum is one row's sum, and so is its error."""
    body = PERMUTED + "g, o = args; return (g - o.exp() * g[..., p].sum(-1, keepdim=True),)"
    verdicts = judge.judge([job(_log_softmax_backward(), body, seed=s) for s in range(60)])
    assert sum(v.outcome is Outcome.RIGHT for v in verdicts) == 60, [v.detail for v in verdicts if v.detail][:3]


@pytest.mark.parametrize(
    "total",
    ["g.bfloat16().float().sum(-1, keepdim=True)", "g[..., :-1].sum(-1, keepdim=True)", "g.half().sum(-1, True)"],
)
def test_a_second_look_does_not_let_less_accurate_kernels_pass(judge: Judge, total: str) -> None:
    body = f"g, o = args; return (g - o.exp() * {total}.float(),)"
    (verdict,) = judge.judge([job(_log_softmax_backward(), body)])
    assert verdict.outcome is Outcome.WRONG


def _layer_norm() -> Subgraph:
    x, s, w = contiguous("float32", 32, 64), contiguous("float32", 32, 1), contiguous("float32", 64)
    node = OpNode("aten.native_layer_norm.default", (_ref(0), (64,), _ref(1), _ref(2), 1e-5), (), (x, s, s))
    parts = tuple(op("getitem", spec, _ref(3), i) for i, spec in enumerate((x, s, s)))
    return Subgraph((x, w, w), (), (node, *parts), (4, 5, 6))


LAYER_NORM = """
x, w, b = args
m = x.mean(1, keepdim=True)
v = (x - m).square().mean(1, keepdim=True)
r = (v + 1e-5).rsqrt()
"""


@pytest.mark.parametrize(
    ("returned", "outcome"),
    [
        ("(x - m) * r * w + b, m, r", Outcome.RIGHT),  # the mean of a row with Inf is Inf; eager's NaN
        ("(x - m) * r * w + b, m + (m - m), r", Outcome.RIGHT),  # NaN, as eager's
        ("(x - m) * r * w + b, m.nan_to_num(0.0, 0.0, 0.0), r", Outcome.WRONG),
        ("(x - m) * r * w + b, m, r.nan_to_num(1.0)", Outcome.WRONG),
    ],
)
def test_inf_or_nan_where_equally_valid_formulas_differ(judge: Judge, returned: str, outcome: Outcome) -> None:
    (verdict,) = judge.judge([job(_layer_norm(), f"{LAYER_NORM}return ({returned})")])
    assert verdict.outcome is outcome, verdict.detail


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("aten.relu.default", "x = args[0]; return (torch.where(x.isinf(), x.abs() * float('nan'), torch.relu(x)),)"),
        ("aten.silu.default", "x = args[0]; return (x * x.exp() / (1 + x.exp()),)"),  # Inf / Inf
        ("aten.neg.default", "x = args[0]; return (torch.where(x.isinf(), x, -x),)"),
        ("aten.neg.default", "x = args[0]; return (torch.where(x.isnan(), torch.inf, -x),)"),
    ],
)
def test_the_kind_of_what_is_not_finite_must_be_right_where_formulas_agree(
    judge: Judge, target: str, body: str
) -> None:
    s = contiguous("float32", 2000)
    (verdict,) = judge.judge([job(single(target, s, s), body)])
    assert verdict.outcome is Outcome.WRONG


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    ("body", "outcome", "detail"),
    [
        ("import time\nwhile True: time.sleep(0.01)", Outcome.TIMED_OUT, "2 s"),
        ("import ctypes; ctypes.string_at(0)", Outcome.CRASHED, "SIGSEGV"),
        ("import os; os._exit(0)", Outcome.CRASHED, "status 0"),
        ("import sys; sys.exit(0)", Outcome.WRONG, "SystemExit"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Outcome.CRASHED, "SIGKILL"),
    ],
)
def test_a_dead_worker_is_a_verdict_and_the_next_job_is_judged(
    judge: Judge, body: str, outcome: Outcome, detail: str, trusted: bool
) -> None:
    timeout_s = 2.0 if outcome is Outcome.TIMED_OUT else 60.0  # who ends by itself has time for it
    one = job(add_relu(), body, timeout_s=timeout_s, trusted=trusted)
    bad, good = judge.judge([one, job(add_relu(), RIGHT, seed=5)])
    assert (bad.outcome, good.outcome) == (outcome, Outcome.RIGHT)
    assert detail in bad.detail


def test_build_failure_is_a_verdict(judge: Judge) -> None:
    (verdict,) = judge.judge([job(add_relu(), RIGHT, top="def build():\n    raise RuntimeError('g++: no')")])
    assert verdict.outcome is Outcome.BUILD_FAILED
    assert "g++: no" in verdict.detail


def test_a_constant_is_no_answer_to_a_task_where_it_passes(judge: Judge) -> None:
    s = contiguous("float32", 10)
    sub = Subgraph((s,), (), (op("aten.mul.Scalar", s, _ref(0), 0.0), op("aten.nan_to_num.default", s, _ref(1))), (2,))
    (verdict,) = judge.judge([job(sub, "return (torch.zeros(10),)", trusted=False)])
    assert verdict.outcome is Outcome.DEGENERATE


def test_numerics_modes(judge: Judge) -> None:
    s = contiguous("float32", 5000)
    exp, product = single("aten.exp.default", s, s), single("aten.mul.Tensor", s, s, s)
    close, exact = "return (torch.exp(args[0]) * (1 + 1e-4),)", "return (torch.exp(args[0].double()).float(),)"
    verdicts = judge.judge(
        [
            job(exp, close, numerics="fast", rtol=1e-3),
            job(exp, close, numerics="fast", rtol=1e-6),
            job(exp, exact, numerics="eager"),  # eager's own is a last bit off, here and there
            job(exp, close, numerics="eager"),
            job(product, "return (args[0] * args[1],)", numerics="eager"),
            job(product, "x = args[0] * args[1]; return (torch.nextafter(x, x * 2),)", numerics="eager"),
        ]
    )
    assert [v.outcome for v in verdicts] == [Outcome.RIGHT, Outcome.WRONG] * 3
    assert "must be bit-equal" in verdicts[-1].detail


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _descendants(pid: int) -> dict[int, int]:
    """Process id → open files, of all below `pid`."""
    found: dict[int, int] = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/task/{pid}/children") as names:
        for child in map(int, names.read().split()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                found[child] = len(os.listdir(f"/proc/{child}/fd"))
                found |= _descendants(child)
    return found


def test_nothing_leaks(judge: Judge) -> None:
    jobs = [job(add_relu(), RIGHT, trusted=i % 5 != 0, seed=i) for i in range(25)]
    judge.judge(jobs)
    zygote = judge._process.popen.pid
    before, ours = settled(lambda: _descendants(zygote)), _descriptors()
    judge.judge(jobs * 2)
    assert eventually(lambda: _descendants(zygote), lambda now: now == before) == before
    assert _descriptors() == ours


def _distance(n: int = 20_000) -> Subgraph:
    """(1e34 * a * b - 1e34 * c * d) * 1e-20: on `wide` values the products leave fp32's range, never fp64's."""
    s = contiguous("float32", n)
    nodes = (
        op("aten.mul.Tensor", s, Ref(0), 1e34),
        op("aten.mul.Tensor", s, Ref(4), Ref(1)),
        op("aten.mul.Tensor", s, Ref(2), 1e34),
        op("aten.mul.Tensor", s, Ref(6), Ref(3)),
        op("aten.sub.Tensor", s, Ref(5), Ref(7)),
        op("aten.mul.Tensor", s, Ref(8), 1e-20),
    )
    return Subgraph((s, s, s, s), (), nodes, (9,))


def test_an_overflow_of_an_intermediate_may_end_as_inf_or_nan(judge: Judge) -> None:
    fused = """
        a, b, c, d = args
        product = ((a * 1e34).double() * b - (c * 1e34 * d).double()).to(torch.float32)  # one rounding fewer, as an FMA
        return (product * 1e-20,)
    """
    finite = "a, b, c, d = args; return (((a * 1e34 * b - c * 1e34 * d) * 1e-20).nan_to_num(nan=0.0),)"
    right, wrong = judge.judge([job(_distance(), fused), job(_distance(), finite)])
    assert right.outcome is Outcome.RIGHT, right.detail
    assert wrong.outcome is Outcome.WRONG
