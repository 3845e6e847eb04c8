"""The backend on a CUDA device: values, streams, addresses, graphs, processes. `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import akg_dynamo
from akg_dynamo import compiler
from akg_dynamo.agents.coder import by_rules, triton_toolchain
from akg_dynamo.core.targets import resolve
from akg_dynamo.options import Options

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(300),
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fast(cache: Path) -> Callable[..., Callable[..., Any]]:
    """A function through AKG, with every kernel that is right."""

    def compiled(f: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        made: Callable[..., Any] = torch.compile(
            f, backend="akg", options={"gate": "correct", "cache_dir": str(cache)}, **options
        )
        return made

    return compiled


Fast = Callable[..., Callable[..., Any]]


def kernels() -> int:
    return sum(len(report.kernels) for report in akg_dynamo.explain())


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x * 2, -1)


def norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.gelu(F.layer_norm(x + 1, (x.shape[-1],), w, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [64, 1000, 20_000])
def test_values(fast: Fast, dtype: torch.dtype, width: int) -> None:
    x = torch.randn(96, width, device="cuda", dtype=dtype)
    w, b = torch.randn(2, width, device="cuda", dtype=dtype)
    for f, inputs in ((softmax, (x,)), (norm, (x, w, b)), (lambda x: (x * x).sum(0), (x,))):
        torch.testing.assert_close(
            fast(f)(*inputs), f(*inputs), rtol=2e-2, atol=2e-2 if dtype != torch.float32 else 1e-4
        )
        assert kernels() == 1
        torch._dynamo.reset()


def test_sizes_may_change(fast: Fast) -> None:
    f = fast(norm, dynamic=True)
    for rows, width in ((64, 512), (3, 511), (1000, 640), (17, 16)):
        x, w, b = (torch.randn(*s, device="cuda") for s in ((rows, width), (width,), (width,)))
        torch.testing.assert_close(f(x, w, b), norm(x, w, b))
    assert kernels() == 1


def test_sizes_may_leave_the_class_that_was_judged(fast: Fast) -> None:
    f = fast(softmax, dynamic=True)
    for shape in ((8, 512), (3, 5000), (5000, 3), (4096, 7), (9, 40_000)):
        x = torch.randn(shape, device="cuda")
        torch.testing.assert_close(f(x), softmax(x))
    assert kernels() == 3


def test_gradients(fast: Fast) -> None:
    x = torch.randn(64, 512, device="cuda")
    w, b = torch.randn(2, 512, device="cuda")
    got = [t.clone().requires_grad_() for t in (x, w, b)]
    want = [t.clone().requires_grad_() for t in (x, w, b)]
    fast(norm)(*got).pow(2).sum().backward()
    norm(*want).pow(2).sum().backward()
    for g, e in zip(got, want, strict=True):
        torch.testing.assert_close(g.grad, e.grad, rtol=1e-3, atol=1e-3)
    assert kernels() >= 2


def test_what_begins_at_an_odd_address(fast: Fast) -> None:
    f = fast(softmax)
    whole = torch.randn(64 * 512 + 3, device="cuda")
    for start in (0, 1, 2, 3):
        x = whole[start : start + 64 * 512].view(64, 512)
        torch.testing.assert_close(f(x), softmax(x))


def test_kernels_run_on_the_current_stream(fast: Fast) -> None:
    f = fast(softmax)
    x = torch.randn(2048, 2048, device="cuda")
    f(x)
    stream = torch.cuda.Stream()
    for _ in range(10):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(2_000_000)
            y = x * 3  # late, on this stream: whoever does not wait for it reads something else
            got = f(y)
        stream.synchronize()
        torch.testing.assert_close(got, softmax(x * 3))


def test_calls_can_be_recorded_in_a_cuda_graph(fast: Fast) -> None:
    f = fast(softmax)
    x = torch.randn(256, 512, device="cuda")
    f(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = f(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(y, softmax(x))


def test_nothing_is_judged_while_a_cuda_graph_is_recorded(fast: Fast) -> None:
    f = fast(softmax, dynamic=True)
    f(torch.randn(8, 512, device="cuda"))
    x = torch.randn(8, 5000, device="cuda")
    softmax(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = f(x)  # beyond what was judged: torch's operators
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(y, softmax(x))
    assert kernels() == 1
    torch.testing.assert_close(f(x), softmax(x))
    assert kernels() == 2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_on_another_device_than_the_current_one(fast: Fast) -> None:
    f = fast(softmax)
    for device in ("cuda:0", "cuda:1"):
        x = torch.randn(64, 512, device=device)
        torch.testing.assert_close(f(x), softmax(x))
        assert f(x).device == x.device


def test_numbers_on_the_host(fast: Fast) -> None:
    scale = torch.tensor(3.0)
    x = torch.randn(64, 512, device="cuda")
    torch.testing.assert_close(fast(lambda x, s: (x * s).exp() + 1)(x, scale), (x * scale).exp() + 1)


def test_an_empty_batch(fast: Fast) -> None:
    f = fast(softmax, dynamic=True)
    f(torch.randn(8, 512, device="cuda"))
    assert f(torch.randn(0, 512, device="cuda")).shape == (0, 512)


def test_the_module_alone(tmp_path: Path) -> None:
    """What akg-optimize writes: it compiles, loads and checks without anything of AKG."""
    x = torch.randn(64, 512, device="cuda")
    options = {"gate": "correct", "cache_dir": str(tmp_path / "cache")}
    torch.compile(softmax, backend="akg", options=options)(x)
    (entry,) = compiler.store_for(Options(cache_dir=tmp_path / "cache")).ls()
    assert entry.candidate is not None
    (tmp_path / "kernel.py").write_text(entry.candidate.source)
    program = (
        "import sys, torch, kernel\n"
        "x = torch.randn(64, 512, device='cuda')\n"
        "torch.testing.assert_close(kernel.ModelNew()(x)[0], torch.softmax(x * 2, -1))\n"
        "assert 'akg_dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=120)
    target = resolve("triton_cuda")
    used = triton_toolchain.resources(by_rules.built(entry.candidate, target, tmp_path), target)
    assert all(r.spilled_bytes == 0 for r in used)


def test_a_second_process_compiles_and_judges_nothing(fast: Fast, cache: Path) -> None:
    x = torch.randn(64, 512, device="cuda")
    fast(softmax)(x)
    program = (
        "import sys, torch, triton\n"
        "from akg_dynamo import compiler\n"
        "def never(*a, **k): raise AssertionError('it was asked to')\n"
        "triton.compile = compiler.warm_judge = never\n"
        "f = torch.compile(lambda x: torch.softmax(x * 2, -1), backend='akg',\n"
        f"    options={{'gate': 'correct', 'cache_dir': {str(cache)!r}}})\n"
        "x = torch.randn(64, 512, device='cuda')\n"
        "torch.testing.assert_close(f(x), torch.softmax(x * 2, -1))\n"
        "import akg_dynamo\n"
        "assert [k.name for r in akg_dynamo.explain() for k in r.kernels]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("index", [9, 10, -1])
def test_an_index_out_of_range_in_a_fused_kernel(index: int, cache: Path) -> None:
    """As eager's own embedding: a device-side assertion, which ends the process's context. In a process of its own."""
    program = (
        "import torch, torch.nn.functional as F, akg_dynamo\n"
        "table, ids = torch.randn(10, 64, device='cuda'), torch.zeros(32, dtype=torch.int64, device='cuda')\n"
        "f = torch.compile(lambda i, t: F.gelu(F.embedding(i, t)) * 2, backend='akg',\n"
        f"    options={{'gate': 'correct', 'cache_dir': {str(cache)!r}}})\n"
        "torch.testing.assert_close(f(ids, table), F.gelu(F.embedding(ids, table)) * 2)\n"
        "assert [k.name for r in akg_dynamo.explain() for k in r.kernels]\n"
        f"ids[7] = {index}\n"
        "f(ids, table)\n"
        "torch.cuda.synchronize()\n"
        "print('went through')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    inside = 0 <= index < 10
    assert ("went through" in done.stdout) == inside, done.stderr[-2000:]
    if not inside:
        assert "device-side assert" in done.stderr


def test_akg_optimize(tmp_path: Path) -> None:
    """The file it writes runs on the device, in a process without AKG (which it checks itself)."""
    source = Path(__file__).parents[2] / "examples" / "kernelbench" / "add_rms_norm.py"
    command = [sys.executable, "-c", "from akg_dynamo.cli.main import optimize_main; optimize_main()"]
    command += [str(source), "--device", "cuda", "--gate", "correct", "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "add_rms_norm_generated.py").exists()
    kernels_written = [p for p in tmp_path.glob("*_generated.py") if p.name != "add_rms_norm_generated.py"]
    assert kernels_written
    assert all("triton" in p.read_text() for p in kernels_written)
