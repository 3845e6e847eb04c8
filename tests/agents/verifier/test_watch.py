"""Launches that do nothing, and sealed inputs: data may be moved anywhere, and computed with only in a kernel."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from akg_dynamo.agents.verifier.watch import Watch, watching

KEY = 0xA7


def doubled(x: torch.Tensor, out: torch.Tensor) -> None:
    """Stands for a kernel."""
    out.numpy()[...] = x.numpy() * 2


def called(run: Callable[..., torch.Tensor], *arguments: torch.Tensor, mode: str = "sealed", key: int = KEY):  # type: ignore[no-untyped-def]
    watch = Watch(mode, key)
    watch.interprets = True
    return watch.call(lambda *args: run(watch, *args), list(arguments)), watch


def x() -> torch.Tensor:
    return torch.arange(1.0, 13.0).view(3, 4)


MOVES = {
    "nothing": lambda t: t,
    "contiguous": lambda t: t.t().contiguous().t(),
    "clone": lambda t: t.clone(),
    "halves": lambda t: torch.cat([t[:1], t[1:]]),
    "columns": lambda t: torch.stack([t[:, i] for i in range(4)], 1),
    "into zeros": lambda t: torch.zeros(3, 4).copy_(t),
    "into a slice": lambda t: torch.cat([torch.zeros(3, 4), t])[3:],
    "flat": lambda t: t.reshape(-1).view(3, 4),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_is_moved_about_is_right_in_the_kernel(name: str) -> None:
    def run(watch: Watch, t: torch.Tensor) -> torch.Tensor:
        out = torch.empty(3, 4)
        watch.launch(doubled, MOVES[name](t), out)
        return out.clone()

    out, watch = called(run, x())
    assert torch.equal(out, 2 * x())
    assert watch.launches == 1
    assert not watch.computed


COMPUTES = {
    "torch": lambda t: t + 1 - 1,
    "in place": lambda t: t.clone().add_(1).sub_(1),
    "a cast": lambda t: (t.double() + 1 - 1).float(),
    "Python": lambda t: torch.tensor([v * 1.5 for v in t.flatten().tolist()]).view(3, 4) / 1.5,
    "NumPy": lambda t: torch.from_numpy(t.numpy() + 1 - 1),
}


@pytest.mark.parametrize("name", COMPUTES)
def test_what_computes_outside_a_kernel_has_noise_to_compute_with(name: str) -> None:
    def run(watch: Watch, t: torch.Tensor) -> torch.Tensor:
        out = torch.empty(3, 4)
        watch.launch(doubled, COMPUTES[name](t), out)
        return out

    out, watch = called(run, x())
    assert not torch.allclose(out, 2 * x())
    assert bool(watch.computed) == (name in ("torch", "in place", "a cast"))


def test_torch_in_an_interpreted_kernel_is_no_kernel() -> None:
    def run(watch: Watch, t: torch.Tensor) -> torch.Tensor:
        out = torch.empty(3, 4)
        watch.launch(lambda: out.copy_(t * 2))
        return out

    _, watch = called(run, x())
    assert list(watch.computed) == ["aten::mul"]


def test_without_a_cipher_torch_is_noted_and_nothing_changes() -> None:
    out, watch = called(lambda watch, t: t + 1, x(), key=0)
    assert torch.equal(out, x() + 1)
    assert list(watch.computed) == ["aten::add"]


def test_constants_may_be_computed_with() -> None:
    def weigh(t: torch.Tensor, table: torch.Tensor, out: torch.Tensor) -> None:
        out.numpy()[...] = t.numpy() * table.numpy()

    def run(watch: Watch, t: torch.Tensor) -> torch.Tensor:
        table = torch.cos(torch.arange(4) * 0.5)
        out = torch.empty_like(t)
        watch.launch(weigh, t, table, out)
        watch.launch(weigh, t, table, out)  # a table that was read is still in clear
        return out

    out, watch = called(run, x())
    assert torch.equal(out, x() * torch.cos(torch.arange(4) * 0.5))
    assert not watch.computed


def test_results_of_one_kernel_are_sealed_for_all_but_the_next() -> None:
    def run(watch: Watch, t: torch.Tensor) -> torch.Tensor:
        a, b = torch.zeros(3, 4), torch.empty(3, 4)
        watch.launch(doubled, t, a)
        watch.launch(doubled, a.view(12).view(3, 4), b)
        return b

    out, _ = called(run, x())
    assert torch.equal(out, 4 * x())


def test_inputs_are_in_clear_again_afterwards() -> None:
    t = x()
    called(lambda watch, t: t.clone(), t)
    assert torch.equal(t, x())


def test_a_ghost_computes_nothing() -> None:
    def run(watch: Watch, t: torch.Tensor) -> torch.Tensor:
        out = torch.full((3, 4), -1.0)
        watch.launch(doubled, t, out)
        return out

    out, watch = called(run, x(), mode="ghost")
    assert torch.equal(out, torch.full((3, 4), -1.0))
    assert watch.launches == 1


CPP = """
extern "C" void add_one(const float* x, float* out, long n) { for (long i = 0; i < n; i++) out[i] = x[i] + 1; }
extern "C" void call_back(void (*f)()) { f(); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "k.cpp").write_text(CPP)
    command = ["g++", "-shared", "-fPIC", str(folder / "k.cpp"), "-o", str(folder / "k.so")]
    subprocess.run(command, check=True)
    return folder / "k.so"


def add_one(path: Path, t: torch.Tensor) -> torch.Tensor:
    function = ctypes.CDLL(str(path)).add_one
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    out = torch.zeros_like(t)
    function(t.data_ptr(), out.data_ptr(), t.numel())
    return out


@pytest.mark.parametrize("mode", ["sealed", "ghost"])
def test_functions_of_a_library_of_its_own_are_launches(library: Path, mode: str) -> None:
    with watching(mode, KEY, "", "k") as watch:
        out = watch.call(lambda t: add_one(library, t), [x()])
    assert watch.launches == 1
    assert torch.equal(out, x() + 1 if mode == "sealed" else torch.zeros(3, 4))


def test_a_library_that_calls_back_into_python_is_seen(library: Path) -> None:
    scope: dict[str, object] = {}
    exec(compile("def f():\n    pass\n", "<k>", "exec"), scope)
    with watching("sealed", 0, "", "k") as watch:
        call_back = ctypes.CDLL(str(library)).call_back
        watch.call(lambda: call_back(ctypes.CFUNCTYPE(None)(scope["f"])), [])
    assert list(watch.computed) == ["Python (f) called by a kernel"]


def test_libraries_of_the_system_are_none_of_its_own() -> None:
    with watching("ghost", 0, "", "k") as watch:
        assert ctypes.CDLL(None).abs(-3) == 3
    assert watch.launches == 0
