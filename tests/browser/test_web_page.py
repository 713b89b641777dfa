"""The page on which a network loads, in a real browser: its logits are torch's, its first answer comes before any teacher
block, and whatever goes wrong with a block leaves it predicting."""

import io
import json
import mimetypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from faulty_server import Fault, FaultyServer
from labpage import cut, open_notebook, run_all
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from playwright.sync_api import Page

from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.throttle import Throttle
from pwl_lab.study.recipes import loading_pair
from pwl_lab.study.results import Pair
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.study.uploads import picture_from
from pwl_lab.support import paths
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import mask_logits
from pwl_lab.tasks.images import ImageTask
from pwl_lab.widgets.web_page import FAMILIES, RUNTIME_FILES, write_page

pytestmark = pytest.mark.browser
pytest.importorskip("onnxruntime", reason="the extra `web` is not installed")
RUNTIME = paths.web() / "node_modules" / "onnxruntime-web" / "dist" / RUNTIME_FILES[0]
TASK = ImageTask("fashion-mnist-small")
N_COMPARED = 64  # images on which every mask's logits are compared
SLOW = "64000"  # bytes per second; the pairs at `smoke` have some 60 kB
PATIENCE_MS = 30_000  # for what takes a second when nothing else runs
APP = "const { app } = await import('./main.js');"
LIVE = """from pathlib import Path
from pwl_lab import widgets
from pwl_lab.study.recipes import loading_pair
from pwl_lab.study.settings import LoadingSettings
settings = LoadingSettings.load("smoke")
pair = loading_pair(settings, settings.seeds[0])[1]
pair.export(Path("live_bundle"))
page = widgets.loading_page(Path("live_bundle"), settings.family, "06_loading_under_the_clock")
page"""


class Site:
    """The page's files with a trained pair of each family that a test asked for, and the pairs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pairs: dict[str, Pair] = {}

    def add(self, family: str) -> None:
        """Train at `smoke` and export; it takes some seconds."""
        if family in self.pairs:
            return
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PWL_LAB_RUNS", str(self.folder / "runs"))
            patched.delenv("PWL_LAB_STORE", raising=False)
            self.pairs[family] = loading_pair(LoadingSettings.load("smoke", family=family), 0)[1]
        self.pairs[family].export(self.folder / family)
        write_page(self.folder / family, self.folder / "site", family)

    def files(self) -> dict[str, bytes]:
        """By their addresses in the site."""
        place = self.folder / "site"
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def runtime() -> None:
    """Each test's page computes with it."""
    if not RUNTIME.is_file():
        pytest.skip("ONNX Runtime Web is not there; fetch it with: npm ci --prefix web")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A page with one network."""
    made = Site(tmp_path_factory.mktemp("web"))
    made.add("vgg")
    return made


@pytest.fixture
def server(site: Site, page: Page) -> Iterator[FaultyServer]:
    """Serves the page; fails if the page asks any other host for anything."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    files = site.files()
    with FaultyServer(files, {name: Fault(headers=typed(name)) for name in files}) as here:
        yield here
    assert asked
    assert [url for url in asked if not url.startswith((here.url, "data:", "blob:"))] == []


def typed(name: str) -> dict[str, str]:
    """The content type of a file, which a browser wants to know of scripts."""
    return {"Content-Type": mimetypes.guess_type(name)[0] or "application/octet-stream"}


@pytest.fixture
def opened(page: Page, site: Site, server: FaultyServer) -> Callable[..., Page]:
    """Open the page with a network and a bandwidth."""

    def open_page(family: str = "vgg", rate: str = "Infinity") -> Page:
        site.add(family)
        server.files.update(site.files())
        page.set_default_timeout(PATIENCE_MS)
        page.goto(server.url + "/index.html")
        reached(page, "ready")
        if len(site.pairs) > 1:
            page.get_by_role("combobox", name="Network").select_option(family)
        page.locator(f"main[data-model={family}][data-phase=ready]").wait_for()
        page.get_by_label("Bandwidth").select_option(rate)
        return page

    return open_page


def reached(page: Page, phase: str) -> None:
    page.locator(f"main[data-phase={phase}]").wait_for(timeout=PATIENCE_MS)


def ask(page: Page, expression: str) -> object:
    """A value of the page's own state."""
    return page.evaluate(f"(async () => {{ {APP} return {expression}; }})()")


def until(page: Page, expression: str) -> None:
    """Wait until it holds of the page's own state."""
    for _ in range(PATIENCE_MS // 20):
        if ask(page, expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never: {expression}")


def begin(page: Page) -> None:
    page.get_by_role("button", name="Load", exact=True).click()


def said(page: Page) -> str:
    return page.get_by_role("status").inner_text()


def logits_in(page: Page, masks: list[str]) -> dict[str, list[float]]:
    """The logits that the page computes for its first images."""
    return page.evaluate(f"""(async () => {{
        {APP}
        const {{ normalise }} = await import('./pictures.js');
        const some = app.pictures.slice(0, {N_COMPARED});
        const inputs = normalise(some.flatMap((one) => [...one.pixels]), app.model.inputs), found = {{}};
        for (const mask of {json.dumps(masks)}) found[mask] = [...await app.network.logits(inputs, some.length, mask)];
        return found;
    }})()""")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_of_every_mask_are_those_of_torch(opened: Callable, site: Site, family: str) -> None:
    page, pair = opened(family), site.pairs[family]
    begin(page)
    reached(page, "done")
    samples = TASK.sample(N_COMPARED)[1]
    wanted = mask_logits(pair.net, samples.inputs, all_masks(4))
    found = logits_in(page, all_masks(4))
    for mask, logits in wanted.items():
        np.testing.assert_allclose(np.reshape(found[mask], logits.shape), logits.numpy(), atol=1e-4, err_msg=mask)
    page.get_by_role("button", name="Count right answers").click()
    page.locator("#tally").filter(has_text="in PyTorch").wait_for()
    labels = TASK.sample(300)[1].labels
    right = int((pair.predictions(TASK.sample(300)[1].inputs, ["TTTT"])[0][0] == labels).sum())
    assert page.locator("#tally").inner_text() == f"TTTT: {right} of 300 right here, {right} in PyTorch"


def test_the_student_answers_before_any_block_of_the_teacher_is_there(opened: Callable, server: FaultyServer) -> None:
    page, first = opened(rate=SLOW), "models/vgg/teacher-1.onnx"
    server.faults[first] = Fault(headers=typed(first), stall_after=0)
    begin(page)
    until(page, "app.predictions > 0")
    server.release()
    reached(page, "done")
    model = json.loads(server.files["models/vgg/model.json"])
    sizes = [sum(model["units"][name]["bytes"] for name in step) for step in model["arrivals"]]
    assert sizes[0] <= ask(page, "app.bytesAtFirst") < sizes[0] + sizes[1]
    points = ask(page, "app.points")
    assert [point["mask"] for point in points] == ["SSSS", "TSSS", "TTSS", "TTTS", "TTTT"]
    assert [point["accuracy"] for point in points] == [model["accuracies"]["test"][point["mask"]] for point in points]
    link_s = np.cumsum(sizes) / float(SLOW)  # bytes really trickle
    seconds = np.array([point["seconds"] for point in points])
    assert (seconds >= link_s - 0.01).all()
    assert seconds[0] <= ask(page, "app.firstPrediction") < seconds[1]
    assert ask(page, "app.predictions") > 10
    assert re.search(
        r"\d+ predictions; the first after .*longest gap between two \d+ ms", page.locator("#pace").inner_text()
    )
    assert said(page).startswith("TTTT: 4 of 4 blocks are the teacher's")


FAULTS = {
    "cut": (Fault(times=1, cut_after=1000), r"the connection broke after \d+ of \d+ bytes"),
    "404": (Fault(times=1, status=404), "the server answers 404"),
    "checksum": (Fault(times=1, flip_bit=8 * 900), "its checksum is wrong"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_block_that_does_not_come_is_named_and_the_rest_goes_on(
    opened: Callable, server: FaultyServer, fault: str
) -> None:
    page = opened()
    server.faults["models/vgg/teacher-2.onnx"], reason = FAULTS[fault]
    begin(page)
    reached(page, "failed")
    alert = page.get_by_role("alert").filter(has_text="did not arrive").inner_text()
    assert re.search(rf"Block 2 did not arrive: {reason}.*Meanwhile TSSS goes on predicting", alert)
    before = ask(page, "app.predictions")
    until(page, f"app.predictions > {before + 3}")
    shown = page.locator("#which").inner_text()
    page.locator("#gallery button").nth(5).click()
    page.locator("#which").filter(has_text="TSSS says").filter(has_not_text=shown).wait_for()
    asked = server.count("models/vgg/student-1.onnx")
    page.get_by_role("button", name="Retry").click()
    reached(page, "done")
    assert said(page).startswith("TTTT")
    assert page.get_by_role("alert").filter(has_text="did not arrive").count() == 0
    assert server.count("models/vgg/student-1.onnx") == asked, "what has arrived is kept"
    own = [line for line in page.console_errors if not line.startswith("Failed to load resource")]  # the browser's line
    assert own == []
    page.console_errors.clear()


def test_a_link_that_falls_silent_is_given_up_and_one_that_is_gone_is_noticed(
    opened: Callable, server: FaultyServer
) -> None:
    page = opened()
    server.faults["models/vgg/teacher-1.onnx"] = Fault(times=1, stall_after=500)
    page.evaluate(f"(async () => {{ {APP} app.link.patience = 300; }})()")
    begin(page)
    reached(page, "failed")
    assert "Block 1 did not arrive: nothing came for 0.3 s after 500 of" in page.locator("#problem").inner_text()
    page.context.set_offline(True)
    page.get_by_role("button", name="Retry").click()
    page.locator("#problem").filter(has_text="the connection broke after 0 of").wait_for()
    reached(page, "failed")
    assert "Meanwhile SSSS goes on predicting" in page.locator("#problem").inner_text()
    page.context.set_offline(False)
    page.get_by_role("button", name="Retry").click()
    reached(page, "done")
    page.console_errors.clear()  # the browser's own lines


def test_a_block_is_made_ready_only_in_the_pause_after_a_prediction(opened: Callable) -> None:
    page = opened()
    page.evaluate(f"""(async () => {{
        {APP}
        const log = globalThis.log = [], create = app.ort.InferenceSession.create.bind(app.ort.InferenceSession);
        app.ort.InferenceSession.create = (...all) => {{ log.push("made"); return create(...all); }};
        const logits = app.network.logits.bind(app.network);
        app.network.logits = async (...all) => {{ const found = await logits(...all); log.push("asked"); return found; }};
    }})()""")
    begin(page)
    reached(page, "done")
    log = page.evaluate("globalThis.log")
    first = log.index("asked")
    assert log[:first] == ["made"] * 4, "the student"
    assert log.count("made") == 14
    assert "made made" not in " ".join(log[first:])


def test_int8_comes_first_where_it_is_chosen(opened: Callable, site: Site) -> None:
    page = opened()
    page.get_by_label("Weights").select_option("int8 first")
    begin(page)
    reached(page, "done")
    points = ask(page, "app.points")
    way = ["ssss", "tsss", "ttss", "ttts", "tttt", "Tttt", "TTtt", "TTTt", "TTTT"]
    assert [point["mask"] for point in points] == way
    model = ask(page, "app.model")
    assert [point["accuracy"] for point in points] == [model["accuracies"]["test"][mask] for mask in way]
    coarse, whole = (
        sum(unit["bytes"] for name, unit in model["units"].items() if re.fullmatch(rf"teacher-\d{mark}", name))
        for mark in ("-8bit", "")
    )
    assert coarse < 0.6 * whole, "smoke's networks are small"
    bundle = site.folder / "vgg"
    with ProgressiveModel.open(bundle, throttle=Throttle(0.05), int8_first=True, device="cpu") as loader:
        inputs = TASK.sample(N_COMPARED)[1].inputs
        seen = {}
        while "TTTT" not in seen:
            answer = loader.predict(inputs)
            seen[answer.mask] = answer.logits
    found = logits_in(page, [mask for mask in way if mask in seen])
    for mask, logits in found.items():
        np.testing.assert_allclose(np.reshape(logits, seen[mask].shape), seen[mask].numpy(), atol=1e-4, err_msg=mask)
    page.get_by_role("button", name="block 2:").press("Enter")
    assert page.locator("#mask").inner_text() == "TsTT answers"
    assert page.locator("#accuracy").inner_text() == "not measured"
    page.locator("#which").filter(has_text="TsTT says").wait_for()


def test_without_the_student_nothing_can_predict_until_it_is_there(opened: Callable, server: FaultyServer) -> None:
    page = opened()
    server.faults["models/vgg/student-3.onnx"] = Fault(times=1, status=503)
    begin(page)
    reached(page, "failed")
    assert "The student did not arrive: the server answers 503" in page.locator("#problem").inner_text()
    assert "nothing can predict yet" in page.locator("#problem").inner_text()
    page.get_by_role("button", name="Retry").click()
    reached(page, "done")
    page.console_errors.clear()  # the browser's own line about the 503


def test_any_block_can_be_handed_over_by_keyboard(opened: Callable, server: FaultyServer) -> None:
    page = opened()
    begin(page)
    reached(page, "done")
    model = json.loads(server.files["models/vgg/model.json"])
    for block, mask in ((2, "TSTT"), (4, "TSTS"), (2, "TTTS")):
        page.get_by_role("button", name=f"block {block}:").press("Enter")
        assert page.locator("#mask").inner_text() == f"{mask} answers"
        assert page.locator("#accuracy").inner_text() == f"{100 * model['accuracies']['test'][mask]:.1f}%"
        page.locator("#which").filter(has_text=f"{mask} says").wait_for()
    page.get_by_role("button", name="Back to the loading order").press("Enter")
    assert page.locator("#mask").inner_text() == "TTTT answers"


def test_a_pause_stops_the_bytes_but_not_the_predictions(opened: Callable) -> None:
    page = opened(rate=SLOW)
    begin(page)
    until(page, "app.mask !== ''")
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(200)  # a piece that was under way
    before = ask(page, "[app.predictions, app.seconds, JSON.stringify(app.came)]")
    page.wait_for_timeout(500)
    after = ask(page, "[app.predictions, app.seconds, JSON.stringify(app.came)]")
    assert after[1:] == before[1:]
    assert after[0] > before[0]
    page.get_by_role("button", name="Go on").click()
    reached(page, "done")
    page.get_by_role("button", name="Restart").click()
    assert page.locator("#mask").inner_text() == "no answer yet"
    assert ask(page, "JSON.stringify(app.came)") == "{}"


def test_other_orders_bring_the_blocks_in_their_own_sequence(opened: Callable) -> None:
    page = opened()
    page.get_by_label("Loading order").select_option("suffix")
    begin(page)
    reached(page, "done")
    assert [point["mask"] for point in ask(page, "app.points")] == ["SSSS", "SSST", "SSTT", "STTT", "TTTT"]


def test_a_picture_of_ones_own_is_prepared_as_in_python(opened: Callable, tmp_path: Path) -> None:
    page = opened()
    begin(page)
    reached(page, "done")
    page.get_by_text("Draw a picture, or upload one").click()
    drawn = Image.new("RGB", (90, 140), "white")
    drawn.paste((20, 60, 120), (25, 10, 60, 120))
    drawn.paste((200, 40, 40), (25, 40, 75, 70))
    file = io.BytesIO()
    drawn.save(file, "PNG")
    (tmp_path / "own.png").write_bytes(file.getvalue())
    (tmp_path / "words.png").write_text("these are words")
    page.get_by_label("Upload a picture").set_input_files(tmp_path / "own.png")
    page.locator("#which").filter(has_text="your picture. TTTT says").wait_for()
    wanted = picture_from(file.getvalue(), TASK).flatten()
    found = torch.tensor(ask(page, "[...app.picture.pixels]"))
    # Pillow scales rows or columns first, whichever is cheaper; it shows where both are clipped, at a few corners.
    assert ((found - wanted).abs() > 2).float().mean() < 0.02, "grey levels"
    page.get_by_label("Upload a picture").set_input_files(tmp_path / "words.png")
    page.get_by_role("alert").filter(has_text="words.png cannot be read as a picture").wait_for()
    canvas = page.locator(".drawing-canvas canvas")
    canvas.focus()
    page.keyboard.press("Space")
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.locator("#which").filter(has_text="your picture. TTTT says").wait_for()
    until(page, f"JSON.stringify([...app.picture.pixels]) !== '{json.dumps(found.tolist(), separators=(',', ':'))}'")


def test_an_enormous_picture_is_refused_in_words(opened: Callable, tmp_path: Path) -> None:
    page = opened()
    page.get_by_text("Draw a picture, or upload one").click()
    Image.new("1", (10_000, 5_100)).save(tmp_path / "large.png")
    page.get_by_label("Upload a picture").set_input_files(tmp_path / "large.png")
    page.get_by_role("alert").filter(has_text="large.png has 51 megapixels; at most 50 are allowed").wait_for()


def test_a_page_of_a_newer_format_says_so(page: Page, server: FaultyServer) -> None:
    server.files["models/vgg/model.json"] = b'{"format": 2}'
    page.goto(server.url + "/index.html#vgg")
    reached(page, "broken")
    assert "has format 2, and this page reads up to 1" in page.locator("#problem").inner_text()
    assert page.get_by_role("button", name="Load", exact=True).is_disabled()


def test_without_webassembly_the_page_says_so(page: Page, server: FaultyServer) -> None:
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(server.url + "/index.html")
    reached(page, "broken")
    assert "needs WebAssembly, which is switched off" in page.locator("#problem").inner_text()


@pytest.mark.parametrize("width", [700, 1000, 1400])
def test_all_of_it_fits_the_window(opened: Callable, width: int) -> None:
    page = opened()
    page.set_viewport_size({"width": width, "height": 900})
    for phase in ("ready", "done"):
        reached(page, phase)
        assert cut(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if phase == "ready":
            begin(page)


def test_a_notebook_shows_the_page_and_its_kernel_serves_it(page: Page, lab: tuple[str, str, Path]) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(LIVE)], metadata=kernel), lab[2] / "own_page.ipynb")
    open_notebook(page, lab, "own_page")
    run_all(page)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    inside = page.frame_locator(".jp-OutputArea-output iframe")
    inside.locator("main[data-phase=ready]").wait_for(timeout=PATIENCE_MS)
    inside.get_by_label("Bandwidth").select_option("Infinity")
    inside.get_by_role("button", name="Load", exact=True).click()
    inside.locator("main[data-phase=done]").wait_for(timeout=PATIENCE_MS)
    assert "TTTT" in inside.get_by_role("status").inner_text()
