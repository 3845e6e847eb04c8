"""The backend as torch.compile sees it: registration, options, reset, recompiles, what bad input does."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch._dynamo.testing import CompileCounterWithBackend

import akg_dynamo
from akg_dynamo import capture
from akg_dynamo.backend import akg
from akg_dynamo.core.errors import OptionError, ToolchainError
from akg_dynamo.core.types import Target
from akg_dynamo.options import Options, parse

from .conftest import ReferenceSolver

ALL = {"gate": "correct"}


def compiled(function: Callable[..., Any], **keywords: Any) -> Any:
    return torch.compile(function, backend="akg", options=ALL, **keywords)


def in_a_new_process(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_cheap() -> None:
    loaded = in_a_new_process("import sys, akg_dynamo; print('torch' in sys.modules, 'rich' in sys.modules)")
    assert loaded.split() == ["False", "False"]


def test_the_entry_point_is_the_only_registration() -> None:
    program = (
        "import torch, akg_dynamo.backend\n"
        "from torch._dynamo.backends.registry import list_backends, lookup_backend\n"
        "assert 'akg' in list_backends(())\n"
        "assert lookup_backend('akg') is akg_dynamo.backend.akg\n"
        "assert lookup_backend('akg') is akg_dynamo.backend.akg\n"
    )
    in_a_new_process(program)


@pytest.mark.parametrize(
    ("options", "mode", "said"),
    [
        ({"gaet": "profit"}, None, "did you mean 'gate'"),
        ({"gate": "profits"}, None, "did you mean 'profit'"),
        ({"dsl": "cuda_c"}, None, "'cpp'"),
        ({"arch": "sm_9"}, None, "'native'"),
        ({"dsl": "cpp", "arch": "sm_90"}, None, "not one of dsl 'cpp'"),
        ({"numerics": "fast"}, None, "rtol"),
        ({"rtol": 0.1}, None, "rtol"),
        ({"rtol": -1.0, "numerics": "fast"}, None, "positive"),
        ({"freezing": True}, None, "freezing"),
        ({"compile_budget_s": "soon"}, None, "positive"),
        ({}, "max-autotun", "did you mean 'max-autotune'"),
    ],
)
def test_what_is_not_known_is_refused(options: dict[str, object], mode: str | None, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse(options, mode)


def test_options_reach_the_user_as_an_error(solver: ReferenceSolver) -> None:
    with pytest.raises(Exception, match=r"unknown option 'gaet'.*did you mean 'gate'"):
        torch.compile(torch.sin, backend="akg", options={"gaet": "profit"})(torch.ones(2))


def test_known_options() -> None:
    options = parse({"gate": "correct", "numerics": "fast", "rtol": 1e-2, "cache_dir": "x", "dsl": "c++"}, "default")
    assert options == Options(gate="correct", numerics="fast", rtol=0.01, cache_dir=Path("x"), dsl="cpp")


def test_the_target_follows_the_device() -> None:
    cpu = Options().target_for("cpu")
    assert (cpu.backend, cpu.dsl, cpu.arch) == ("cpu", "cpp", "native")
    assert cpu.isa
    assert Options(arch="h200").target_for("cuda") == Target("cuda", "triton_cuda", "sm_90", "sm_90")
    assert Options(arch="h200").target_for("cpu") == cpu
    assert Options(dsl="triton_cuda", arch="sm_80").target_for("cpu").isa == "sm_80"
    assert Options().target_for("a device of the future") == cpu


@pytest.mark.parametrize(
    ("chosen", "device", "said"),
    [
        (Options(mode="reduce-overhead"), "cpu", "mode='reduce-overhead'"),
        (Options(mode="max-autotune"), "cuda", "mode='max-autotune'"),
        (Options(dsl="cpp"), "cuda", "dsl='cpp': it is for cpu"),
        (Options(arch="h200"), "cpu", "arch='h200': this graph runs on cpu"),
        (Options(generation="cached", compile_budget_s=3.0), "cpu", "compile_budget_s: nothing"),
    ],
)
def test_what_is_asked_for_in_vain_is_said(chosen: Options, device: str, said: str) -> None:
    (note,) = chosen.without_effect(device)
    assert note.startswith(said)


def test_what_has_an_effect_is_not_called_in_vain() -> None:
    assert Options(arch="h200", dsl="triton_cuda").without_effect("cuda") == ()
    assert Options(numerics="fast", rtol=1e-2, compile_budget_s=3.0).without_effect("cpu") == ()
    assert Options().without_effect("a device of the future") == ()


def test_explain_says_what_was_asked_for_in_vain(solver: ReferenceSolver, caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(4)
    with caplog.at_level(logging.WARNING, "akg_dynamo"):
        for scale in (2, 3):
            torch.compile(lambda x, scale=scale: (x * scale + 1).relu(), backend="akg", mode="reduce-overhead")(x)
    assert caplog.text.count("without effect: mode='reduce-overhead'") == 1
    console = Console(width=120, record=True, file=io.StringIO())
    for report in akg_dynamo.explain():
        assert report.notes
        console.print(report)
    assert console.export_text().count("without effect: mode='reduce-overhead'") == 2


def test_explain_says_what_eager_numerics_promise(solver: ReferenceSolver) -> None:
    """Bits are promised where every operator is exact in eager; a sum's depend on how many threads add it up."""
    x, options = torch.randn(40, 50), {"gate": "correct", "numerics": "eager"}
    for f in (lambda x: (x * 2 + 1).relu(), lambda x: (x * 2 + 1).sum(1)):
        torch.compile(f, backend="akg", options=options)(x)
    kernels = [kernel for report in akg_dynamo.explain() for kernel in report.kernels]
    assert [k.promise for k in kernels] == ["eager's bits", "rounded where eager rounds"]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(akg_dynamo.explain()[0])
    assert "eager's bits" in console.export_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device to be native on")
def test_native_needs_the_hardware() -> None:
    with pytest.raises(OptionError, match="no CUDA device here"):
        Options().target_for("cuda")


def test_three_fresh_lambdas_compile_once(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x + 1).relu()

    for _ in range(3):
        torch.compile(f, backend="akg", options=ALL)(torch.ones(4))
    assert len(akg_dynamo.explain()) == 1


def test_reset_forgets(solver: ReferenceSolver) -> None:
    compiled(lambda x: x.exp() + 1)(torch.ones(4))
    assert akg_dynamo.explain()
    torch._dynamo.reset()
    assert not akg_dynamo.explain()


@pytest.mark.parametrize("dynamic", [None, True])
def test_no_more_recompiles_than_aot_eager(solver: ReferenceSolver, dynamic: bool | None) -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x * 2 + y, -1).sum(-1) + x.shape[0]

    # (16, 16) first: duck shaping makes both sizes one symbol.
    shapes = [(16, 16), (4, 8), (5, 7), (6, 33), (7, 1024), (1, 8), (64, 2)]
    counts = []
    for backend in ("aot_eager", lambda gm, inputs: akg(gm, inputs, options=ALL)):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend(backend)
        g = torch.compile(f, backend=counter, dynamic=dynamic)
        for shape in shapes:
            x, y = torch.randn(shape), torch.randn(shape)
            torch.testing.assert_close(g(x, y), f(x, y))
        counts.append(counter.frame_count)
    assert counts[1] <= counts[0]
    assert solver.calls > 0


def test_the_artifact_of_another_backend_is_never_ours(solver: ReferenceSolver) -> None:
    """AOTAutograd's cache would hand one backend's artifact to another."""

    def f(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() + 1).relu()

    config = torch._functorch.config
    x = torch.randn(8)
    with config.patch(enable_autograd_cache=True, force_autograd_cache=True):
        torch.compile(f, backend="inductor")(x)
        for _ in range(2):
            torch._dynamo.reset()
            before = solver.calls
            torch.testing.assert_close(compiled(f)(x), f(x))
            assert solver.calls == before + 1


def test_a_model_that_raises(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = (x + 1).relu()
        if y.shape[0] == 3:
            raise ValueError("three is not allowed")
        return y

    g = compiled(f)
    assert g(torch.ones(2)).tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="three is not allowed"):
        g(torch.ones(3))
    assert g(torch.ones(2)).tolist() == [2.0, 2.0]


def test_data_dependent_control_flow(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = (x + 1).exp()
        return (y * 2 + 1).relu() if y.sum() > 5 else (y * 3 - 1).relu()

    g = compiled(f)
    for x in (torch.ones(2), -torch.ones(2)):
        torch.testing.assert_close(g(x), f(x))
    assert solver.calls >= 4


def test_an_operator_without_a_meta_function(solver: ReferenceSolver) -> None:
    with torch.library._scoped_library("akg_test", "FRAGMENT") as library:
        library.define("no_meta(Tensor x) -> Tensor")
        library.impl("no_meta", lambda x: x * 3, "CPU")

        def f(x: torch.Tensor) -> torch.Tensor:
            return (torch.ops.akg_test.no_meta((x + 1).relu()) - 1).exp()

        x = torch.randn(4)
        torch.testing.assert_close(compiled(f)(x), f(x))
        assert solver.calls >= 1


def test_a_host_without_a_compiler_runs_torch(
    solver: ReferenceSolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing_to_build_with(subgraphs: Any, options: Options) -> Any:
        raise ToolchainError("no C++ compiler on PATH")

    monkeypatch.setattr(capture, "solve", nothing_to_build_with)
    x = torch.randn(4)
    with caplog.at_level(logging.WARNING, "akg_dynamo"):
        for scale in (2, 3):
            g = compiled(lambda x, scale=scale: (x * scale + 1).relu())
            torch.testing.assert_close(g(x), (x * scale + 1).relu())
    assert caplog.text.count("no C++ compiler on PATH") == 1
    (left, *_) = akg_dynamo.explain()[0].left
    assert "no C++ compiler on PATH" in str(left.reason)


def test_with_nothing_gained_the_graph_runs_as_eager_has_it(solver: ReferenceSolver) -> None:
    x = torch.randn(4, 4)
    g = compiled(lambda x: torch.mm(x, x))
    torch.testing.assert_close(g(x), x @ x)
    assert akg_dynamo.explain()[0].kernels == ()


def test_other_devices_stay_with_torch(solver: ReferenceSolver) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).relu()

    assert compiled(f)(torch.ones(3, device="meta")).shape == (3,)
    (report,) = akg_dynamo.explain()
    assert not report.kernels
    assert {left.reason.kind.name for left in report.left} == {"DEVICE"}
