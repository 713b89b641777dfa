"""A family of the reader's own: its bundles open wherever the module that defines it is imported."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from bundles import bundle_of, expected, pair_of
from torch import nn

from pwl_lab.loading.bundle import Inputs, check_folder, write_bundle
from pwl_lab.loading.weightless import check_fillable, check_registered
from pwl_lab.models import BlockNet, MLPConfig, ModelConfig, build
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.swapnet import SwapNet

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


def test_bundles_are_written_as_before(tmp_path):
    bundle_of(pair_of("mlp"), tmp_path / "bundle", "mlp")
    text = (tmp_path / "bundle" / "index.json").read_text()
    fields = ["family", "n_inputs", "widths", "n_classes", "blocks_end"]
    places = [text.index(f'"{field}"', text.index('"teacher"')) for field in fields]
    assert places == sorted(places)


def define(family: str, name: str = "OwnConfig") -> type[ModelConfig]:
    """A class as a notebook's cell defines it."""
    names = {"MLPConfig": MLPConfig, "Literal": Literal, "__name__": "__main__"}
    exec(f"class {name}(MLPConfig):\n    family: Literal[{family!r}] = {family!r}", names)
    return names[name]


def test_a_family_belongs_to_one_class():
    words = r"family of __main__\.OwnConfig = 'vgg' is not allowed: .*pwl_lab\.models\.convnets\.VGGConfig"
    with pytest.raises(InvalidValueError, match=words):
        define("vgg")
    first, second = define("own, defined twice"), define("own, defined twice")
    sizes = {"n_inputs": 1, "widths": (1,)}
    check_registered(second(**sizes))
    with pytest.raises(InvalidValueError, match="a class with its own family"):
        check_registered(first(**sizes))
    with pytest.raises(InvalidValueError, match=r"family of __main__\.OtherConfig"):
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
