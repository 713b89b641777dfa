"""The folder of the page on which a network loads: what is in it, and what is refused before anything is written."""

import json
import re
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.widgets import web_page
from pwl_lab.widgets.web_page import LivePage, PageLink, loading_page, write_page


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's own files, with a runtime whose files only have their names; units that are exported at once."""
    pytest.importorskip("onnx", reason="the extra `web` is not installed")
    web = tmp_path / "web"
    runtime = web / "node_modules" / "onnxruntime-web" / "dist"
    runtime.mkdir(parents=True)
    for name in web_page.RUNTIME_FILES:
        (runtime / name).write_text(name)
    for path in paths.web().iterdir():
        if path.is_file():
            (web / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(paths, "web", lambda: web)
    monkeypatch.setattr(web_page, "write_units", _units)
    monkeypatch.setattr(web_page, "shards_of", _shards)
    monkeypatch.setattr(paths, "web_page", lambda: tmp_path / "built")
    monkeypatch.setenv("PWL_LAB_OUT", str(tmp_path / "run" / "06"))
    return web


def _units(bundle: Path, folder: Path) -> None:
    if not bundle.is_dir():
        raise MissingDataError(f"{bundle} is missing")
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps({"format": web_page.UNITS_FORMAT, "shards": _shards(bundle)}))


def _shards(bundle: Path) -> list[str]:
    return [bundle.name]


def test_a_page_takes_another_network_and_replaces_one_of_the_same_name(checkout: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    for bundle, name in (("one", "vgg"), ("two", "resnet"), ("three", "vgg")):
        (tmp_path / bundle).mkdir()
        write_page(tmp_path / bundle, site, name)
    models = json.loads((site / "models.json").read_text())["models"]
    assert [one["name"] for one in models] == ["resnet", "vgg"]
    made_of = {
        name: json.loads((site / "models" / name / "model.json").read_text())["shards"] for name in ("vgg", "resnet")
    }
    assert made_of == {"vgg": ["three"], "resnet": ["two"]}


def test_a_network_that_the_page_has_is_not_exported_again(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle").mkdir()
    write_page(tmp_path / "bundle", tmp_path / "site", "vgg")
    (tmp_path / "site" / "main.js").unlink()
    monkeypatch.setattr(web_page, "write_units", None)
    write_page(tmp_path / "bundle", tmp_path / "site", "vgg")
    assert (tmp_path / "site" / "main.js").is_file(), "the page itself is always the present one"
    monkeypatch.setattr(web_page, "UNITS_FORMAT", 2)
    with pytest.raises(TypeError):  # the exporter is called
        write_page(tmp_path / "bundle", tmp_path / "site", "vgg")


def test_a_notebook_serves_the_page_until_it_is_closed(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    page = loading_page(tmp_path / "bundle", "vgg", "06")
    assert isinstance(page, LivePage)
    assert f'<iframe src="{page.url}"' in page._repr_html_()
    assert page.url.startswith("http://127.0.0.1:")
    assert page.url.endswith("/#vgg")
    for name, kind in (("index.html", "text/html"), ("runtime/ort.wasm.min.mjs", "text/javascript")):
        with urlopen(page.url.replace("#vgg", name)) as answer:
            assert answer.headers.get_content_type() == kind
            assert answer.read() == (tmp_path / "built" / name).read_bytes()
    page.close()
    with pytest.raises(URLError):
        urlopen(page.url, timeout=5)


def test_without_a_kernel_there_is_a_link_or_what_makes_the_page(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    link = loading_page(tmp_path / "bundle", "vgg", "06", interactive=False)
    assert isinstance(link, PageLink)
    assert repr(link) == "The page has not been built. make web writes the page and serves it to this machine."
    write_page(tmp_path / "bundle", tmp_path / "built", "vgg")
    link = loading_page(tmp_path / "bundle", "vgg", "06", interactive=False)
    target = re.search('href="([^"]+)"', link._repr_html_())[1]
    assert target.endswith("index.html#vgg")
    assert (tmp_path / "run" / "06" / target.partition("#")[0]).resolve() == tmp_path / "built" / "index.html"


def test_without_the_runtime_a_notebook_goes_on(checkout: Path, tmp_path: Path) -> None:
    (checkout / "node_modules" / "onnxruntime-web" / "dist" / web_page.RUNTIME_FILES[0]).unlink()
    (tmp_path / "bundle").mkdir()
    page = loading_page(tmp_path / "bundle", "vgg", "06")
    assert isinstance(page, PageLink)
    assert "npm ci --prefix web" in repr(page)
    assert not (tmp_path / "built").exists()


def test_every_file_that_the_page_asks_for_is_beside_it(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    write_page(tmp_path / "bundle", tmp_path / "site", "vgg")
    there = {
        path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*") if path.is_file()
    }
    asked = re.findall(r'(?:href|src)="([\w./-]+)"', (tmp_path / "site" / "index.html").read_text())
    for name in [*asked, *(one for one in there if one.endswith(".js"))]:
        assert name in there
        asked += re.findall(
            r'(?:from |fetch\(|import\(.*\()"(?:\./)?([\w./-]+)"', (tmp_path / "site" / name).read_text()
        )
    assert {"player.js", "canvas.js", "runtime/ort.wasm.min.mjs", "runtime/warm-up.onnx"} <= set(asked) <= there
    assert {name for name in there if name.endswith(".ts") or "json" in name} == {
        "models.json",
        "models/vgg/model.json",
    }


def test_without_the_runtime_a_message_says_how_to_fetch_it(checkout: Path, tmp_path: Path) -> None:
    (checkout / "node_modules" / "onnxruntime-web" / "dist" / web_page.RUNTIME_FILES[0]).unlink()
    (tmp_path / "bundle").mkdir()
    with pytest.raises(MissingDataError, match=r"npm ci --prefix web .*the notebooks do not need it"):
        write_page(tmp_path / "bundle", tmp_path / "site", "vgg")
    assert not (tmp_path / "site").exists()


def test_other_folders_and_names_are_refused_and_nothing_is_written(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InvalidValueError, match="holds an earlier page"):
        write_page(tmp_path / "bundle", checkout, "vgg")
    for name in ("", "../up", "a b", ".hidden", "x" * 65):
        with pytest.raises(InvalidValueError, match="up to 64 letters"):
            write_page(tmp_path / "bundle", tmp_path / "site", name)
    with pytest.raises(MissingDataError, match="is missing"):
        write_page(tmp_path / "nothing", tmp_path / "site", "vgg")
    assert not (tmp_path / "site").exists()


def test_the_lock_of_the_runtime_names_no_registry() -> None:
    lock = json.loads((paths.web() / "package-lock.json").read_text())
    wanted = json.loads((paths.web() / "package.json").read_text())
    assert all("resolved" not in one for one in lock["packages"].values())
    assert all(one.get("integrity") for name, one in lock["packages"].items() if name)
    pinned = wanted["dependencies"] | wanted["devDependencies"]
    assert {name: lock["packages"][f"node_modules/{name}"]["version"] for name in pinned} == pinned
