"""The README's animation: a stored pair loads in true time, filmed in the player that the notebooks show.

`python scripts/readme_animation.py --preset lesson` reads the first pair of notebook 04 from the store (it trains nothing),
plays it on a link on which all of it takes about six seconds, and writes `loading.gif` beside the README's figures. It
needs Chromium (`chromium.py`).
"""

import argparse
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from chromium import CHROMIUM, FLAGS
from PIL import Image, ImageOps
from playwright.sync_api import Page, sync_playwright

from pwl_lab import widgets
from pwl_lab.loading.throttle import MEGABYTE
from pwl_lab.plots.style import byte_words
from pwl_lab.study import recipes
from pwl_lab.study.results import Pair
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.support.environment import ONLY_STORED

ROOT = Path(__file__).resolve().parents[1]
WIDTH, COLOURS = 800, 128
PLAY_S, HOLD_S, FRAME_S = 6, 2, 0.1  # the play, the end that stays, and each picture
NAMES = {"vgg": "VGG", "resnet": "ResNet", "vit": "ViT"}
MOST_BYTES = 2_000_000
# The player without what a film has no use for.
FILMED = """
body { margin: 0; background: white; }
body .pwl-player { padding: 10px; }
body .pwl-player .row:first-child, body .pwl-player .play, body .pwl-player .time, body .pwl-player .foot,
body .pwl-player .words, body .pwl-player .legend { display: none; }
body .pwl-player .body { flex-wrap: nowrap; }
body .pwl-player .left { flex: 1 1 470px; }
body .pwl-player .right { flex: 0 0 300px; }
body .pwl-player .title { flex: 1; font-size: 16px; }
"""
TITLE = """title => {
  const row = document.querySelectorAll(".pwl-player .row")[1], box = document.createElement("b");
  row.prepend(Object.assign(box, { className: "title", textContent: title }));
}"""
SEEK = """share => {
  const time = document.querySelector(".pwl-player .time input");
  time.value = Math.round(1000 * share);
  time.dispatchEvent(new Event("input"));
}"""


def main() -> None:
    """Film a stored pair and write the GIF."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lesson", help="whose sizes")
    parser.add_argument("--family", help="vgg, resnet or vit; unless given the preset's own")
    parser.add_argument("--order", default="prefix", help="the loading order")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "loading.gif", help="where it goes")
    given = parser.parse_args()
    os.environ[ONLY_STORED.name] = "1"
    sizes = LoadingSettings.load(given.preset, **({"family": given.family} if given.family else {}))
    _, pair = recipes.loading_pair(sizes, sizes.seeds[0])
    drawn = recipes.drawn_predictions(pair, recipes.image_task(sizes), n_samples=6)  # not picked: most are right
    frames = list(film(pair, drawn, given.order, sizes.family))
    write_gif(frames, given.out)
    print(f"{given.out}: {byte_words(given.out.stat().st_size)}, {len(frames)} pictures")


def film(pair: Pair, samples: recipes.SamplePredictions, order: str, family: str) -> Iterator[Image.Image]:
    """A picture of the player at each moment of the play, from no byte to the last one."""
    total = pair.student_bytes + pair.converter_bytes + pair.teacher_bytes
    link = float(f"{total / PLAY_S / MEGABYTE:.1g}")  # MB/s, a round one
    player = widgets.layer_loader(pair, samples, interactive=False, megabytes_per_s=(link,))
    if not isinstance(player, widgets.LayerPage):
        raise TypeError(type(player))
    player.chosen = {**player.chosen, "order": order}
    count = round(total / MEGABYTE / link / FRAME_S)  # in real time
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = opened(playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page(), player, folder)
        page.evaluate(TITLE, f"A {NAMES[family]} teacher of {byte_words(pair.teacher_bytes)} arrives at {link:g} MB/s")
        for i in range(count + 1):
            page.evaluate(SEEK, i / count)
            shot = page.locator(".pwl-player").screenshot()
            yield Image.open(io.BytesIO(shot)).convert("RGB")


def opened(page: Page, player: widgets.LayerPage, folder: str) -> Page:
    """The player alone on a page."""
    path = Path(folder) / "player.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><style>{FILMED}</style>{player._repr_html_()}", encoding="utf-8"
    )
    page.set_viewport_size({"width": WIDTH, "height": 600})
    page.goto(path.as_uri())
    page.add_style_tag(content=FILMED)  # after the player's own
    return page


def write_gif(frames: list[Image.Image], target: Path) -> None:
    """Write a GIF that begins again after it has stood still at its end."""
    height = max(frame.height for frame in frames)  # words below the pictures take more lines at some moments
    frames = [ImageOps.pad(frame, (frame.width, height), color="white", centering=(0, 0)) for frame in frames]
    palette = frames[len(frames) // 2].quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    times = [round(1000 * FRAME_S)] * (len(small) - 1) + [round(1000 * HOLD_S)]
    target.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(target, save_all=True, append_images=small[1:], duration=times, loop=0, optimize=True)
    if target.stat().st_size > MOST_BYTES:
        raise SystemExit(
            f"{target} has {byte_words(target.stat().st_size)}; at most {byte_words(MOST_BYTES)} are wanted"
        )


if __name__ == "__main__":
    main()
