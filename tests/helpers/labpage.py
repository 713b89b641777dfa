"""A notebook in JupyterLab's own page: open it, run it."""

import time
from pathlib import Path

from playwright.sync_api import Error, Page

KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
RUN_S = 240
START_S = 180  # a server beside much other work
ANSWER_MS = 1_000  # what a reader waits for a picture at most


def open_notebook(page: Page, lab: tuple[str, str, Path], name: str, place: str = "lab/tree") -> None:
    """Open a notebook in JupyterLab, or at another `place`, and wait for its kernel; the server may still be starting."""
    address, token, _ = lab
    end = time.monotonic() + START_S
    while True:
        try:
            page.goto(f"{address}/{place}/{name}.ipynb?token={token}&reset")
            break
        except Error:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
    page.wait_for_function(f"{KERNEL} === 'idle'", timeout=90_000)


def run_all(page: Page) -> None:
    """Run all cells; the promise ends when the last one has. From then on an answer has the time of an answer."""
    page.set_default_timeout(RUN_S * 1000)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.set_default_timeout(ANSWER_MS)


def cut(page: Page) -> list[str]:
    """The labels, values, menus and buttons of controls whose words do not fit."""
    return page.evaluate(
        """parts => [...document.querySelectorAll(parts)].filter(one => one.scrollWidth > one.clientWidth + 1)
           .filter(one => getComputedStyle(one).display !== 'inline').map(one => one.innerText)""",
        ".widget-label, .widget-readout, .widget-toggle-button, .widget-dropdown select, "
        ".frame-page label, .frame-page .value, .frame-page select, .frame-page button, "
        ".pwl-player label, .pwl-player select, .pwl-player button, .pwl-player .unit > *, .pwl-player header > *",
    )
