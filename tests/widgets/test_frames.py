"""Controls that only ever look up: the live picker and the page that needs no kernel."""

import base64
import json
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pwl_lab import plots, widgets
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.widgets import Choice, Frame, FramePage, FramePicker, FrameTable


def table(first=0, n=3, **keys):
    frames = {(value,): Frame(f"picture {value}".encode(), f"state {value}") for value in range(first, first + n)}
    return FrameTable((Choice("Teacher blocks loaded", "how many", range(first, first + n), **keys),), frames)


def test_moving_the_slider_changes_picture_and_words():
    picker = FramePicker(table(2))
    (slider,) = picker.controls
    assert (slider.min, slider.max, slider.value) == (2, 4, 2)
    for value in (2, 4, 3):
        slider.value = value
        assert picker.picture.value == f"picture {value}".encode()
        assert f"state {value}" in picker.words.value
    assert "role='status'" in picker.words.value
    assert slider.description == "Teacher blocks loaded"
    assert slider.style.description_width == "initial"  # the label is not cut off
    assert slider.tooltip == "how many"


def test_words_are_text_and_not_markup():
    hostile = FrameTable((Choice("x", "y", (1,)),), {(1,): Frame(b"", "</script><b>bold</b>")})
    assert "<b>" not in FramePicker(hostile).words.value
    page = FramePage(hostile)._repr_html_()
    assert "<b>" not in page
    assert page.count("</script>") == 2  # the data's and the script's own


def test_a_table_does_not_follow_changes_of_the_mapping_it_was_given():
    given = dict(table().frames)
    made = FrameTable(table().choices, given)
    given.clear()
    assert len(made.frames) == 3


@pytest.mark.parametrize("values", [[], [0, 2], [0, 1, 2, 3]])
def test_a_frame_too_few_or_too_many_is_refused(values):
    with pytest.raises(InvalidValueError, match="one frame for each choice"):
        FrameTable((Choice("x", "y", range(3)),), {(value,): Frame(b"", "") for value in values})


def test_a_short_slider_follows_the_hand_a_long_one_waits():
    assert FramePicker(table(n=5)).controls[0].continuous_update
    assert not FramePicker(table(n=24)).controls[0].continuous_update


def data_of(page):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page._repr_html_(), re.S).group(1))


def test_a_page_has_every_state_and_each_picture_once():
    choices = (Choice("order", "o", ("up", "down"), start="down", menu=True), Choice("k", "n", range(3)))
    frames = {
        (order, k): Frame(b"same" if k else order.encode(), f"{order} {k}")
        for order in ("up", "down")
        for k in range(3)
    }
    page = FramePage(FrameTable(choices, frames))
    data = data_of(page)
    assert [base64.b64decode(picture) for picture in data["pictures"]] == [b"up", b"same"]
    assert [words for _, words in data["states"]] == ["up 0", "up 1", "up 2", "down 0", "down 1", "down 2"]
    assert [number for number, _ in data["states"]] == [0, 1, 1, None, 1, 1]
    assert [(one["start"], one["menu"]) for one in data["choices"]] == [(1, True), (0, False)]
    html = page._repr_html_()
    assert f'src="data:image/png;base64,{base64.b64encode(b"down").decode()}"' in html, (
        "the first state needs no script"
    )
    assert '<p class="frame-words" role="status">down 0</p>' in html
    assert " id=" not in html, "several controls share a page"
    assert "down 0" in repr(page)


def test_a_picture_with_a_palette_looks_the_same():
    figure = plots.network("TSST")
    small, buffer = widgets.frames.png(figure), BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    assert len(small) < len(buffer.getvalue())
    before, after = (np.asarray(Image.open(one).convert("RGB"), dtype=float) for one in (buffer, BytesIO(small)))
    assert np.abs(before - after).mean() < 1
