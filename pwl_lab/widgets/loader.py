"""The layer loader: a teacher's blocks arrive in real time at a chosen bandwidth.

Everything it can show is collected in advance (`loading_data`); a script, `player.js`, only picks from that and keeps
the time. The same script runs in a live widget and on a page without a kernel.
"""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import pandas as pd
import traitlets
from PIL import Image, ImageOps
from torch import Tensor

from pwl_lab.loading.throttle import Throttle
from pwl_lab.plots.clock import second_words
from pwl_lab.plots.style import OWNER, byte_words, order_look, svg_dashes
from pwl_lab.study import tables
from pwl_lab.study.recipes import Predictions, SamplePredictions, StringPredictions
from pwl_lab.study.results import Pair
from pwl_lab.support.errors import invalid
from pwl_lab.widgets.frames import as_json

Label = tuple[str, str]  # family and curriculum of a pair
Samples = Predictions | Mapping[str, Predictions]  # the groups of pictures or strings of one pair, by name
ALONE: Label = ("", "")
LINKS = (0.02, 0.1, 0.3, 1, 3, 10)  # MB/s
LONGEST_PLAY_S = 15  # the link shown first is the slowest one on which the play runs in real time
FOLDER = Path(__file__).parent


def layer_loader(
    pair: Pair | Mapping[Label, Pair],
    samples: Samples | Mapping[Label, Samples],
    interactive: bool = True,
    orders: Mapping[str, list[str]] | None = None,
    megabytes_per_s: Sequence[float] = LINKS,
) -> "LayerLoader | LayerPage":
    """Play how a pair loads: bars fill with bytes, blocks are swapped; with accuracy, predictions, the teacher alone.

    Raises InvalidValueError if pairs and samples do not have the same labels, if there is nothing to choose from, or if
    the pair lacks a mask of an order.

    Arguments:
    - `pair`: a pair, or several by (family, curriculum), from which a menu chooses.
    - `samples`: the pair's predictions for some images or strings, or several such groups by name; for several pairs
      by label.
    - `interactive`: a live widget, whose choices a program can read and set; otherwise a page without a kernel.
    - `orders`: the masks k = 0..n of each loading order; by default each pair's named orders and its best one.
    - `megabytes_per_s`: the links to choose from.
    """
    pairs: Mapping[Label, Pair] = pair if isinstance(pair, Mapping) else {ALONE: pair}
    seen: Mapping[Any, Any] = (
        samples if isinstance(pair, Mapping) and isinstance(samples, Mapping) else {ALONE: samples}
    )
    if not pairs or set(pairs) != set(seen):
        raise invalid("samples", list(seen), f"predictions of each pair: {list(pairs)}, at least one")
    if not megabytes_per_s:
        raise invalid("megabytes_per_s", megabytes_per_s, "at least one link")
    made = [_data_of(label, one, seen[label], orders) for label, one in pairs.items()]
    names = dict.fromkeys(order for one in made for order in one["orders"])
    drawn = {name: order_look(name)[:2] for name in names} | {"teacher alone": (OWNER["T"], "--")}
    looks = {name: {"colour": colour, "dashes": svg_dashes(dashes, 2)} for name, (colour, dashes) in drawn.items()}
    data = {"pairs": made, "links": list(megabytes_per_s), "looks": looks}
    chosen = {"pair": 0, "order": next(iter(names)), "link": _first_link(data), "group": "", "mask": ""}
    return LayerLoader(data=data, **chosen) if interactive else LayerPage(data, chosen)


def _first_link(data: Mapping[str, Any]) -> float:
    """The slowest link on which the first pair arrives within `LONGEST_PLAY_S`, otherwise the fastest one."""
    first = data["pairs"][0]
    links: list[float] = sorted(data["links"])
    size = first["student"] + sum(first["units"])
    return next((link for link in links if Throttle(link).seconds_for(size) <= LONGEST_PLAY_S), links[-1])


def _data_of(label: Label, pair: Pair, samples: Samples, orders: Mapping[str, list[str]] | None) -> dict[str, Any]:
    """Everything shown about a pair: bytes of each unit, accuracy of each mask, the orders' masks, predictions."""
    orders = orders or tables.orders_with_best(pair.masks)
    accuracy = {str(mask): float(value) for mask, value in pair.masks.set_index("mask")["test"].items()}
    for mask in (mask for order in orders.values() for mask in order):
        if mask not in accuracy:
            raise invalid("orders", mask, f"masks of the pair, such as {next(iter(accuracy))}")
    groups = {"picked": samples} if isinstance(samples, Predictions) else samples
    return {
        "name": ", ".join(filter(None, label)),
        "student": pair.student_bytes,
        "units": pair.block_bytes,
        "teacher": pair.teacher_bytes,
        "accuracy": accuracy,
        "orders": {name: list(masks) for name, masks in orders.items()},
        "groups": {name: _group(one, accuracy) for name, one in groups.items()},
    }


def _group(samples: Predictions, masks: Mapping[str, float]) -> dict[str, Any]:
    """Pictures or strings, and the predictions of each mask."""
    shown: dict[str, Any] = {}
    if isinstance(samples, SamplePredictions):
        shown["images"] = [_picture(image) for image in samples.images]
    elif isinstance(samples, StringPredictions):
        shown["strings"] = [[list(token) for token in string] for string in samples.strings]
    return shown | {
        "labels": samples.labels.tolist(),
        "classes": list(samples.class_names),
        "predicted": {mask: samples.predicted[mask].tolist() for mask in masks},
        "confidence": {mask: [round(sure, 4) for sure in samples.confidence[mask].tolist()] for mask in masks},
    }


def _picture(image: Tensor) -> str:
    """An image for a browser; a grey one dark on white, as in figures."""
    picture = Image.fromarray(image.numpy())
    written = io.BytesIO()
    (ImageOps.invert(picture) if image.ndim == 2 else picture).save(written, "png")
    return "data:image/png;base64," + b64encode(written.getvalue()).decode()


class LayerLoader(anywidget.AnyWidget):
    """The player as a live widget. While it plays, the kernel is only told which mask predicts.

    A program can read and set `pair` (its index), `order`, `link` (MB/s), `group` (of pictures) and `mask`; setting
    `data` shows other predictions.
    """

    _esm = FOLDER / "player.js"
    _css = FOLDER / "player.css"
    data = traitlets.Dict().tag(sync=True)
    pair = traitlets.Int().tag(sync=True)
    order = traitlets.Unicode().tag(sync=True)
    link = traitlets.Float().tag(sync=True)
    group = traitlets.Unicode().tag(sync=True)
    mask = traitlets.Unicode().tag(sync=True)


# `currentScript` finds the player's own element, so that any number of them share a page without ids.
PAGE_SCRIPT = """
(() => {
  const root = document.currentScript.parentElement, place = root.querySelector(".place"), listeners = {};
  const state = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const model = {  // as a widget's, without a kernel behind it
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; (listeners["change:" + name] ?? []).forEach((one) => one()); },
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    save_changes: () => {},
  };
  place.replaceChildren();
  render({ model, el: place });
})();
"""


class LayerPage:
    """The player as HTML that needs no kernel and no network.

    If scripts are not allowed (an untrusted notebook, a viewer that strips them), a table remains, with the first
    pair's first order on the link shown first.
    """

    def __init__(self, data: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
        """`data` is everything that can be shown, `chosen` the state shown first."""
        self.data, self.chosen = data, chosen

    def table(self) -> pd.DataFrame:
        """One row for each network on the way: bytes and seconds until it can predict, and its accuracy."""
        first, link = self.data["pairs"][0], Throttle(self.chosen["link"])
        rows, before = [], None
        arrived = first["student"]
        for mask in first["orders"][self.chosen["order"]]:
            if before is not None:
                arrived += sum(size for size, old, new in zip(first["units"], before, mask, strict=True) if old != new)
            before = mask
            rows.append((mask, byte_words(arrived), second_words(link.seconds_for(arrived)), first["accuracy"][mask]))
        columns = ["network", "bytes", f"seconds at {link}", "test accuracy"]
        return pd.DataFrame(rows, columns=columns).set_index("network")

    def __repr__(self) -> str:
        """The table, for text-only viewers."""
        return str(self.table().to_string(formatters={"test accuracy": "{:.1%}".format}))

    def _repr_html_(self) -> str:
        """The player, its data and its script in one element."""
        source = (FOLDER / "player.js").read_text(encoding="utf-8").partition("\nexport ")[0]
        style, data = (FOLDER / "player.css").read_text(encoding="utf-8"), as_json({"data": self.data, **self.chosen})
        table = self.table().to_html(formatters={"test accuracy": "{:.1%}".format}, border=0)
        return (
            f'<div class="pwl-page"><style>{style}</style><div class="place">{table}</div>'
            f'<script type="application/json">{data}</script><script>(() => {{\n{source}\n{PAGE_SCRIPT}\n}})();</script></div>'
        )
