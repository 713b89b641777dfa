"""Points of a table, worked off by several processes: a finished one is a line of a file at once and is not done again.

And how a table is shipped.
"""

import base64
import json
import multiprocessing
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pwl_lab.study.store import provenance
from pwl_lab.support import paths
from pwl_lab.support.files import write_json
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import SwapNet, mask_logits
from pwl_lab.tasks import datasets
from pwl_lab.tasks.base import Batch
from pwl_lab.tasks.images import ImageTask

Point = dict[str, Any]


def read(path: Path) -> list[Point]:
    """The lines of a file; none if it is not there. A last line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def append(path: Path, points: Iterable[Mapping[str, Any]]) -> None:
    """Add lines in one write: those of several processes do not mix."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(point) + "\n" for point in points))


@cache
def made() -> dict[str, Any]:
    """The provenance of all tables of a command, as it is before the first: that one would make the commit a changed one."""
    return provenance()


def ship_table(name: str, table: pd.DataFrame, **facts: Any) -> dict[str, Any]:
    """Write a table to `data/results`, and beside it a JSON file with these facts, the commit, the machine and the time.

    Returns what the JSON file says.
    """
    path, said = paths.results() / f"{name}.csv", facts | {"made": made()}
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    write_json(path.with_suffix(".json"), said)
    return said


def attempt(do: Callable[[Any], object], until: float, item: Any) -> str:
    """Do one piece of work unless the time is over; the message of its error, if there is one."""
    if time.time() > until:
        return ""
    try:
        do(item)
    except Exception as error:  # noqa: BLE001  one that fails must not take the others with it
        return f"{item}: {type(error).__name__}: {error}"
    return ""


def one_thread() -> None:
    """A worker computes with one thread, and with the same arithmetic on a GPU as on a CPU."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False


def work_off(
    do: Callable[[Any], object],
    items: Sequence[Any],
    processes: int,
    until: float,
    begin: Callable[..., None] = one_thread,
    given: Sequence[Any] = (),
) -> None:
    """Do all items, the first ones first, and say which failed.

    Arguments:
    - `do`: does one item and keeps its result.
    - `items`: what is not done yet.
    - `processes`: how many at a time.
    - `until`: no item is begun after this time.
    - `begin`, `given`: prepare a worker.
    """
    begun, errors = time.monotonic(), 0
    if not items:
        return
    with multiprocessing.get_context("spawn").Pool(min(processes, len(items)), begin, tuple(given)) as pool:
        for error in filter(None, pool.imap_unordered(partial(attempt, do, until), items)):
            errors += 1
            print(error, flush=True)
    print(f"{len(items)} pieces of work in {time.monotonic() - begun:.0f} s, {errors} failed", flush=True)


def test_images(task: ImageTask, images: str | None, device: str) -> Batch:
    """All 10,000 test images of Fashion-MNIST from their folder (None: where `pwl-lab data fetch` puts them), as the task's."""
    raw = datasets.load("fashion-mnist", images)["test"]
    return Batch(task.normalise(torch.from_numpy(raw.images)), torch.from_numpy(raw.labels).long()).to(device)


@torch.no_grad()
def hits(net: SwapNet, data: Batch, chunk: int = 1_000) -> np.ndarray:
    """Whether each mask (a row, in the order of `all_masks`) predicts the label of each image (a column)."""
    masks, rows = all_masks(net.n_blocks), []
    for inputs, labels in zip(data.inputs.split(chunk), data.labels.split(chunk), strict=True):
        logits = mask_logits(net, inputs, masks)
        rows.append(torch.stack([logits[mask].argmax(dim=-1) == labels for mask in masks]).cpu())
    return torch.cat(rows, dim=1).numpy()


def packed(right: np.ndarray) -> Point:
    """Hits as the fields `images` and `hits` of a point: their bits, compressed."""
    bits = zlib.compress(np.packbits(right, axis=1).tobytes(), 9)
    return {"images": right.shape[1], "hits": base64.b85encode(bits).decode()}


def unpacked(point: Mapping[str, Any]) -> np.ndarray:
    """The hits of a point: a row per mask, a column per image."""
    bits = np.frombuffer(zlib.decompress(base64.b85decode(point["hits"])), np.uint8)
    return np.unpackbits(bits.reshape(-1, -(-point["images"] // 8)), axis=1, count=point["images"]).astype(bool)
