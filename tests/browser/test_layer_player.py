"""The layer loader's player on a page from disk, with no kernel, no server and no network: its clock, bars and choices."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from labpage import cut
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playing import captions, first_ms, stop_the_clock, watch_a_play_for, words
from playwright.sync_api import Locator, Page
from scored import as_sure_as, scored_pair, some_predictions, some_strings

from pwl_lab import widgets
from pwl_lab.runner.page import write_page
from pwl_lab.runner.run_folder import RunStatus

pytestmark = pytest.mark.browser
STUDENT, UNITS, TEACHER = 20_000, [200_000, 500_000, 1_280_000], 1_900_000  # bytes; two seconds at 1 MB/s
FRAME_MS = 17


def sized(links: tuple[float, ...], **chosen: object) -> widgets.LayerPage:
    """A pair of three blocks of such sizes, with two groups of pictures."""
    drawn = replace(
        some_predictions(),
        images=torch.zeros(8, 8, 8, dtype=torch.uint8),
        labels=torch.tensor([0, 1] * 4),
        probabilities={mask: as_sure_as([0] * 8, [0.5] * 8) for mask in some_predictions().probabilities},
    )
    groups = {"picked": some_predictions(), "drawn at random": drawn}
    page = widgets.layer_loader(scored_pair(), groups, interactive=False, megabytes_per_s=links)
    data = copy.deepcopy(dict(page.data))
    data["pairs"][0] |= {"student": STUDENT, "units": UNITS, "teacher": TEACHER}
    return widgets.LayerPage(data, {**page.chosen, "link": links[0], **chosen})


@pytest.fixture
def opened(page: Page, tmp_path: Path) -> Iterator[Callable[..., Locator]]:
    """Open a page with players; whatever it asks a network for fails the test."""
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.set_offline(True)

    def open_page(*made: widgets.LayerPage) -> Locator:
        outputs = [new_output("display_data", {"text/html": one._repr_html_()}) for one in made]
        status = RunStatus.model_construct(status="ok", notebook="own", error=None)
        write_page(
            new_notebook(cells=[new_code_cell("play", outputs=outputs)]), tmp_path / "own.html", status, tmp_path
        )
        page.goto((tmp_path / "own.html").as_uri())
        return page.locator(".pwl-player")

    yield open_page
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_a_play_takes_the_time_that_the_bytes_take(opened: Callable) -> None:
    player = opened(sized((1,)))
    stop_the_clock(player)
    assert player.locator(".speed").inner_text() == "real time"
    seen = watch_a_play_for(player, 2000 + 2 * FRAME_MS)
    ends = [STUDENT, STUDENT + UNITS[0], STUDENT + sum(UNITS[:2]), STUDENT + sum(UNITS)]  # microseconds at 1 MB/s
    for mask, microseconds in zip(("SSS", "TSS", "TTS", "TTT"), ends, strict=True):
        assert 0 <= first_ms(seen, progressive=f"{mask} answers", owners=mask) - microseconds / 1000 <= FRAME_MS, mask
    assert 0 <= seen[-1]["ms"] - 2000 <= FRAME_MS
    assert 0 <= first_ms(seen, alone="answers now") - TEACHER / 1000 <= FRAME_MS
    for state in seen[1:]:
        assert state["clock"] * 1000 == pytest.approx(state["ms"], abs=50 + FRAME_MS), "it shows tenths"
    assert (seen[-1]["came"], seen[-1]["accuracy"]) == ("2.0 MB", "80.0%")


def test_a_block_changes_hands_when_it_is_full_and_the_teacher_alone_waits(opened: Callable) -> None:
    player = opened(sized((1,)))
    stop_the_clock(player)
    seen = watch_a_play_for(player, 2100)
    halfway = 0
    for state in seen:
        if not state["owners"]:
            assert state["progressive"] == "no answer yet"
            continue
        for bar, owner in zip(state["bars"], state["owners"], strict=True):
            assert (owner == "T") == (bar >= 99.999)
        filling = [bar for bar in state["bars"] if 0 < bar < 99.999]
        assert len(filling) <= 1, "one block after the other"
        halfway += any(20 < bar < 80 for bar in filling)
        assert state["alone"] == ("answers now" if state["clock"] * 1e6 >= TEACHER else "still waiting") or (
            abs(state["clock"] * 1e6 - TEACHER) < 60_000  # the clock is rounded
        )
    assert halfway > 5, "bars move between their ends"
    assert next(state["owners"] for state in seen if state["owners"]) == "SSS"


@pytest.mark.parametrize(
    ("link", "speed", "ms"), [(0.01, "15× speed-up", 13_333), (0.5, "real time", 4_000), (10, "10× slow motion", 2_000)]
)
def test_what_is_too_slow_or_too_fast_to_watch_says_by_how_much_it_is_changed(
    page: Page, opened: Callable, link: float, speed: str, ms: float
) -> None:
    player = opened(sized((link,)))
    stop_the_clock(player)
    assert player.locator(".speed").inner_text() == speed
    player.get_by_role("button", name="Play").click()
    page.clock.run_for(round(0.9 * ms))
    assert player.get_by_role("button", name="Pause").count() == 1
    page.clock.run_for(round(0.2 * ms))
    player.get_by_role("button", name="Play", exact=True).wait_for(timeout=2_000)
    assert float(player.locator(".clock").inner_text().split()[0]) == pytest.approx(2 / link, rel=0.01)


def test_every_choice_works_by_keyboard(page: Page, opened: Callable) -> None:
    player = opened(sized((1, 10)))
    seen = [(words(player), captions(player))]
    assert seen[0][0].startswith(
        "SSS: 0 of 3 teacher blocks loaded, test accuracy 50.0%. 20 kB have arrived, after 20 ms"
    )
    assert seen[0][1] == ["✓ cat\n50%", "✗ cat\n75%\nis: dog", "✗ dog\n100%\nis: cat"]
    player.get_by_label("Teacher blocks loaded").focus()
    for mask in ("TSS", "TTS", "TTT"):
        page.keyboard.press("ArrowRight")
        seen.append((words(player), captions(player)))
        assert seen[-1][0].startswith(mask)
    assert seen[1][1][1] == "✓ dog\n75%"
    page.keyboard.press("Home")
    assert (words(player), captions(player)) == seen[0]
    player.get_by_label("Loading order").focus()
    page.keyboard.press("ArrowDown")
    player.get_by_label("Teacher blocks loaded").press("ArrowRight")
    assert words(player).startswith("SST: 1 of 3")
    player.get_by_label("Bandwidth").focus()
    page.keyboard.press("ArrowDown")
    assert "1.3 MB have arrived, after 130 ms at 10 MB/s" in words(player)
    player.get_by_label("Time").press("End")
    assert words(player).startswith("TTT: 3 of 3")
    player.get_by_label("Time").press("Home")
    assert words(player).startswith("The student has not arrived yet")
    assert captions(player) == ["…"] * 3


def test_a_play_goes_on_from_a_pause_and_else_begins_with_no_byte(opened: Callable) -> None:
    player = opened(sized((1,)))
    stop_the_clock(player)
    player.get_by_label("Teacher blocks loaded").press("ArrowRight")
    seen = watch_a_play_for(player, 2100)
    assert seen[0]["progressive"] == "no answer yet"
    player.get_by_label("Time").fill("500")
    seen = watch_a_play_for(player, 1100)
    assert seen[0]["owners"] == "TTS"
    assert 0 <= seen[-1]["ms"] - 1000 <= FRAME_MS


def test_any_block_can_be_switched_and_the_order_is_found_again(page: Page, opened: Callable) -> None:
    player = opened(sized((1,)))
    player.get_by_role("button", name="block 2: student").press("Space")
    assert words(player).startswith("STS: 1 of 3 teacher blocks loaded, test accuracy 60.0%. 520 kB have arrived")
    player.get_by_role("button", name="block 2: teacher").wait_for()
    assert player.locator(".answer").last.inner_text() == "not timed (mask by hand)"
    player.get_by_role("button", name="block 1: student").press("Space")
    assert words(player).startswith("TTS: 2 of 3")
    assert player.locator(".answer").last.inner_text() == "still waiting"
    player.get_by_label("Teacher blocks loaded").press("ArrowRight")
    assert words(player).startswith("TTT: 3 of 3")


def test_groups_of_pictures_have_pages_and_a_tally(page: Page, opened: Callable) -> None:
    player = opened(sized((1,)))
    assert player.locator(".tally").inner_text() == "1 of these 3 pictures right"
    assert player.get_by_role("button", name="later pictures").count() == 0
    player.get_by_role("combobox", name="Pictures").select_option("drawn at random")
    assert player.locator(".tally").inner_text() == "4 of these 8 pictures right"
    assert len(captions(player)) == 6
    player.get_by_role("button", name="later pictures").press("Enter")
    assert captions(player) == ["✓ cat\n50%", "✗ cat\n50%\nis: dog"]
    assert player.get_by_role("button", name="later pictures").is_disabled()


def test_a_menu_offers_the_pairs_and_two_players_share_a_page(page: Page, opened: Callable) -> None:
    labels = [("vgg", "none"), ("resnet", "extracted")]
    several = widgets.layer_loader(
        dict.fromkeys(labels, scored_pair()), dict.fromkeys(labels, some_predictions()), interactive=False
    )
    players = opened(several, sized((1,)))
    first, second = players.nth(0), players.nth(1)
    before = words(second)
    assert " of vgg, none, test accuracy" in words(first)
    first.get_by_label("Pair").focus()
    page.keyboard.press("ArrowDown")
    assert " of resnet, extracted, test accuracy" in words(first)
    assert words(second) == before
    assert second.get_by_label("Pair").is_hidden()


@pytest.mark.parametrize("width", [1366, 700, 390])
def test_all_of_it_fits_the_window(page: Page, opened: Callable, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 768})
    player = opened(sized((0.1, 1)))
    for moment in ("Home", "End"):
        player.get_by_label("Time").press(moment)
        assert cut(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = "root => [...root.querySelectorAll('*')].map(one => parseFloat(getComputedStyle(one).fontSize))"
        assert min(player.evaluate(sizes)) >= 11
        inside = "root => [...root.querySelectorAll('svg text')].every(one => one.getBBox().x >= 0)"
        assert player.evaluate(inside)
    if width == 1366:
        assert player.bounding_box()["height"] < 560, "controls and figure, with room for a heading and a few lines"


def test_every_control_has_a_name_and_words_are_said_once(opened: Callable) -> None:
    player = opened(sized((1, 10)))
    for role in ("slider", "combobox", "button"):
        for one in player.get_by_role(role).all():
            name = one.evaluate("one => one.ariaLabel || one.textContent || one.labels?.[0]?.textContent")
            assert name.strip()
            assert one.get_attribute("title")
    for slider in player.get_by_role("slider").all():
        assert slider.get_attribute("aria-valuetext")
    assert player.locator("[role=status]").count() == 1
    assert player.locator("[aria-live], [role=alert]").count() == 0
    assert "Predictions: ✓ cat 50%; ✗ cat 75% is: dog" in player.locator("[role=status]").text_content()


def test_strings_are_read_with_the_predictions_below_their_tokens(opened: Callable[..., Locator]) -> None:
    groups = {"pictures": some_predictions(), "strings": some_strings()}
    player = opened(widgets.layer_loader(scored_pair(), groups, interactive=False))
    assert player.locator(".foot label span").inner_text() == "Pictures"
    player.locator(".foot select").select_option("strings")
    assert player.locator(".foot label span").inner_text() == "Strings"
    assert player.locator(".string").count() == 3
    assert player.locator(".string").first.locator("b").all_inner_texts() == ["a", "□", "␣"]
    predicted = player.locator(".string figure")
    assert [one.splitlines() for one in captions(player)][:2] == [["✓ a"], ["✗ a", "(␣)"]]
    assert [predicted.nth(i).get_attribute("data-right") for i in (0, 1)] == ["true", "false"]
    assert player.locator(".tally").inner_text() == "4 of these 8 predicted tokens right"
    player.get_by_label("Teacher blocks loaded").fill("2")
    assert player.locator(".tally").inner_text() == "8 of these 8 predicted tokens right"
    assert set(captions(player)) <= {"✓ a", "✓ ␣"}
    later = player.get_by_role("button", name="later strings")
    later.click()
    assert player.locator(".string").count() == 1
    assert player.locator(".string figure").first.get_attribute("data-at") == "6"
    assert later.is_disabled()
    player.get_by_role("button", name="earlier strings").click()
    assert player.locator(".string").count() == 3
