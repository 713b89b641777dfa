"""Other people on the machine: what we write has the umask's modes, and what we may not read is not taken for damaged."""

import ast
import gzip
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pooch
import pytest
import torch
from bundles import bundle_of, pair_of
from privileges import as_modes_say

from pwl_lab.benchmarks.baselines import write_plain
from pwl_lab.loading.bundle import check_folder
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.runner.batch import alone_at
from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.location import Location
from pwl_lab.study.store import Artifact, Recipe, Store, record_metrics
from pwl_lab.support import download as data_files
from pwl_lab.support.download import Archive, DataFile, DatasetFiles, obtain
from pwl_lab.support.errors import InvalidValueError, PwlLabError, UnreadableError
from pwl_lab.support.files import file_sha256
from pwl_lab.support.progress import Progress
from pwl_lab.tasks.datasets import read_idx

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
PACKAGE = Path(__file__).resolve().parents[2] / "pwl_lab"
# Folders for a moment, of this process alone.
PRIVATE = {"runner/location.py"}
RECIPE = Recipe("things", 1, {"width": 3})
PATIENCE_S = 60


def made() -> Artifact:
    return Artifact({"t": torch.ones(3)}, {"history": pd.DataFrame({"step": [1]})}, {"a": 1})


def store(folder: Path) -> None:
    here = Store(folder / "store")
    here.get(RECIPE, made)
    (here.entry(RECIPE) / "history.csv").unlink()
    with pytest.warns(UserWarning, match="set aside"):
        here.get(RECIPE, made)


def bundle(folder: Path) -> None:
    bundle_of(pair_of("mlp"), folder / "deep" / "bundle", "mlp")


def cache(folder: Path) -> None:
    bundle(folder)
    with ProgressiveModel.open(folder / "deep" / "bundle", cache=folder / "ours" / "cache") as model:
        model.wait("TTT", PATIENCE_S)
        model._feed.join(PATIENCE_S)
    assert len(list((folder / "ours" / "cache").iterdir())) == 4


def batch(folder: Path) -> None:
    place = Location(folder / "batch")
    with alone_at(place):
        place.write("points/a/status.json", "{}")
        assert (folder / "batch" / ".holder.json").is_file()
        kept = {path.name for path in (folder / "batch").iterdir()}
    assert kept >= {".lock", ".holder.json"}


def run(folder: Path) -> None:
    notebook = folder / "own.ipynb"
    notebook.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    assert run_notebook(notebook, folder / "out").status == "ok"


def metrics(folder: Path) -> None:
    record_metrics("04", {"a": 1})


def progress(folder: Path) -> None:
    os.environ["PWL_LAB_PROGRESS"] = str(folder / "progress.log")  # taken back by the fixture
    with Progress("a", 3) as bar:
        bar.advance(3)


def closely_kept(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode = 0o400
    return member


def archive(folder: Path) -> None:
    (folder / "first").write_bytes(b"1")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        tar.add(folder / "first", "inner/one", filter=closely_kept)
    given(folder / "a.tar.gz")


def given(path: Path) -> Path:
    """The files of a dataset that comes in an archive, out of the reader's own copy of it."""
    content = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    published = Archive("http://localhost/a.tar.gz", file_sha256(path), "inner")
    return obtain("a", DatasetFiles((DataFile("one", content),), archive=published), path.parent)


def plain_files(folder: Path) -> None:
    write_plain(pair_of("mlp"), folder, alternatives=True)


WRITERS = [store, bundle, cache, batch, run, metrics, progress, archive, plain_files]


@pytest.fixture
def umask(request, store_folder: Path, monkeypatch) -> Iterator[int]:
    monkeypatch.setenv("PWL_LAB_PROGRESS", "")
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def assert_usual(folder: Path, umask: int) -> None:
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert found
    assert found == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in found}


@pytest.mark.parametrize("umask", [0o002, 0o027], indirect=True, ids=oct)
@pytest.mark.parametrize("write", WRITERS)
def test_whatever_we_write_has_the_mode_that_the_umask_gives(write, umask, tmp_path):
    write(tmp_path)
    assert_usual(tmp_path, umask)


@pytest.mark.parametrize("umask", [0o002, 0o027], indirect=True, ids=oct)
def test_a_download_has_the_mode_that_the_umask_gives(umask, tmp_path, monkeypatch):
    def retrieve(url, known_hash, fname, path, progressbar) -> str:  # as pooch leaves a file
        target = Path(path) / fname
        target.touch(0o600)
        target.write_bytes(gzip.compress(b"x"))
        return str(target)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    content = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    obtain("a", DatasetFiles((DataFile("x", content, "http://localhost/x.gz", content),)))
    assert_usual(tmp_path / "runs" / "downloads", umask)


def test_nothing_writes_through_temporary_names_by_itself():
    """One place writes aside: another would leave modes, leftovers and half files to itself."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            if name in ("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory", "chmod", "mktemp"):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == PRIVATE | {"support/files.py"}


def closed(path: Path) -> None:
    path.chmod(0)


ENTRY_PARTS = [".", "record.json", "tensors.safetensors", "history.csv", ".."]


@pytest.mark.parametrize("part", ENTRY_PARTS)
@pytest.mark.parametrize("locked", [False, True])
def test_an_entry_of_the_store_that_may_not_be_read_stays_and_is_not_made_again(part, locked, tmp_path):
    here = Store(tmp_path / "store")
    here.get(RECIPE, made)
    entry = here.entry(RECIPE)
    path = entry.parent if part == ".." else entry / part
    before, inode = stat.S_IMODE(path.stat().st_mode), entry.stat().st_ino
    closed(path)
    with as_modes_say(), pytest.raises(UnreadableError, match=r"things.*Permission denied.*was not changed.*owner"):
        here._find(RECIPE, locked) if locked else here.get(RECIPE, lambda: pytest.fail("made again"))
    path.chmod(before)
    assert entry.stat().st_ino == inode
    assert not (tmp_path / "store" / "damaged").exists()
    assert here.get(RECIPE, lambda: pytest.fail("made again")).info == {"a": 1}


@pytest.mark.parametrize("part", [".", "locks", "things"])
def test_a_store_of_somebody_else_is_refused_before_anything_is_made_for_it(part, tmp_path):
    here = Store(tmp_path / "store")
    here.get(RECIPE, made)
    folder = tmp_path / "store" / part
    folder.chmod(0o555)
    other = Recipe("things" if part != "." else "others", 1, {})
    with as_modes_say():
        assert here.get(RECIPE, lambda: pytest.fail("made again")).info == {"a": 1}, "reading needs no right to write"
        with pytest.raises(InvalidValueError, match=r"PWL_LAB_STORE = '.*' .*can be written to .*Permission denied"):
            here.get(other, lambda: pytest.fail("made for nothing"))
    folder.chmod(0o755)


def idx(folder: Path) -> Path:
    (folder / "a-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\7")
    return folder / "a-ubyte"


def tar(folder: Path) -> Path:
    archive(folder)
    return folder / "a.tar.gz"


def shard(folder: Path) -> Path:
    bundle(folder)
    return folder / "deep" / "bundle" / "block-2.safetensors"


def index(folder: Path) -> Path:
    bundle(folder)
    return folder / "deep" / "bundle" / "index.json"


READERS = {
    "idx": (idx, lambda path: read_idx(path, 1)),
    "checksum": (idx, file_sha256),
    "archive": (tar, given),
    "shard": (shard, lambda path: check_folder(path.parent)),
    "index": (index, lambda path: check_folder(path.parent)),
    "opened index": (index, lambda path: ProgressiveModel.open(path.parent)),
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("whole", ["file", "folder"])
def test_what_may_not_be_read_is_said_to_be_that_and_never_damaged(what, whole, tmp_path):
    write, read = READERS[what]
    path = write(tmp_path)
    target = path if whole == "file" else path.parent
    before = target.stat().st_mode
    closed(target)
    with as_modes_say(), pytest.raises(PwlLabError, match="Permission denied") as caught:
        read(path)
    target.chmod(stat.S_IMODE(before))
    assert "damaged" not in str(caught.value)
    assert path.is_file()


def test_a_download_that_may_not_be_read_is_neither_set_aside_nor_fetched_again(store_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "_retrieve", lambda *_: pytest.fail("fetched again"))
    folder = tmp_path / "runs" / "downloads" / "a"
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(b"x")
    closed(folder / "x")
    with as_modes_say(), pytest.raises(UnreadableError, match="Permission denied"):
        obtain("a", DatasetFiles((DataFile("x", file_sha256(folder / "x"), "http://localhost/x.gz", "0"),)))
    assert [path.name for path in folder.iterdir()] == ["x"]
