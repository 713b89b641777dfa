"""The layer loader: order and slider choose a mask, switches make any other; all of it is there before it is shown."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scored import scored_pair, some_predictions
from toys import as_pair

from pwl_lab import plots, widgets
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.masks import all_masks
from pwl_lab.widgets import loader as states
from pwl_lab.widgets.frames import Painter, png

PATHS = {"prefix": ["SSS", "TSS", "TTS", "TTT"], "suffix": ["SSS", "SST", "STT", "TTT"]}


@pytest.fixture(scope="module")
def pair():
    return scored_pair()


@pytest.fixture(scope="module")
def samples():
    return some_predictions()


@pytest.fixture
def cheap(monkeypatch):
    """Pictures that say which mask they show, and of which pair; how many were made."""
    made = []

    class Named:
        def __init__(self, pair, *_):
            self.figure, self.pair = self, pair

        def at(self, mask):
            self.mask = mask

        @property
        def moving(self):
            return self.pair, self.mask

    class Painted:
        def __init__(self, *_):
            pass

        def png(self, moving):
            made.append(moving[1])
            return (moving[1] + ("" if moving[0].seed == 0 else f" of {moving[0].seed}")).encode()

    monkeypatch.setattr(plots, "LayerFigure", Named)
    monkeypatch.setattr(states, "Painter", Painted)
    return made


def shown(loader):
    """Mask of the picture, after checking that words, slider and switches agree with it."""
    mask = bytes(loader.picture.value).decode()
    assert f"{mask}: {mask.count('T')} of 3 teacher blocks loaded" in loader.words.value
    assert loader.blocks.value == mask.count("T")
    assert ["T" if one.value else "S" for one in loader.switches] == list(mask)
    owners = {"S": "student", "T": "teacher"}
    descriptions = [f"block {number}: {owners[letter]}" for number, letter in enumerate(mask, start=1)]
    assert [one.description for one in loader.switches] == descriptions
    return mask


def test_slider_and_order_choose_the_mask(pair, samples, cheap):
    loader = widgets.layer_loader(pair, samples, orders=PATHS)
    assert sorted(cheap) == sorted(all_masks(3)), "each picture is made once, before anything is shown"
    assert shown(loader) == "SSS"
    seen = []
    for loaded in (1, 2, 3):
        loader.blocks.value = loaded
        seen.append(shown(loader))
    assert seen == PATHS["prefix"][1:]
    loader.blocks.value = 2
    loader.order.value = "suffix"
    assert shown(loader) == "STT"
    assert len(cheap) == 8


def test_switches_make_any_mask_and_the_slider_comes_back_to_the_order(pair, samples, cheap):
    loader = widgets.layer_loader(pair, samples, orders=PATHS)
    loader.switches[1].value = True
    assert shown(loader) == "STS"
    loader.switches[0].value = True
    assert shown(loader) == "TTS"
    loader.switches[0].value = False
    loader.blocks.value = 2
    assert shown(loader) == "TTS"


def test_words_have_bytes_seconds_and_predictions(pair, samples, cheap):
    loader = widgets.layer_loader(pair, samples, orders=PATHS, megabytes_per_s=(0.001, 1))
    assert "9 B have arrived, after 9 ms at 0.001 MB/s" in told(loader, "0.001 MB/s")
    assert "Predictions: ✓ cat 50%; ✗ cat 75%, is dog; ✗ dog 100%, is cat" in loader.words.value
    loader.blocks.value = 2
    arrived = 9 + 5 + 6 + pair.converter_bytes
    assert f"{arrived / 1000:.1f} kB have arrived, after {arrived / 1000:.2f} ms at 1 MB/s" in told(loader, "1 MB/s")
    assert "✓ dog 75%" in loader.words.value


def told(loader, link):
    loader.link.value = link
    return loader.words.value


def test_every_control_has_a_label_that_fits_and_a_tooltip(pair, samples, cheap):
    loader = widgets.layer_loader(pair, samples)
    assert loader.blocks.description == "Teacher blocks loaded"
    assert list(loader.order.options) == ["prefix", "suffix", "contiguous", "best"]
    for control in (loader.order, loader.blocks, loader.link):
        assert control.description
        assert control.tooltip
        assert control.style.description_width == "initial"
    assert all(one.tooltip for one in (*loader.switches, loader.play))
    assert (loader.play.min, loader.play.max) == (0, 3)


def test_without_a_kernel_the_same_states_but_no_picture_too_many(pair, samples, cheap):
    page = widgets.layer_loader(pair, samples, interactive=False, orders=PATHS)
    assert sorted(cheap) == sorted({*PATHS["prefix"], *PATHS["suffix"]})
    live = widgets.layer_loader(pair, samples, orders=PATHS)
    for (order, loaded, link), frame in page.table.frames.items():
        live.order.value, live.blocks.value, live.link.value = order, loaded, link
        assert frame == live.states.frames[live.mask, link]
        assert frame.picture == live.picture.value


def test_many_blocks_have_no_switches(pair, samples, cheap, monkeypatch):
    monkeypatch.setattr(states, "MOST_SWITCHED_BLOCKS", 2)
    loader = widgets.layer_loader(pair, samples, orders=PATHS)
    assert loader.switches == []
    assert len(cheap) == 6
    loader.blocks.value = 2
    assert loader.picture.value == b"TTS"


def test_an_exception_in_a_picture_comes_out_at_construction(pair, samples, monkeypatch):
    whole = plots.LayerFigure.at

    def broken(self, mask):
        if mask == "TTS":
            raise ZeroDivisionError("in a picture")
        return whole(self, mask)

    monkeypatch.setattr(plots.LayerFigure, "at", broken)
    with pytest.raises(ZeroDivisionError, match="in a picture"):
        widgets.layer_loader(pair, samples)


def test_an_exception_in_a_callback_is_raised_and_shown(pair, samples, cheap):
    loader = widgets.layer_loader(pair, samples, orders=PATHS)
    del loader.states.frames["TSS", loader.link.value]
    with pytest.raises(KeyError, match="TSS"):
        loader.blocks.value = 1
    assert "role='alert'" in loader.words.value
    assert "KeyError" in loader.words.value


@pytest.mark.parametrize("interactive", [True, False])
def test_an_order_of_masks_that_the_pair_lacks_is_refused(pair, samples, cheap, interactive):
    with pytest.raises(InvalidValueError, match="SSTS"):
        widgets.layer_loader(pair, samples, interactive, {"mine": ["SSS", "SSTS", "TTT"]})


LABELS = [("vgg", "none"), ("resnet", "extracted"), ("resnet", "none")]


@pytest.fixture
def several(pair, samples):
    """Three pairs by family and curriculum, and their samples."""
    return {label: replace(pair, seed=seed) for seed, label in enumerate(LABELS)}, dict.fromkeys(LABELS, samples)


def test_menus_choose_among_the_pairs_that_there_are(several, cheap):
    loader = widgets.layer_loader(*several, orders=PATHS)
    assert len(cheap) == 8, "the first pair's pictures, no others yet"
    assert (loader.family.options, loader.curriculum.options) == (("vgg", "resnet"), ("none",))
    loader.blocks.value = 2
    loader.family.value = "resnet"
    assert loader.curriculum.options == ("extracted", "none")
    assert loader.curriculum.value == "none", "what was chosen stays chosen where it can"
    assert loader.picture.value == b"TTS of 2"
    assert "TTS: 2 of 3 teacher blocks loaded of resnet, none, test accuracy" in loader.words.value
    loader.curriculum.value = "extracted"
    loader.order.value = "suffix"
    assert loader.picture.value == b"STT of 1"
    loader.switches[0].value = True
    assert loader.picture.value == b"TTT of 1"
    loader.family.value = "vgg"
    assert (loader.curriculum.options, loader.curriculum.value) == (("none",), "none")
    assert loader.picture.value == b"TTT"
    assert len(cheap) == 24, "the pictures of each pair are made once"
    assert all(menu.description and menu.tooltip for menu in (loader.family, loader.curriculum))


def test_while_the_pictures_of_a_pair_are_made_the_words_say_so(several, cheap, monkeypatch):
    loader, said = widgets.layer_loader(*several, orders=PATHS), []
    monkeypatch.setattr(states.Painter, "png", lambda self, _: said.append(loader.words.value) or b"")
    loader.family.value = "resnet"
    assert len(said) == 8
    assert all("Drawing resnet, none" in words for words in said)
    assert "Drawing" not in loader.words.value


def test_where_there_is_one_of_a_kind_there_is_no_menu_for_it(pair, samples, cheap):
    alone = widgets.layer_loader(pair, samples, orders=PATHS)
    assert (alone.family, alone.curriculum) == (None, None)
    labels = [("vgg", "none"), ("vgg", "extracted")]
    two = widgets.layer_loader(dict.fromkeys(labels, pair), dict.fromkeys(labels, samples), orders=PATHS)
    assert two.family is None
    two.curriculum.value = "extracted"
    assert "of vgg, extracted" in two.words.value


def test_the_page_offers_the_same_pairs_with_the_same_words(several, cheap):
    table = widgets.layer_loader(*several, interactive=False, orders=PATHS).table
    assert [choice.label for choice in table.choices][:2] == ["Family", "Curriculum"]
    assert {key[:2] for key in table.frames} == set(LABELS)
    live = widgets.layer_loader(*several, orders=PATHS)
    for (family, curriculum, order, loaded, link), frame in table.frames.items():
        live.family.value = family
        live.curriculum.value = curriculum
        live.order.value, live.blocks.value, live.link.value = order, loaded, link
        assert frame == live.states.frames[live.mask, link]
        assert frame.picture == live.picture.value


def test_pairs_that_cannot_share_the_controls_are_refused(several, pair, samples):
    pairs, seen = several
    with pytest.raises(InvalidValueError, match="samples"):
        widgets.layer_loader(pairs, {LABELS[0]: samples})
    with pytest.raises(InvalidValueError, match="equally many blocks"):
        widgets.layer_loader(pairs | {LABELS[0]: as_pair({"SS": 0.5, "TS": 0.6, "ST": 0.6, "TT": 0.7}, (1, 2))}, seen)


def test_a_picture_with_what_moves_drawn_over_the_rest_is_the_whole_figure(pair, samples):
    figure = plots.LayerFigure(pair, samples)
    painter = Painter(figure.at("TST"), figure.moving)
    for mask in all_masks(3):
        figure.at(mask)
        pixels = pixels_of(painter.png(figure.moving))
        assert np.abs(pixels - pixels_of(png(plots.LayerFigure(pair, samples).at(mask)))).mean() < 1
        assert painter.png(figure.moving) == painter.png(figure.moving)


def pixels_of(picture):
    return np.asarray(Image.open(BytesIO(picture)).convert("RGB"), dtype=float)


def test_real_pictures_differ(pair, samples):
    loader = widgets.layer_loader(pair, samples)
    pictures = {frame.picture for frame in loader.states.frames.values()}
    assert len(pictures) == 8
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
