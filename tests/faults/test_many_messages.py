"""Thousands of messages from a kernel to a runner that is behind: none is lost, no wait is without end."""

import asyncio
import os
import signal
import subprocess
import time

import nbformat
import pytest
from benches import COMMAND
from processes import until

from pwl_lab.runner import client
from pwl_lab.runner.execute import run_notebook

MANY = 3_000  # ZeroMQ's own mark is 1,000 at each end, and a unix socket holds some hundreds

# Each kind is a cell: it sends while the runner is stopped, and so takes in nothing.
HEAD = """
import logging, os, sys, time
from pathlib import Path
from IPython.display import Markdown, display
from ipywidgets import IntProgress, Output
from tqdm import tqdm
here = Path(os.environ["PWL_LAB_OUT"])
logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
def wait(kind):
    (here / f"{kind}.ready").touch()
    while not (here / f"{kind}.go").exists():
        time.sleep(0.01)
"""
KINDS = {
    "lines": "for i in range(MANY):\n    sys.stdout.write(f'x{i}\\n'); sys.stdout.flush()",
    "returns": "for i in range(MANY):\n    sys.stdout.write(f'\\rx{i}'); sys.stdout.flush()",
    "two streams": "for i in range(MANY):\n    print(f'x{i}', file=(sys.stdout, sys.stderr)[i % 2], flush=True)",
    "displays": "for i in range(MANY):\n    display(Markdown(f'x{i}'))",
    "records": "for i in range(MANY):\n    logging.info('x%d', i); sys.stderr.flush()",
    "bar": "for i in tqdm(range(MANY), mininterval=0, miniters=1):\n    sys.stderr.flush()",
    "updates": "shown = display('x', display_id=True)\nfor i in range(MANY):\n    shown.update(f'x{i}')",
    "widget": "control = IntProgress(max=MANY)\ndisplay(control)\nfor i in range(MANY):\n    control.value = i + 1",
    "in a widget": "box = Output()\ndisplay(box)\nwith box:\n    for i in range(MANY // 4):\n        print(f'x{i}', flush=True)",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """The executed notebook of one run with a cell of each kind; the runner sleeps while the kernel sends."""
    folder = tmp_path_factory.mktemp("many")
    cells = [HEAD + f"MANY = {MANY}"]
    cells += [f"wait('{kind}')\n{code}\n(here / '{kind}.sent').touch()" for kind, code in KINDS.items()]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(made, folder / "many.ipynb")
    out = folder / "out"
    process = subprocess.Popen([COMMAND, "run", str(folder / "many.ipynb"), "--out", str(out)], env=os.environ)
    try:
        for kind in KINDS:
            until(lambda kind=kind: (out / f"{kind}.ready").exists(), seconds=240)
            process.send_signal(signal.SIGSTOP)
            (out / f"{kind}.go").touch()
            until(lambda kind=kind: (out / f"{kind}.sent").exists(), seconds=120)
            process.send_signal(signal.SIGCONT)
        assert process.wait(240) == 0, (out / "status.json").read_text()
    finally:
        process.kill()
        process.wait()
    return nbformat.read(out / "notebook.ipynb", as_version=4)


@pytest.mark.parametrize("kind", ["lines", "returns", "two streams", "records"])
def test_every_piece_of_text_is_kept_in_order(kept, kind: str) -> None:
    found = _outputs(kept, kind)
    if kind == "two streams":  # each in order; the two are not asked for theirs among each other
        for name, first in (("stdout", 0), ("stderr", 1)):
            text = "".join(output.text for output in found if output.name == name)
            assert text.split() == [f"x{i}" for i in range(first, MANY, 2)]
    else:
        assert "".join(output.text for output in found).split() == [f"x{i}" for i in range(MANY)]
        assert len(found) == 1, "text that goes on is one output, as in Jupyter"


def test_every_display_is_kept_and_every_update_arrives(kept) -> None:
    assert [output.data["text/markdown"] for output in _outputs(kept, "displays")] == [f"x{i}" for i in range(MANY)]
    (updated,) = _outputs(kept, "updates")
    assert updated.data["text/plain"] == repr(f"x{MANY - 1}")


def test_progress_bars_and_widgets_end_where_the_kernel_left_them(kept) -> None:
    bar = "".join(output.text for output in _outputs(kept, "bar"))
    assert bar.count("\r") >= MANY
    assert f"{MANY}/{MANY}" in bar.rpartition("\r")[2]
    states = kept.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    (value,) = [model.state.value for model in states if model.model_name == "IntProgressModel"]
    assert value == MANY
    (text,) = [model.state.outputs[0]["text"] for model in states if model.model_name == "OutputModel"]
    assert text.split() == [f"x{i}" for i in range(MANY // 4)]


# What never comes although the cell has ended: the reply, or the message that all outputs are there.
@pytest.mark.parametrize("missing", ["reply", "idle"])
@pytest.mark.parametrize("timeout", [None, 7])
def test_a_cell_whose_last_messages_are_lost_ends_and_is_said(write_notebook, tmp_path, monkeypatch, missing, timeout):
    monkeypatch.setattr(client, "QUIET_S", 2)

    async def never(*_: object) -> None:
        await asyncio.sleep(600)

    if missing == "reply":
        monkeypatch.setattr(client.LabClient, "_reply_to", never)
    else:
        monkeypatch.setattr(client.LabClient, "_async_poll_output_msg", never)
    status = run_notebook(write_notebook("1", "2"), tmp_path / "out", timeout=timeout)
    assert (status.status, status.cell, status.error.name) == ("failed", 0, "LostMessagesError")
    assert "2 s of silence" in status.error.message
    assert "None" not in status.error.message


def test_a_cell_may_take_longer_than_the_silence_and_be_behind_for_longer(write_notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "QUIET_S", 1)
    monkeypatch.setattr(client, "LOOK_EVERY_S", 0.2)
    slowly = client.LabClient.process_message

    def slow(self, msg, cell, index):
        time.sleep(0.02)
        return slowly(self, msg, cell, index)

    monkeypatch.setattr(client.LabClient, "process_message", slow)
    code = "import time\ntime.sleep(3)\nfor i in range(200):\n    print(f'x{i}', flush=True)"
    status = run_notebook(write_notebook(code), tmp_path / "out")
    assert status.status == "ok", status.error
    executed = nbformat.read(tmp_path / "out" / "notebook.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text.split() == [f"x{i}" for i in range(200)]


def _outputs(nb: nbformat.NotebookNode, kind: str) -> list[nbformat.NotebookNode]:
    """The outputs of the cell of this kind."""
    return nb.cells[1 + list(KINDS).index(kind)].outputs
