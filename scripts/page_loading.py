"""How soon the page of `web/` answers in a browser, and how evenly: rows for `bench.json`.

For each family a pair at `lesson`'s sizes (untrained: weights take no part in time) is written as a page and loaded at
1 MB/s. By turns with it the same browser fetches, over the same link, the whole teacher as one ONNX file and answers with
that. It needs Chromium and the runtime of the page; without them there are no rows.
"""

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from chromium import CHROMIUM, FLAGS
from measuring import Row
from playwright.sync_api import Browser, Page, sync_playwright
from torch import nn

from pwl_lab.loading.bundle import inputs_of, write_bundle
from pwl_lab.loading.onnx_units import Unit, export_graph
from pwl_lab.models import BlockNet, build
from pwl_lab.study.recipes import image_models, image_task
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.support.errors import MissingDataError
from pwl_lab.support.files import file_sha256
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.widgets.web_page import PageServer, write_page

RATE = 1_000_000  # bytes per second
ROUNDS = 7
WHOLE = "teacher.onnx"
LONGEST_GAP = 3  # in medians
READ = """(async () => {
  const { app } = await import("./main.js");
  return [app.firstPrediction, app.gaps];
})()"""
WHOLE_FIRST = """async ([url, facts, rate]) => {
  const { app } = await import("./main.js"), { fetchFile, Link } = await import("./link.js");
  const { normalise } = await import("./pictures.js"), link = new Link(rate);
  const begun = performance.now();
  link.resume();
  const content = await fetchFile(url, facts, link, () => {}, new AbortController().signal);
  const session = await app.ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  const inputs = normalise(app.picture.pixels, app.model.inputs);
  await session.run({ state: new app.ort.Tensor("float32", inputs, [1, ...app.model.inputs.shape]) });
  return (performance.now() - begun) / 1000;
}"""


def page_rows(folder: Path) -> list[Row]:
    """Two rows for each of VGG and ResNet: seconds to the first prediction, and the longest gap between two."""
    try:
        facts = {family: _written(family, folder) for family in ("vgg", "resnet")}
    except MissingDataError as error:
        print(f"left out, the page in a browser: {error}", file=sys.stderr)
        return []
    if not Path(CHROMIUM).exists():
        print(f"left out, the page in a browser: no Chromium at {CHROMIUM}; set PWL_CHROMIUM", file=sys.stderr)
        return []
    server = PageServer(folder / "site")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            return [one for family in facts for one in _rows(browser, server.url, family, facts[family])]
    finally:
        server.close()


def _written(family: str, folder: Path) -> dict[str, object]:
    """Write the page's network of a family and the whole teacher in one file; what there is to know about that file."""
    settings = LoadingSettings.load("lesson", family=family)
    task = image_task(settings)
    models = image_models(settings, task)
    teacher, student = (build(model, seed) for seed, model in enumerate(models))
    net = SwapNet(teacher, student, task.input_shape).eval()
    made = {"task": task.fingerprint()}
    write_bundle(net, models, folder / family, inputs_of(task), task.class_names, made=made, int8=False)
    write_page(folder / family, folder / "site", family)
    path = folder / "site" / "models" / family / WHOLE
    path.write_bytes(export_graph(Unit("teacher", _in_a_row(teacher), task.input_shape)).SerializeToString())
    return {"file": WHOLE, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _in_a_row(net: BlockNet) -> nn.Module:
    """The network as one chain."""
    return nn.Sequential(net.stem, *net.blocks, net.head)


def _rows(browser: Browser, url: str, family: str, facts: dict[str, object]) -> Iterator[Row]:
    """The rows of a family: both ways take turns, each in a page that has just been opened."""
    ours, whole, longest, usual = [], [], [], []
    for _ in range(ROUNDS):
        page = _opened(browser, f"{url}#{family}")
        page.get_by_label("Bandwidth").select_option(str(RATE))
        page.get_by_role("button", name="Load", exact=True).click()
        page.locator("main[data-phase=done]").wait_for()
        first, gaps = page.evaluate(READ)
        ours.append(first)
        longest.append(max(gaps))
        usual.append(float(np.median(gaps)))
        page.context.close()
        page = _opened(browser, f"{url}#{family}")
        whole.append(page.evaluate(WHOLE_FIRST, [f"models/{family}/{WHOLE}", facts, RATE]))
        page.context.close()
    name = f"the page at 1 MB/s, {family}"
    yield _row(f"{name}: first prediction, against the teacher in one file", "s", ours, whole, 3)
    bar = [LONGEST_GAP * one for one in usual]
    yield _row(f"{name}: longest gap between two predictions, against {LONGEST_GAP} medians", "ms", longest, bar, 1)


def _row(name: str, unit: str, ours: list[float], reference: list[float], digits: int) -> Row:
    """Medians over the rounds; a ratio above 1 is on our side."""
    mine, theirs = statistics.median(ours), statistics.median(reference)
    facts = {"name": name, "ours": round(mine, digits), "reference": round(theirs, digits), "unit": unit}
    return facts | {"ratio": round(theirs / mine, 3), "longest": round(max(ours), digits)}


def _opened(browser: Browser, url: str) -> Page:
    """A page whose runtime has started."""
    page = browser.new_context().new_page()
    page.goto(url)
    page.locator("main[data-phase=ready]").wait_for()
    return page
