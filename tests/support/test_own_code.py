"""Digests of the reader's own code: the same for the same code in any process, another for any edit that can matter."""

import importlib
import os
import subprocess
import sys
import tempfile
import textwrap
import warnings
from dataclasses import dataclass
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import Literal

import nbformat
import pytest
import torch
from nbconvert.preprocessors import ExecutePreprocessor
from torch import nn

from pwl_lab.models import MLPConfig, ModelConfig, mlp
from pwl_lab.support.own_code import code_of, is_own, located, raised_at
from pwl_lab.tasks.base import Task
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.parity import SparseParity

MINE = """
import functools
from dataclasses import dataclass, field
import torch
from pydantic import BaseModel, Field
from torch import nn
import helper_of_mine
from helper_of_mine import twice
from package_of_mine.near import near

SCALE = 3
TABLE = {"a": [1, 2]}

def logged(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner

@logged
def act(x):
    "What it does."
    return torch.relu(x) * SCALE

def make(gain):
    return lambda x: x * gain

GAIN = make(2)

class Options(BaseModel):
    gain: float = 2.0
    table: list = Field(default_factory=lambda: [1, 2])
    _hidden: int = 4

@dataclass
class Plain:
    rows: list = field(default_factory=lambda: [3])

class Meta(type):
    kind = 1

class Tagged(metaclass=Meta):
    pass

class Limited:
    def __init__(self, most):
        self.most = most

    def __get__(self, owner, kind=None):
        return self.most

    def __set__(self, owner, value):
        pass

    def reach(self):
        return 2 * self.most

REACH = Limited(5).reach

@functools.singledispatch
def shown(x):
    return x

@shown.register
def _(x: int):
    return x + 10

class Block(nn.Module):
    eps = 1e-5
    model_gain = 2.0
    limit = Limited(3)

    def __init__(self, width=4):
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x):
        if x.dim() in {1, 2, 5} or x.name in {"a", "b", "c"}:
            return GAIN(act(self.map(x)))
        return helper_of_mine.plus(x, TABLE["a"])

class Other:
    pass

OTHER = 1

class Derived(Block):
    @torch.no_grad()
    def small(self):
        return self.eps

    @property
    def size(self):
        from late_of_mine import thing
        from package_of_mine import late
        return twice(thing), near(late), shown(1), REACH(), Options(), Plain(), Tagged.kind
"""
HELPER = """
def plus(x, t):
    return x + t[0]

def twice(x):
    return 2 * x

def unused(x):
    return x
"""


FILES = {
    "mine": MINE,
    "helper_of_mine": HELPER,
    "late_of_mine": "'Said.'\nfrom deep_of_mine import deep\n\nclass Thing:\n    'Said, too.'\n\nthing = 3\n",
    "deep_of_mine": "deep = 5\n",
    "package_of_mine/__init__": "first = 6\n",
    "package_of_mine/late": "from . import deeper\n",
    "package_of_mine/deeper": "deep = 7\n",
    "package_of_mine/near": "def near(x):\n    from .close import act\n    return act(x)\n",
    "package_of_mine/close": "def act(x):\n    return x\n",
}
CODE = "import mine; from pwl_lab.support.own_code import code_of; print(code_of(mine.Derived()))"


def digests(folder: Path, name: str = "mine", old: str = "", new: str = "") -> dict[str, str]:
    """What is found once a text of one file is another."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    assert old in FILES[name]
    (folder / "package_of_mine").mkdir()
    for file, text in FILES.items():
        (folder / f"{file}.py").write_text(text.replace(old, new) if file == name and old else text)
    forget()
    sys.path.insert(0, str(folder))
    try:
        return code_of(importlib.import_module("mine").Derived())
    finally:
        sys.path.remove(str(folder))
        forget()


def forget() -> None:
    for file in FILES:
        sys.modules.pop(file.replace("/", ".").removesuffix(".__init__"), None)


MATTERS = [
    ("mine", "torch.relu(x) *", "torch.relu(x) +"),
    ("mine", "SCALE = 3", "SCALE = 4"),
    ("mine", "SCALE = 3", "SCALE = 3.0"),
    ("mine", '{"a": [1, 2]}', '{"a": [2, 2]}'),
    ("mine", "make(2)", "make(3)"),
    ("mine", "eps = 1e-5", "eps = 1e-4"),
    ("mine", "width=4", "width=5"),
    ("mine", "{1, 2, 5}", "{1, 2, 6}"),
    ("mine", "class Derived(Block)", "class Derived(Block, Other)"),
    ("mine", "return function(*args)", "return -function(*args)"),
    ("mine", "twice(thing)", "twice(thing) + 1"),
    ("mine", "@property", "@classmethod"),
    ("mine", "@torch.no_grad()", "@torch.enable_grad()"),
    ("mine", "return self.eps", "return -self.eps"),
    ("mine", "model_gain = 2.0", "model_gain = 3.0"),
    ("mine", "gain: float = 2.0", "gain: float = 3.0"),
    ("mine", "lambda: [1, 2]", "lambda: [1, 3]"),
    ("mine", "_hidden: int = 4", "_hidden: int = 5"),
    ("mine", "lambda: [3]", "lambda: [4]"),
    ("mine", "kind = 1", "kind = 2"),
    ("mine", "Limited(3)", "Limited(4)"),
    ("mine", "Limited(5)", "Limited(6)"),
    ("mine", "return self.most", "return -self.most"),
    ("mine", "x + 10", "x + 11"),
    ("mine", "(x: int)", "(x: bool)"),
    ("helper_of_mine", "x + t[0]", "x - t[0]"),
    ("late_of_mine", "3", "4"),
    ("deep_of_mine", "5", "6"),
    ("package_of_mine/__init__", "6", "7"),
    ("package_of_mine/late", "deeper", "deeper as other"),
    ("package_of_mine/deeper", "7", "8"),
    ("package_of_mine/close", "return x", "return -x"),
]
DOES_NOT = [
    ("mine", '"What it does."', '"Something else."'),
    ("mine", "def make(gain):\n", "def make(gain):\n    'New.'\n"),
    ("mine", "SCALE = 3", "# three\n\nSCALE = 3  # of them"),
    ("mine", "{1, 2, 5}", "{5, 2, 1}"),
    ("mine", "OTHER = 1", "OTHER = 2"),
    ("helper_of_mine", "    return x\n", "    return -x\n"),
    ("late_of_mine", "'Said.'", "# said"),
    ("late_of_mine", "'Said, too.'", "pass  # said, too"),
]


def test_every_edit_that_can_matter_changes_a_digest_and_no_other_does(tmp_path):
    before = digests(tmp_path)
    for name in ("mine.Derived", "mine.Block.forward", "mine.act", "helper_of_mine.plus", "helper_of_mine.twice"):
        assert name in before
    assert "helper_of_mine.unused" not in before
    found = [before, *(digests(tmp_path, *edit) for edit in MATTERS)]
    for edit in DOES_NOT:
        assert digests(tmp_path, *edit) == before, edit
    for number, one in enumerate(found):
        same = [other for other in range(number) if found[other] == one]
        assert not same, (same, number)


def test_another_process_finds_the_same(tmp_path):
    before = digests(tmp_path)
    (folder,) = tmp_path.iterdir()
    found = [
        subprocess.run([sys.executable, "-W", "error", "-c", CODE], cwd=folder, env=os.environ | {"PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout.strip()
        for seed in ("1", "2")
    ]  # fmt: skip
    assert found == [str(before)] * 2


def test_what_is_installed_or_ours_is_not_the_readers():
    assert not any(map(is_own, (nn.Linear, torch.relu, SparseParity, mlp, textwrap.dedent, textwrap, torch, int)))
    assert is_own(digests)
    task = SparseParity(n_bits=6, k_sparse=2)
    assert code_of(task, mlp(task, 3), ImageTask("digits"), None, 3) == {}


class Edited(ModelConfig):
    """A configuration."""

    family: Literal["edited"] = "edited"
    width: int = 3

    @property
    def n_blocks(self) -> int:
        return 1

    def make(self):
        return nn.Linear(self.width, 1)


def test_the_running_code_counts_and_not_the_file(tmp_path, monkeypatch):
    (tmp_path / "edited_later.py").write_text("def f(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import edited_later

    before = code_of(edited_later.f)
    (tmp_path / "edited_later.py").write_text("def f(x):\n    return x - 1\n")
    assert code_of(edited_later.f) == before


def test_code_that_an_instance_of_ours_holds_counts():
    class Holder:
        def __init__(self, function):
            self.function = function

    Holder.__module__ = SparseParity.__module__
    one, other = (code_of(Holder(function)) for function in (lambda x: x + 1, lambda x: x + 2))
    assert one
    assert one != other
    assert code_of(Holder([partial(wraps(print)(lambda x: x), 1)]))
    assert code_of(Holder({"a": lru_cache(lambda x: x)}))


TENSOR = torch.zeros(3)


def with_tensor(x):
    return x + TENSOR


def test_what_cannot_be_inspected_is_said():
    with pytest.warns(
        UserWarning, match=r"cannot see whether this changes: a Tensor, used by .*with_tensor.*If it does"
    ):
        code_of(with_tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code_of(Edited(), digests)


def test_a_class_without_source_is_digested_as_well():
    def define(text: str) -> type:
        names = {"__name__": "__main__", "nn": nn}
        exec(text, names)
        return names["Mine"]

    one, other = (define(f"class Mine(nn.Module):\n def forward(self, x):\n  return {text}") for text in ("x", "x + 1"))
    assert code_of(one).keys() == code_of(other).keys() == {"__main__.Mine", "__main__.Mine.forward"}
    assert code_of(one) != code_of(other)


def test_two_functions_of_one_name_are_two():
    one, other = (lambda x: x), (lambda x: -x)
    assert len(code_of(one, other)) == 2


def test_a_name_comes_with_its_file_and_line():
    assert located(Edited) == f"Edited (test_own_code.py, line {line_of('class Edited')})"
    assert located(Edited.make) == f"Edited.make (test_own_code.py, line {line_of('def make(self)')})"
    assert located(nn.Linear) == "Linear"
    assert located(SparseParity.split) == "SparseParity.split"


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.strip().startswith(text))


@dataclass
class Fields(Task):
    """All functions in it are generated."""

    size: int = 3


class Variant(MLPConfig):
    """No functions of its own; pydantic adds some."""


class Silent(Task):
    """No functions of its own; `typing` adds one."""


@pytest.mark.parametrize("own", [Fields, Variant, Silent, Edited])
def test_generated_functions_do_not_say_where_a_class_is(own):
    line = line_of(f"class {own.__name__}(") - (own is Fields)  # the decorator belongs to it
    assert located(own) == f"{own.__name__} (test_own_code.py, line {line})"


def test_of_an_instance_its_class_is_named():
    assert located(Edited()) == located(Edited)
    assert located(nn.Flatten()) == "Flatten"


CELL = """
from pwl_lab.models import MLPConfig
from pwl_lab.support.own_code import located, raised_at

class Variant(MLPConfig):
    pass

def fails():
    raise KeyError("x")

try:
    fails()
except KeyError as error:
    print(located(Variant), located(fails), raised_at(error), sep="; ")
"""


def test_a_class_of_a_notebook_is_found_among_its_cells(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in ("x = 1", CELL.strip())])
    ExecutePreprocessor(kernel_name="python3").preprocess(notebook, {"metadata": {"path": str(tmp_path)}})
    said = notebook.cells[1].outputs[0].text
    assert said == "Variant (notebook cell, line 4); fails (notebook cell, line 7); notebook cell, line 8\n"


def test_of_a_class_that_has_no_file_the_module_is_named():
    names = {"__name__": "elsewhere", "dataclass": dataclass}
    exec("@dataclass\nclass Mine:\n size: int = 3", names)
    assert located(names["Mine"]) == "Mine (defined in elsewhere)"


def test_an_error_of_an_import_is_not_said_to_come_from_the_import_system(tmp_path, monkeypatch):
    (tmp_path / "broken_of_mine.py").write_text("x = 1\nimport nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as found:
        importlib.import_module("broken_of_mine")
    assert raised_at(found.value) == "broken_of_mine.py, line 2"


def test_what_lies_among_the_packages_of_any_environment_is_not_the_readers_own(tmp_path, monkeypatch):
    text = "def act(x):\n    return x\n"
    for folder in ("site-packages", "project"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"of_{folder[:4]}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path / folder)
    borrowed, own = (importlib.import_module(name) for name in ("of_site", "of_proj"))
    assert not is_own(borrowed.act)
    assert is_own(own.act)
