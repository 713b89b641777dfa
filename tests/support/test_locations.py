"""Where things lie: in a checkout, in an installed package, and on another drive."""

import os
from pathlib import Path

import pytest

from pwl_lab.support import paths
from pwl_lab.support.environment import HOME, RUNS
from pwl_lab.support.errors import MissingDataError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as an installation lays it; the current folder is another one."""
    for folder in ("site/pwl_lab/presets", "here"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "site" / "pwl_lab")
    monkeypatch.chdir(tmp_path / "here")
    for variable in (HOME, RUNS):
        monkeypatch.setenv(variable.name, "")  # taken back afterwards, whatever is put there
    return paths.PACKAGE


def test_an_installed_package_has_presets_and_data_and_writes_to_the_current_folder(package, tmp_path, monkeypatch):
    assert not paths.is_checkout()
    assert paths.presets() == package / "presets"
    assert paths.data() == package / "data"
    assert paths.commit() is None
    assert paths.from_here("mine") == str(tmp_path / "here" / "mine")
    assert paths.runs() == tmp_path / "here" / "runs"
    monkeypatch.chdir(tmp_path)
    assert paths.runs() == tmp_path / "here" / "runs", "as first asked, wherever the process goes"


def test_a_checkout_that_is_named_comes_before_the_package(package, tmp_path, monkeypatch):
    (tmp_path / "checkout" / "presets").mkdir(parents=True)
    monkeypatch.setenv(HOME.name, str(tmp_path / "checkout"))
    assert paths.is_checkout()
    assert paths.runs() == tmp_path / "checkout" / "runs"
    monkeypatch.setenv(HOME.name, str(tmp_path))
    with pytest.raises(MissingDataError, match="no presets"):
        paths.root()


def test_an_address_is_relative_but_on_another_drive(tmp_path, monkeypatch):
    assert paths.address(tmp_path / "a" / "page.html", tmp_path / "b") == "../a/page.html"

    def refused(*_: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")  # as on Windows

    monkeypatch.setattr(os.path, "relpath", refused)
    assert paths.address(tmp_path / "page.html", tmp_path) == f"file://{tmp_path}/page.html"
