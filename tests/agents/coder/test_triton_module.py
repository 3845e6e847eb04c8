"""Rendered Triton modules: values by the interpreter, compiling ahead of time, what a launch hands to the driver."""

from __future__ import annotations

import contextlib
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from akg_dynamo.agents.coder import by_rules, triton_module, triton_toolchain
from akg_dynamo.agents.designer.variants import variants
from akg_dynamo.agents.lowering.triton_interpreter import interpreted
from akg_dynamo.agents.sketch import parse
from akg_dynamo.core.errors import ToolchainError
from akg_dynamo.core.types import (
    Candidate,
    Design,
    Dim,
    OpNode,
    Ref,
    Role,
    Subgraph,
    Symbol,
    Target,
    TensorBinding,
    TensorSpec,
)
from akg_dynamo.fusion.extract import extract
from akg_dynamo.fusion.partition import plan
from akg_dynamo.options import Options

H200 = Target("cuda", "triton_cuda", "sm_90", "sm_90")

# y = x * (the sum of x's row), in two launches
SCALE = """sketch scale {
  symbols: M, N
  tensors: x[M, N]: f32 in, s[M]: f32 tmp, y[M, N]: f32 out
  constexpr: B = 64
  @llm_hint("parallel")
  for i in range(0, M):
    m = alloc([], f32, init=0.0)
    for j in range(0, N, B):
      m = m + reduce_sum(load(x[i, j:j+B]), j)
    store(m -> s[i])
  @llm_hint("parallel")
  for i in range(0, M):
    for j in range(0, N, B):
      store(load(x[i, j:j+B]) * load(s[i]) -> y[i, j:j+B])
}"""
DYNAMIC = (Symbol("s0", 1, None, 30), Symbol("s1", 1, None, 48))


def candidate(m: Dim, n: Dim, symbols: tuple[Symbol, ...] = (), offset: Dim = 0, rows: Dim | None = None) -> Candidate:
    """`rows` is the first size of the input, where it has more rows than are read."""
    x, y = TensorSpec("float32", (rows or m, n), (n, 1), "cuda"), TensorSpec("float32", (m, n), (n, 1), "cuda")
    sub = Subgraph((x,), symbols, (OpNode("aten.mul.Tensor", (Ref(0), Ref(0)), (), y),), (1,))
    bindings = (
        TensorBinding("x", Role.INPUT, 0, offset=offset),
        TensorBinding("s", Role.SCRATCH, size=m),
        TensorBinding("y", Role.OUTPUT, 0),
    )
    return by_rules.write(sub, Design(parse(SCALE), bindings, (("M", m), ("N", n))), H200, "scale")


def reference(x: torch.Tensor) -> torch.Tensor:
    return x * x.sum(1, keepdim=True)


# --------------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize(
    ("made", "sizes"),
    [
        (candidate(5, 100), ()),
        (candidate("s0", "s1", DYNAMIC), (5, 100)),
        (candidate("s0", "2*s1", DYNAMIC), (5, 50)),
        (candidate("s0", 100, DYNAMIC[:1]), (5,)),
    ],
    ids=["static", "dynamic", "expression", "mixed"],
)
def test_values_layout_and_type_of_outputs(made: Candidate, sizes: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.randn(5, 100)
    with interpreted():
        module = triton_module.load(made, tmp_path)
        outputs = module.run(x, *sizes)
        again = module.ModelNew()(x, *sizes)
    assert isinstance(outputs, tuple)
    assert outputs[0].stride() == (100, 1)
    torch.testing.assert_close(outputs[0], reference(x))
    assert torch.equal(again[0], outputs[0])


def test_an_offset_is_where_a_tensor_begins(tmp_path: Path) -> None:
    x = torch.randn(7, 100)
    with interpreted():
        module = triton_module.load(candidate(5, 100, offset=200, rows=7), tmp_path)
        (y,) = module.run(x)
    torch.testing.assert_close(y, reference(x[2:]))


def test_wrong_inputs_are_refused(tmp_path: Path) -> None:
    with interpreted():
        model = triton_module.load(candidate(5, 100), tmp_path).ModelNew()
        for bad, error in (
            (torch.randn(5, 99), ValueError),
            (torch.randn(100, 5).t(), ValueError),
            (torch.randn(5, 100).double(), TypeError),
            ([1.0], TypeError),
        ):
            with pytest.raises(error, match="input 0"):
                model(bad)


# --------------------------------------------------------------------------------------------------------------------
# Compiling


def test_kernels_are_compiled_once_and_need_no_gpu(tmp_path: Path) -> None:
    module = by_rules.built(candidate(30, 48), H200, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(path.suffix for path in files) == [".cubin", ".cubin", ".json", ".json"]
    again = triton_module.load(candidate(30, 48), tmp_path)
    for launch in again.LAUNCHES:
        launch.compile = None  # a call of it would raise
    triton_toolchain.build(again, H200)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    used = triton_toolchain.resources(module, H200)
    assert [r.kernel for r in used] == ["scale_0", "scale_1"]
    assert all(0 < r.registers <= 255 and r.spilled_bytes == 0 and r.num_warps == 4 for r in used)
    other = Target("cuda", "triton_cuda", "sm_80", "sm_80")
    triton_toolchain.build(again_for(other, tmp_path), other)
    assert len(list(tmp_path.iterdir())) == 2 * len(files)


def again_for(target: Target, folder: Path) -> types.ModuleType:
    return by_rules.built(candidate(30, 48), target, folder)


def test_the_assembler_is_torchs_or_what_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton import knobs

    monkeypatch.setenv("TRITON_PTXAS_PATH", "")  # so that it is restored
    monkeypatch.delenv("TRITON_PTXAS_PATH")
    tritons, called = knobs.nvidia.ptxas.path, tmp_path / "called"
    older = Target("cuda", "triton_cuda", "sm_80", "sm_80")  # Triton has another variable for what is newer
    for folder in ("torch", "user"):
        tool = tmp_path / folder / "bin" / "ptxas"
        tool.parent.mkdir(parents=True)
        tool.write_text(f'#!/bin/sh\necho {folder} >> {called}\nexec {tritons} "$@"\n')
        tool.chmod(0o755)
    monkeypatch.setattr(triton_toolchain, "_TORCHS", tmp_path / "torch" / "bin" / "ptxas")
    versions = []
    for folder in ("torch", "user"):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / folder))
        if folder == "user":
            monkeypatch.setenv("TRITON_PTXAS_PATH", str(tmp_path / "user" / "bin" / "ptxas"))
        called.unlink(missing_ok=True)
        by_rules.built(candidate(30, 48), older, tmp_path / f"built for {folder}")
        assert set(called.read_text().split()) == {folder}
        versions.append(triton_toolchain.version_text.__wrapped__())
    assert versions[0].endswith(", ptxas of torch")
    assert versions[0] != versions[1], "verdicts on what one of them made do not hold for the other's"


def test_rounding_points_are_kept_where_they_must_be(tmp_path: Path) -> None:
    x, y = (TensorSpec("float32", (256,), (1,), "cuda") for _ in range(2))
    sub = Subgraph((x,), (), (OpNode("aten.mul.Tensor", (Ref(0), Ref(0)), (), y),), (1,))
    sketch = parse("""sketch fma {
      symbols: N
      tensors: x[N]: f32 in, y[N]: f32 out
      @llm_hint("parallel")
      for i in range(0, N, 256):
        t = load(x[i:i+256])
        store(t * t + t -> y[i:i+256])
    }""")
    bindings = (TensorBinding("x", Role.INPUT, 0), TensorBinding("y", Role.OUTPUT, 0))
    for numerics, fused in (("bounded", True), ("eager", False)):
        made = by_rules.write(sub, Design(sketch, bindings, (("N", 256),)), H200, "fma", numerics=numerics)
        ptx = triton_module.load(made, tmp_path).LAUNCHES[0].compile(90).asm["ptx"]
        assert ("fma.rn" in ptx) is fused


@pytest.mark.parametrize("function", ["floor", "tanh", "lgamma"])
def test_denormals_are_kept(function: str, tmp_path: Path) -> None:
    """As torch's own kernels keep them: floor of -1e-39 is -1."""
    x, y = (TensorSpec("float32", (256,), (1,), "cuda") for _ in range(2))
    sub = Subgraph((x,), (), (OpNode(f"aten.{function}.default", (Ref(0),), (), y),), (1,))
    sketch = parse(f"""sketch k {{
      symbols: N
      tensors: x[N]: f32 in, y[N]: f32 out
      @llm_hint("parallel")
      for i in range(0, N, 256):
        store({function}(load(x[i:i+256])) -> y[i:i+256])
    }}""")
    bindings = (TensorBinding("x", Role.INPUT, 0), TensorBinding("y", Role.OUTPUT, 0))
    made = by_rules.write(sub, Design(sketch, bindings, (("N", 256),)), H200, "k")
    ptx = triton_module.load(made, tmp_path).LAUNCHES[0].compile(90).asm["ptx"]
    assert not re.search(r"(?<!approx)\.ftz", ptx)  # approximations have no other form


def test_what_triton_refuses_is_said(tmp_path: Path) -> None:
    made = candidate(30, 48)
    broken = Candidate(made.name, made.source.replace("tl.load(", "tl.laod(", 1), made.dsl)
    with pytest.raises(ToolchainError, match="laod"):
        by_rules.built(broken, H200, tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ToolchainError, match="cannot build in"):
        by_rules.built(candidate(30, 48), H200, tmp_path / "file")


def test_without_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_toolchain, "version_text", lambda: "none")
    with pytest.raises(ToolchainError, match="not installed"):
        by_rules.built(candidate(30, 48), H200, tmp_path)


# --------------------------------------------------------------------------------------------------------------------
# Launching, with a driver that takes notes


class Driver:
    """Stands in for torch's launcher."""

    def __init__(self, returns: int) -> None:
        self.loaded: list[str] = []
        self.launched: list[dict[str, Any]] = []
        self.returns = returns

    def _load_kernel(self, path: str, name: str, shared: int, device: int) -> tuple[int, ...]:
        assert Path(path).read_bytes().startswith(b"\x7fELF")
        self.loaded.append(name)
        return (77, 1000 + len(self.loaded), 32, 0)[-self.returns :]

    def _launch_kernel(self, function: int, *call: Any) -> None:
        x, y, z, _warps, _shared, letters, args, stream = call
        assert len(letters) == len(args)
        name = self.loaded[function - 1001]
        self.launched.append({"name": name, "grid": (x, y, z), "letters": letters, "args": args, "stream": stream})


@pytest.fixture(params=[3, 4], ids=["torch 2.11", "torch 2.13"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver(request.param)
    monkeypatch.setattr(torch._C, "_StaticCudaLauncher", found, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    about = types.SimpleNamespace(shared_memory_per_block_optin=227 << 10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    return found


def loaded(made: Candidate, folder: Path) -> types.ModuleType:
    module = by_rules.built(made, H200, folder)
    module.__dict__["_stream"] = lambda device: 5
    module.__dict__["_empty"] = lambda shape, stride, dtype: torch.empty_strided(shape, stride, dtype=dtype)
    return module


def test_a_launch_hands_over_addresses(driver: Driver, tmp_path: Path) -> None:
    module = loaded(candidate(30, 48), tmp_path)
    x = torch.randn(30, 48)
    (y,) = module.run(x)
    (y2,) = module.run(x)
    assert driver.loaded == ["scale_0", "scale_1"]
    first, second, third, _ = driver.launched
    assert first["grid"] == second["grid"] == (30, 1, 1)
    assert first["args"][0] == x.data_ptr()
    scratch = first["args"][1]
    assert second["args"] == (x.data_ptr(), scratch, y.data_ptr(), None, None)
    assert second["letters"] == "OOOOO"
    assert third["args"][0] == x.data_ptr()
    assert first["stream"] == 5
    assert y.data_ptr() != y2.data_ptr()


def test_outputs_may_be_given(driver: Driver, tmp_path: Path) -> None:
    module = loaded(candidate(30, 48), tmp_path)
    dead = torch.empty(30, 48)
    (y,) = module.run_into(dead, torch.randn(30, 48))
    assert y is dead
    assert driver.launched[1]["args"][2] == dead.data_ptr()


def test_what_may_be_given_twice(tmp_path: Path) -> None:
    """A row is read before it is written, by the program that writes it: but not where other rows are, by offset."""
    assert triton_module.load(candidate(30, 48), tmp_path).IN_PLACE == ((0, 0),)
    assert triton_module.load(candidate("s0", "s1", DYNAMIC), tmp_path).IN_PLACE == ((0, 0),)
    assert triton_module.load(candidate(30, 48, offset=96, rows=32), tmp_path).IN_PLACE == ()


def test_sizes_choose_the_version_and_the_grid(driver: Driver, tmp_path: Path) -> None:
    module = loaded(candidate("s0", "s1", DYNAMIC), tmp_path)
    for rows, columns in ((30, 48), (31, 48), (30, 47)):
        module.run(torch.randn(rows, columns), rows, columns)
    assert driver.loaded == ["scale_0", "scale_1"] * 2, "multiples of 16, and any sizes"
    assert [launch["grid"] for launch in driver.launched[::2]] == [(30, 1, 1), (31, 1, 1), (30, 1, 1)]
    assert driver.launched[2]["args"][2:] == (48, None, None)
    assert driver.launched[2]["letters"] == "OOlOO"


def test_what_begins_at_an_odd_address_is_copied(driver: Driver, tmp_path: Path) -> None:
    module = loaded(candidate(30, 48), tmp_path)
    x = torch.randn(30 * 48 + 1)[1:].view(30, 48)
    assert x.data_ptr() % 16
    module.run(x)
    first, second = driver.launched
    assert first["args"][0] == second["args"][0] != x.data_ptr()
    assert first["args"][0] % 16 == 0


@pytest.mark.parametrize("stride", [(48, 1), (1, 30), (0, 1), (100, 2)])
def test_a_copy_has_the_layout_of_what_it_copies(stride: tuple[int, int], tmp_path: Path) -> None:
    module = triton_module.load(candidate(30, 48), tmp_path)
    x = torch.randn(4096)[1:].as_strided((30, 48), stride, 1)
    copy = module._aligned(x)
    assert copy.data_ptr() % 16 == 0
    assert copy.stride() == stride
    assert torch.equal(copy, x)


def test_more_shared_memory_than_there_is(driver: Driver, tmp_path: Path) -> None:
    module = loaded(candidate(30, 48), tmp_path)
    _, facts = module.LAUNCHES[0].files(90)
    Path(facts).write_text(Path(facts).read_text().replace('"shared": ', '"shared": 300000'))
    with pytest.raises(RuntimeError, match="bytes of shared memory, the device has 232448"):
        module.run(torch.randn(30, 48))
    assert not driver.launched


def test_kernels_that_need_scratch_go_through_triton(driver: Driver, tmp_path: Path) -> None:
    module = loaded(candidate(30, 48), tmp_path)
    calls: list[Any] = []

    class Compiled:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *args, stream: calls.append((grid, args, stream))

    for launch in module.LAUNCHES:
        _, facts = launch.files(90)
        Path(facts).write_text(Path(facts).read_text().replace('"simple": true', '"simple": false'))
        launch.compile = lambda arch: Compiled()
    x = torch.randn(30, 48)
    (y,) = module.run(x)
    assert not driver.launched
    assert calls[1][0] == (30, 1, 1)
    assert calls[1][1] == (x.data_ptr(), calls[0][1][1], y.data_ptr())
    assert calls[1][2] == 5


# --------------------------------------------------------------------------------------------------------------------
# In place, by the interpreter: programs one after the other, so that one that reads what another wrote is seen


def traced(f: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Subgraph:
    """f as one subgraph of a CUDA graph."""
    with FakeTensorMode():
        graph = make_fx(f)(*(torch.empty(x.shape, device="cuda") for x in inputs))
    (cut,) = extract(graph, plan(graph, target=H200, options=Options(gate="correct")))
    return cut.subgraph


IN_PLACE: dict[str, tuple[Callable[..., torch.Tensor], tuple[tuple[int, ...], ...], set[tuple[int, int]]]] = {
    "two inputs": (lambda x, y: F.silu(x) * y, ((40, 100), (40, 100)), {(0, 0), (0, 1)}),
    "a row": (lambda x, w: F.layer_norm(x, (100,), w), ((40, 100), (100,)), {(0, 0)}),
    "a long row": (lambda x: torch.softmax(x, -1), ((3, 40_000),), {(0, 0)}),
    "channels": (lambda x, w: F.relu(x * w.unsqueeze(1)), ((4, 8, 90), (8,)), {(0, 0)}),
    "a group": (lambda x: F.group_norm(x, 2), ((4, 8, 90),), {(0, 0)}),
    "a broadcast row": (lambda x, y: x * y, ((40, 100), (100,)), {(0, 0)}),
    "columns": (lambda x: torch.softmax(x, 0), ((70, 50),), {(0, 0)}),
    "turned": (lambda x, y: x + y.t(), ((64, 64), (64, 64)), {(0, 0)}),
    "a sum": (lambda x: x.sum(-1), ((40, 100),), set()),
    "rolled": (lambda x: torch.roll(x, 1, 0) * 2, ((40, 100),), set()),
    "flipped": (lambda x: torch.flip(x, [0]) + x, ((40, 100),), set()),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_values_in_place(case: str, tmp_path: Path) -> None:
    f, shapes, expected = IN_PLACE[case]
    inputs = [torch.randn(shape) for shape in shapes]
    sub = traced(f, *inputs)
    designs = variants(sub, H200)
    assert isinstance(designs, list)
    for design in designs:
        with interpreted():
            module = triton_module.load(by_rules.write(sub, design, H200, "case"), tmp_path)
            found = set(module.IN_PLACE)
            assert found <= expected, "what was not expected needs a look"
            (fresh,) = module.run(*inputs)
            for output, source in found:
                given = [x.clone() for x in inputs]
                module.__dict__["torch"] = Torch(given[source])
                (shared,) = module.run(*given)
                module.__dict__["torch"] = torch
                assert output == 0
                assert shared is given[source]
                assert torch.equal(shared, fresh)
    assert found == expected


class Torch:
    """torch, for a module whose next output is to lie in a given tensor."""

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory: torch.Tensor | None = memory

    def empty_strided(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        memory, self.memory = self.memory, None
        return torch.empty_strided(*args, **kwargs) if memory is None else memory

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
