"""A family of the reader's own: its bundles open wherever the module that defines it is imported."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from bundles import bundle_of, expected, pair_of
from torch import nn

from pwl_lab.loading.bundle import Inputs, check_folder, write_bundle
from pwl_lab.loading.server import BundleServer
from pwl_lab.loading.weightless import check_fillable, check_registered
from pwl_lab.models import BlockNet, MLPConfig, ModelConfig, build
from pwl_lab.study.verbs import train_or_load, train_pair
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

MODULE = """
from typing import Literal
import torch
from torch import nn
from pwl_lab.models import BlockNet, ModelConfig

class SineConfig(ModelConfig):
    family: Literal["sine"] = "sine"
    width: int

    @property
    def n_blocks(self):
        return 2

    def make(self):
        return BlockNet(nn.Linear(6, self.width), [Sine(self.width) for _ in range(2)], nn.Linear(self.width, 2))

class Sine(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width)
        self.register_buffer("phase", torch.rand(width))

    def forward(self, state):
        return torch.sin(self.map(state) + self.phase)
"""
OF_PARTS = """
from typing import Literal
import torch
from torch import nn
from pwl_lab.models import BlockNet, ModelConfig

class Plain(nn.Module):  # knows nothing of this project
    def __init__(self, width):
        super().__init__()
        self.enter, self.leave = nn.Linear(6, width), nn.Linear(width, 2)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        nn.init.xavier_uniform_(self.enter.weight)
        self.register_buffer("shift", torch.linspace(0, 1, 2), persistent=False)

    def forward(self, x):
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x)
        return self.leave(torch.relu(x))

class PlainConfig(ModelConfig):
    family: Literal["plain parts"] = "plain parts"
    width: int

    @property
    def n_blocks(self):
        return 2

    def make(self):
        return BlockNet.of(
            Plain(self.width), (6,), stem="enter", blocks=["layers.0", "layers.1"], head=[torch.relu, "leave"]
        )
"""
OPEN = """
import torch
from pwl_lab.loading.model import ProgressiveModel
with ProgressiveModel.open("bundle", device="cpu") as model:
    model.wait("TT", 60)
    torch.save(model.predict(torch.load("inputs.pt")).logits, "logits.pt")
"""


@pytest.fixture
def sine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The module of a reader, imported; its bundle lies beside it."""
    (tmp_path / "sine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sine", raising=False)
    import sine

    return sine


def run(folder: Path, code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_a_bundle_of_ones_own_family_opens_where_its_module_is_imported(sine, tmp_path):
    teacher, student = sine.SineConfig(width=9), sine.SineConfig(width=5)
    net = SwapNet(build(teacher, 0), build(student, 1, stream="student"), (6,)).eval()
    index = write_bundle(net, (teacher, student), tmp_path / "bundle", Inputs(shape=(6,)))
    assert check_folder(tmp_path / "bundle") == index
    assert (type(index.teacher), index.student) == (sine.SineConfig, student)
    inputs = torch.randn(7, 6)
    torch.save(inputs, tmp_path / "inputs.pt")
    opened = run(tmp_path, "import sine" + OPEN)
    assert opened.returncode == 0, opened.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected(net, inputs)["TT"])
    refused = run(tmp_path, OPEN).stderr.strip().splitlines()[-1]
    assert refused.partition(": ")[2].startswith("bundle: index.json is not a valid bundle index (teacher: ")
    assert (
        "unknown family 'sine' (known: language, mlp, resnet, transformer, vgg, vit); import the module that defines it"
        in refused
    )


IMPORTING = OPEN.replace('device="cpu"', 'device="cpu", imports=True')


@pytest.fixture
def plain_bundle(tmp_path: Path, store_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A pair of networks by their parts, trained and exported; the inputs and the logits of each of its masks."""
    (tmp_path / "plain_parts.py").write_text(OF_PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plain_parts", raising=False)
    from plain_parts import PlainConfig

    task, plan = SparseParity(n_bits=6, k_sparse=2, eval_samples=64), TrainPlan(steps=8, batch_size=8, eval_every=4)
    teacher = train_or_load(PlainConfig(width=9), task, plan, device="cpu")
    pair = train_pair(teacher, PlainConfig(width=5), task, plan, device="cpu", to_export=True)
    pair.export(tmp_path / "bundle")
    inputs = task.split("test").inputs[:7]
    torch.save(inputs, tmp_path / "inputs.pt")
    return expected(pair.net, inputs)


def test_a_bundle_of_parts_is_served_and_opened_by_the_import_path_that_it_names(plain_bundle, tmp_path):
    assert json.loads((tmp_path / "bundle" / "index.json").read_text())["modules"] == {"plain parts": "plain_parts"}
    with BundleServer(tmp_path / "bundle") as server:
        opened = run(tmp_path, IMPORTING.replace('"bundle"', repr(server.url)))
    assert opened.returncode == 0, opened.stderr
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), plain_bundle["TT"])


def test_no_module_is_imported_unasked(plain_bundle, tmp_path):
    (tmp_path / "plain_parts.py").write_text("open('imported', 'w').close()")
    refused = run(tmp_path, OPEN)
    assert re.search(
        "unknown family 'plain parts' .*; the bundle names plain_parts, which open.*, imports=True. imports",
        refused.stderr,
    )
    assert not (tmp_path / "imported").exists()
    refused = run(tmp_path, IMPORTING)
    assert "module plain_parts no longer defines family plain parts" in refused.stderr
    assert (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            "no_such_module",
            "module no_such_module, which defines family plain parts, cannot be imported: No module named",
        ),
        ("os; import this", "module = 'os; import this' is not allowed: the name of a module"),
        ("../plain", "the name of a module"),
        (3, "import the module that defines it first"),
    ],
)
def test_a_module_that_is_not_there_is_named(plain_bundle, tmp_path, module, words):
    index = json.loads((tmp_path / "bundle" / "index.json").read_text())
    (tmp_path / "bundle" / "index.json").write_text(json.dumps(index | {"modules": {"plain parts": module}}))
    refused = run(tmp_path, IMPORTING)
    assert refused.returncode != 0
    assert words in refused.stderr.strip().splitlines()[-1]


def test_bundles_are_written_as_before(tmp_path):
    bundle_of(pair_of("mlp"), tmp_path / "bundle", "mlp")
    text = (tmp_path / "bundle" / "index.json").read_text()
    assert '"modules"' not in text
    fields = ["family", "n_inputs", "widths", "n_classes", "blocks_end"]
    places = [text.index(f'"{field}"', text.index('"teacher"')) for field in fields]
    assert places == sorted(places)


def define(family: str, name: str = "OwnConfig") -> type[ModelConfig]:
    """A class as a notebook's cell defines it."""
    names = {"MLPConfig": MLPConfig, "Literal": Literal, "__name__": "__main__"}
    exec(f"class {name}(MLPConfig):\n    family: Literal[{family!r}] = {family!r}", names)
    return names[name]


def test_a_family_belongs_to_one_class():
    words = (
        r"family of OwnConfig \(defined in __main__\) = 'vgg' is not allowed: .*pwl_lab\.models\.convnets\.VGGConfig"
    )
    with pytest.raises(InvalidValueError, match=words):
        define("vgg")
    first, second = define("own, defined twice"), define("own, defined twice")
    sizes = {"n_inputs": 1, "widths": (1,)}
    check_registered(second(**sizes))
    with pytest.raises(InvalidValueError, match="a class with its own family"):
        check_registered(first(**sizes))
    with pytest.raises(InvalidValueError, match=r"family of OtherConfig \(defined in __main__\)"):
        define("own, defined twice", "OtherConfig")


def test_what_families_have_in_common_is_none_itself():
    code = "class Common(MLPConfig):\n    family: str"
    for name in ("one", "other"):
        exec(code, {"MLPConfig": MLPConfig, "__name__": name})


class Peculiar(ModelConfig):
    """What a reader's network may do that a bundle cannot bring back."""

    family: Literal["peculiar"] = "peculiar"
    how: str

    @property
    def n_blocks(self) -> int:
        return 1

    def make(self) -> BlockNet:
        block = nn.Linear(6, 6)
        if self.how == "attribute":
            block.scale = torch.ones(6)
        if self.how == "buffer":
            block.register_buffer("scale", torch.ones(6), persistent=False)
        if self.how == "value":
            block.scale = torch.ones(1).item()
        return BlockNet(nn.Identity(), [block], nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("attribute", r"make blocks\.0\.scale a parameter or a persistent buffer"),
        ("buffer", r"make blocks\.0\.scale a parameter or a persistent buffer"),
        ("value", "built without memory for its weights"),
    ],
)
def test_a_network_that_its_weights_do_not_complete_is_refused(how, words):
    check_fillable(Peculiar(how="plain"))
    with pytest.raises(InvalidValueError, match=words):
        check_fillable(Peculiar(how=how))
