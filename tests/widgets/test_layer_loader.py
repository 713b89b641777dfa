"""The layer loader: what it shows is looked up before; the live widget and the page have the same of it."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from bundles import bundle_of, pair_of
from PIL import Image
from safetensors.torch import load_file
from scored import scored_pair, some_predictions

from pwl_lab import widgets
from pwl_lab.models.blocknet import parameter_bytes
from pwl_lab.plots.style import ORDER
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.masks import all_masks
from pwl_lab.widgets.loader import LINKS

PATHS = {"prefix": ["SSS", "TSS", "TTS", "TTT"], "suffix": ["SSS", "SST", "STT", "TTT"]}
LABELS = [("vgg", "none"), ("resnet", "extracted"), ("resnet", "none")]


@pytest.fixture(scope="module")
def pair():
    return scored_pair()


@pytest.fixture(scope="module")
def samples():
    return some_predictions()


def shown(loader):
    """What a pair's player has to show."""
    (one,) = loader.data["pairs"]
    return one


def test_bytes_are_those_of_the_files_that_a_loader_fetches(samples, tmp_path):
    net = pair_of("vgg")
    index = bundle_of(net, tmp_path / "bundle")
    sizes = {"teacher_bytes": parameter_bytes(net.teacher), "student_bytes": parameter_bytes(net.student)}
    made = replace(scored_pair(), net=net, **sizes)
    one = shown(widgets.layer_loader(made, samples, orders=PATHS))
    tensors = [load_file(tmp_path / "bundle" / index.shard(block).file) for block in range(index.n_blocks + 1)]
    sizes = [sum(tensor.nbytes for tensor in unit.values()) for unit in tensors]
    assert [one["student"], *one["units"]] == sizes
    assert sum(one["units"]) == one["teacher"] + made.converter_bytes


def test_every_mask_has_its_accuracy_and_every_picture_its_predictions(pair, samples):
    one = shown(widgets.layer_loader(pair, samples, orders=PATHS))
    assert one["accuracy"] == {mask: pytest.approx(pair.accuracy(mask)) for mask in all_masks(3)}
    assert one["orders"] == PATHS
    (group,) = one["groups"].values()
    assert group["labels"] == [0, 1, 0]
    assert group["classes"] == ["cat", "dog"]
    assert group["predicted"] == {mask: [0, int("T" in mask), 1] for mask in all_masks(3)}
    assert group["confidence"]["TSS"] == [0.5, 0.75, 1.0]


def test_unless_told_the_orders_are_the_named_ones_and_the_best_one(pair, samples):
    loader = widgets.layer_loader(pair, samples)
    assert list(shown(loader)["orders"]) == ["prefix", "suffix", "contiguous", "best"]
    assert loader.order == "prefix"
    assert loader.data["looks"]["best"] == {"colour": ORDER["best"][0], "dashes": "10 3"}


def test_a_grey_picture_is_dark_on_white_and_a_coloured_one_keeps_its_colours(pair, samples):
    grey = torch.zeros(3, 8, 8, dtype=torch.uint8)
    grey[0, 0, 0] = 200
    coloured = torch.arange(3 * 8 * 8 * 3).reshape(3, 8, 8, 3).to(torch.uint8)
    for images, expected in ((grey, 255 - grey), (coloured, coloured)):
        (group,) = shown(widgets.layer_loader(pair, replace(samples, images=images)))["groups"].values()
        assert np.array_equal(pixels_of(group["images"][0]), expected[0].numpy())


def pixels_of(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_groups_of_pictures_are_shown_by_name(pair, samples):
    groups = {"picked": samples, "drawn at random": replace(samples, labels=torch.tensor([1, 1, 1]))}
    one = shown(widgets.layer_loader(pair, groups))
    assert {name: group["labels"] for name, group in one["groups"].items()} == {
        "picked": [0, 1, 0],
        "drawn at random": [1, 1, 1],
    }


def test_the_link_shown_first_is_the_slowest_one_that_plays_in_real_time(pair, samples):
    size = shown(widgets.layer_loader(pair, samples))
    size = size["student"] + sum(size["units"])
    fits, slow = size / 14 / 1e6, size / 16 / 1e6  # MB/s at which all of it takes 14 s, and 16 s
    assert widgets.layer_loader(pair, samples, megabytes_per_s=(slow, fits, 10)).link == fits
    assert widgets.layer_loader(pair, samples, megabytes_per_s=(slow, slow / 2)).link == slow
    assert widgets.layer_loader(pair, samples).link == LINKS[0]


def test_a_program_sets_what_is_chosen_and_the_browser_is_told(pair, samples):
    loader = widgets.layer_loader(pair, samples, orders=PATHS)
    loader.order, loader.link, loader.mask = "suffix", 1, "SST"
    sent = loader.get_state()  # what goes to the browser
    assert (sent["order"], sent["link"], sent["mask"]) == ("suffix", 1, "SST")
    assert {"data", "pair", "group"} <= set(sent)


def data_of(page):
    found = re.search(r'<script type="application/json">(.*?)</script>', page._repr_html_(), re.S)
    return json.loads(found.group(1))


def test_the_page_shows_what_the_live_widget_shows(pair, samples):
    several = {label: replace(pair, seed=seed) for seed, label in enumerate(LABELS)}
    live, page = (
        widgets.layer_loader(several, dict.fromkeys(LABELS, samples), interactive, PATHS)
        for interactive in (True, False)
    )
    state = data_of(page)
    assert state["data"] == json.loads(json.dumps(live.data))
    assert {name: state[name] for name in ("pair", "order", "link", "group", "mask")} == {
        name: getattr(live, name) for name in ("pair", "order", "link", "group", "mask")
    }
    assert [one["name"] for one in live.data["pairs"]] == ["vgg, none", "resnet, extracted", "resnet, none"]


def test_words_of_the_data_are_never_markup(pair, samples):
    hostile = replace(samples, class_names=("</script><b>bold</b>", "dog"))
    page = widgets.layer_loader(pair, hostile, interactive=False)._repr_html_()
    assert "<b>" not in page
    assert page.count("</script>") == 2  # the data's and the script's own
    assert " id=" not in page, "several players share a page"


def test_without_scripts_a_table_remains(pair, samples):
    page = widgets.layer_loader(pair, samples, interactive=False, orders=PATHS, megabytes_per_s=(0.001,))
    one, table = page.data["pairs"][0], page.table()
    assert table.index.tolist() == PATHS["prefix"]
    arrived = one["student"] + one["units"][0]
    assert table.loc["TSS", "bytes"] == f"{arrived} B"
    assert table.loc["TSS", "seconds at 0.001 MB/s"] == f"{arrived} ms"
    assert "60.0%" in repr(page)
    assert "<td>60.0%</td>" in page._repr_html_().partition("<script")[0]


@pytest.mark.parametrize("interactive", [True, False])
def test_an_order_of_masks_that_the_pair_lacks_is_refused(pair, samples, interactive):
    with pytest.raises(InvalidValueError, match="SSTS"):
        widgets.layer_loader(pair, samples, interactive, {"mine": ["SSS", "SSTS", "TTT"]})


def test_pairs_without_predictions_and_no_link_are_refused(pair, samples):
    with pytest.raises(InvalidValueError, match="samples"):
        widgets.layer_loader(dict.fromkeys(LABELS, pair), {LABELS[0]: samples})
    with pytest.raises(InvalidValueError, match="samples"):
        widgets.layer_loader({}, {})
    with pytest.raises(InvalidValueError, match="megabytes_per_s"):
        widgets.layer_loader(pair, samples, megabytes_per_s=())
