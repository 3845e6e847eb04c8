"""The written file: values, state, guards and structure, with kernels written by hand in place of generated ones."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import fx

from akg_dynamo import exported, integrate
from akg_dynamo.core import naming
from akg_dynamo.core.errors import UserError
from akg_dynamo.core.types import Candidate, OpNode, Ref, Subgraph, TensorSpec

SOURCE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x, scale=None, *, flip=False):
        self.steps += 1
        h = self.layers(x)
        h = torch.relu(h) + x
        return {"out": h, "pair": (x * 2, [h.sum()])}

Model = Block

def get_init_inputs():
    return [8]

def get_inputs():
    return [torch.randn(4, 8)]

if __name__ == "__main__":
    raise SystemExit("must not be copied")
"""

ADD_RELU = """
import torch

def build():
    pass

CALLS = 0

def run(a, b):
    global CALLS
    CALLS += 1
    return (torch.relu(a) + b,)

class ModelNew(torch.nn.Module):
    def forward(self, a, b):
        return run(a, b)[0]
"""


@dataclass
class Cut:
    subgraph: Subgraph
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...] = field(default=())


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The original module and the written one, whose relu + add is a kernel."""
    path = tmp_path / "block.py"
    path.write_text(SOURCE)
    user = load(path, "user_block")
    model = user.Model()
    captured = exported.capture(model, (torch.randn(4, 8),), {})
    nodes = {n.name: n for n in captured.graph_module.graph.nodes}
    relu = nodes["relu"]
    add = next(n for n in relu.users if "add" in n.name)
    spec = TensorSpec("float32", (4, 8), (8, 1))
    relu_node = OpNode("aten.relu.default", (Ref(0),), (), spec)
    sub = Subgraph((spec, spec), (), (relu_node, OpNode("aten.add.Tensor", (Ref(2), Ref(1)), (), spec)), (3,))
    cut = Cut(sub, (relu.args[0], add.args[1]), (add,), (relu, add))  # type: ignore[arg-type]
    piece = integrate.Piece(cut, "relu_add", Candidate("relu_add", ADD_RELU, "cpp"))
    text = integrate.write(captured, [piece], model=model, model_file=path, user_module="user_block")
    (tmp_path / "relu_add_generated.py").write_text(piece.text)
    (tmp_path / "block_generated.py").write_text(text)
    before = list(sys.path)
    yield user, load(tmp_path / "block_generated.py", "block_generated")
    sys.path[:] = before
    sys.modules.pop("relu_add_generated", None)


def same(a: object, b: object) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@torch.no_grad()
def test_values_state_and_kernel_use(written: tuple[ModuleType, ModuleType]) -> None:
    user, new = written
    original = user.Model(8)
    ours = new.ModelNew(8)
    ours.load_state_dict(original.state_dict())
    x = torch.randn(4, 8)
    same(ours(x), original(x))
    assert sys.modules["relu_add_generated"].CALLS == 1
    assert list(ours.state_dict()) == list(original.state_dict())
    assert ours.steps.item() == original.steps.item() == 1.0


@torch.no_grad()
def test_from_model_shares_parameters(written: tuple[ModuleType, ModuleType]) -> None:
    user, new = written
    original = user.Model(8)
    ours = new.ModelNew.from_model(original)
    assert ours.layers[0].weight is original.layers[0].weight
    x = torch.randn(4, 8)
    same(ours(x)["out"], original(x)["out"])


@torch.no_grad()
@pytest.mark.parametrize(
    "x", [torch.randn(6, 8), torch.randn(8, 4).t(), torch.randn(2, 4, 8)], ids=["size", "stride", "rank"]
)
def test_outside_its_guards_the_original_forward_runs(written: tuple[ModuleType, ModuleType], x: torch.Tensor) -> None:
    user, new = written
    original = user.Model(8)
    ours = new.ModelNew.from_model(original)
    same(ours(x)["out"], original(x)["out"])
    assert sys.modules["relu_add_generated"].CALLS == 0


@torch.no_grad()
def test_parameters_of_another_dtype_run_the_original_forward(written: tuple[ModuleType, ModuleType]) -> None:
    _, new = written
    ours = new.ModelNew(8).double()
    out = ours(torch.randn(4, 8, dtype=torch.float64))
    assert out["out"].dtype is torch.float64
    assert sys.modules["relu_add_generated"].CALLS == 0


def test_a_call_that_needs_gradients_gets_them(written: tuple[ModuleType, ModuleType]) -> None:
    user, new = written
    original = user.Model(8)
    ours = new.ModelNew.from_model(original)
    ours(torch.randn(4, 8))["out"].sum().backward()
    assert original.layers[0].weight.grad is not None


@torch.no_grad()
def test_keywords_and_defaults_are_the_same_call(written: tuple[ModuleType, ModuleType]) -> None:
    _, new = written
    ours = new.ModelNew(8)
    x = torch.randn(4, 8)
    ours(x=x)
    ours(x, None)
    assert sys.modules["relu_add_generated"].CALLS == 2


@torch.no_grad()
def test_another_signature_raises_and_says_so(written: tuple[ModuleType, ModuleType]) -> None:
    _, new = written
    ours = new.ModelNew(8)
    with pytest.raises(TypeError, match="this call is another one: use Block"):
        ours(torch.randn(4, 8), torch.ones(()))
    with pytest.raises(TypeError, match="missing a required argument"):
        ours()
    with pytest.raises(TypeError, match="generated for Block, not for Linear"):
        new.ModelNew.from_model(torch.nn.Linear(1, 1))


def test_text_reads_well(written: tuple[ModuleType, ModuleType]) -> None:
    _, new = written
    assert new.__file__ is not None
    text = Path(new.__file__).read_text()
    assert "from relu_add_generated import ModelNew as ReluAdd" in text
    assert "# block.py:14: h = torch.relu(h) + x" in text
    assert "must not be copied" not in text
    assert "akg" not in text.lower().replace("akg_original", "")


def test_a_kernel_that_was_replaced_is_refused(written: tuple[ModuleType, ModuleType]) -> None:
    _, new = written
    assert new.__file__ is not None
    path = Path(new.__file__)
    kernel = path.with_name("relu_add_generated.py")
    kernel.write_text(kernel.read_text().replace('KEY = "', 'KEY = "0'))
    importlib.invalidate_caches()
    sys.modules.pop("relu_add_generated")
    with pytest.raises(ImportError, match=rf"{path}.* than the one in {kernel}.*: generate the model again"):
        load(path, "block_generated_again")


def test_training_mode_raises_where_it_matters(tmp_path: Path) -> None:
    path = tmp_path / "drop.py"
    path.write_text(
        "import torch\nclass Model(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.d = torch.nn.Dropout(0.5)\n    def forward(self, x):\n        return torch.relu(self.d(x)) + x\n"
    )
    user = load(path, "user_drop")
    captured = exported.capture(user.Model(), (torch.randn(4, 8),), {})
    assert captured.frozen == ("",)
    nodes = {n.name: n for n in captured.graph_module.graph.nodes}
    spec = TensorSpec("float32", (4, 8), (8, 1))
    relu, add = nodes["relu"], nodes["add"]
    cut = Cut(Subgraph((spec, spec), (), (), ()), (relu.args[0], add.args[1]), (add,), (relu, add))  # type: ignore[arg-type]
    piece = integrate.Piece(cut, "relu_add", Candidate("relu_add", ADD_RELU, "cpp"))
    text = integrate.write(captured, [piece], model=user.Model(), model_file=path, user_module="user_drop")
    (tmp_path / "relu_add_generated.py").write_text(piece.text)
    (tmp_path / "drop_generated.py").write_text(text)
    new = load(tmp_path / "drop_generated.py", "drop_generated").ModelNew()
    with pytest.raises(RuntimeError, match=r"call .eval\(\) first, or use Model"):
        new(torch.randn(4, 8))
    x = torch.randn(4, 8)
    same(new.eval()(x), torch.relu(x) + x)
    sys.modules.pop("relu_add_generated", None)


def test_a_part_in_evaluation_mode_stays_there() -> None:
    class Normed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(8).eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.norm(x))

    model = Normed()
    captured = exported.capture(model, (torch.randn(4, 8),), {})
    assert captured.frozen == ("norm",)
    assert model.training
    assert not model.norm.training
    assert exported.capture(torch.nn.ReLU(), (torch.randn(4, 8),), {}).frozen == ()
    built = {name: part.training for name, part in model.named_modules()}
    assert exported.capture(model.eval(), (torch.randn(4, 8),), {}, built).frozen == ("norm",)


def test_nothing_won_is_the_original_forward(tmp_path: Path) -> None:
    path = tmp_path / "block.py"
    path.write_text(SOURCE)
    user = load(path, "user_block")
    text = integrate.write(None, [], model=user.Model(), model_file=path, user_module="user_block")
    (tmp_path / "block_generated.py").write_text(text)
    new = load(tmp_path / "block_generated.py", "block_nothing").ModelNew(8)
    assert type(new).forward.__qualname__ == "Block.forward"
    assert "No kernel won" in text


class Branch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


def test_data_dependent_control_flow_names_the_line() -> None:
    with pytest.raises(UserError, match=r"depend on the data in a tensor at test_integrate.py:\d+: if x.sum\(\) > 0"):
        exported.capture(Branch(), (torch.randn(4),), {})


def test_an_operator_without_a_meta_function_is_named() -> None:
    @torch.library.custom_op("akgtest::opaque", mutates_args=())
    def opaque(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    class Opaque(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.akgtest.opaque(x) + 1

    with pytest.raises(UserError, match=r"no meta .*register_fake"):
        exported.capture(Opaque(), (torch.randn(4),), {})


def test_names_are_readable_and_distinct() -> None:
    spec = TensorSpec("float32", (4, 8), (8, 1))

    def sub(*targets: str) -> Subgraph:
        return Subgraph((spec,), (), tuple(OpNode(f"aten.{t}", (Ref(0),), (), spec) for t in targets), (1,))

    rms = sub("add.Tensor", "pow.Tensor_Scalar", "mean.dim", "add.Scalar", "rsqrt.default", "mul.Tensor", "mul.Tensor")
    assert naming.op_name(rms) == "add_rms_norm"
    assert naming.distinct_names([sub("_softmax.default"), sub("_softmax.default", "clone.default")]) == [
        "softmax",
        "softmax_2",
    ]
    assert naming.camel("add_rms_norm_2") == "AddRmsNorm2"
