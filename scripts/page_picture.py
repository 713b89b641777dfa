"""The README's picture of the page on which a network loads: a stored pair half-way over a slow link, in a real browser.

`python scripts/page_picture.py` writes the page with notebook 04's stored pair (it trains nothing), loads it up to the
teacher's third block and writes `page.png` beside the README's figures. It needs Chromium and the page's runtime.
"""

import argparse
import io
import os
import tempfile
from pathlib import Path

from chromium import CHROMIUM, FLAGS
from PIL import Image
from playwright.sync_api import sync_playwright

from pwl_lab.study.recipes import loading_pair
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.support.environment import ONLY_STORED
from pwl_lab.widgets.web_page import PageServer, write_page

ROOT = Path(__file__).resolve().parents[1]
SIZE = {"width": 1100, "height": 760}
RATE = 64_000  # bytes per second
MOST_BYTES = 300_000


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="vgg", help="vgg, resnet or vit")
    parser.add_argument("--mask", default="TTTS", help="the network that answers when the picture is taken")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "page.png", help="where it goes")
    given = parser.parse_args()
    os.environ[ONLY_STORED.name] = "1"
    sizes = LoadingSettings.load("lesson", family=given.family)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        loading_pair(sizes, sizes.seeds[0])[1].export(Path(folder) / "bundle")
        write_page(Path(folder) / "bundle", Path(folder) / "site", given.family)
        server = PageServer(Path(folder) / "site")
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page(viewport=SIZE)
        page.goto(server.url)
        page.locator("main[data-phase=ready]").wait_for()
        page.get_by_label("Bandwidth").select_option(str(RATE))
        page.get_by_role("button", name="Load", exact=True).click()
        page.locator("#mask").filter(has_text=given.mask).wait_for()
        page.wait_for_timeout(1_000)  # the next block is on its way
        shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        server.close()
    shown.quantize(128, dither=Image.Dither.NONE).save(given.out, optimize=True)
    if (size := given.out.stat().st_size) > MOST_BYTES:
        raise SystemExit(f"{given.out} has {size:,} bytes, more than {MOST_BYTES:,}")
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
