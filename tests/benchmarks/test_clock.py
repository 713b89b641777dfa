"""Loading by the clock: every baseline ends in the network it names, and what is measured is what happened."""

import importlib
import shutil
import sys
import threading
import time
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
import torch
from bundles import FAMILIES, bundle_of, expected, inputs_for, pair_of
from hypothesis import example, given
from hypothesis import strategies as st

from pwl_lab import benchmarks, plots, widgets
from pwl_lab.benchmarks import accuracy, baselines, harness
from pwl_lab.benchmarks.accuracy import network_accuracies
from pwl_lab.loading.bundle import Inputs, write_bundle
from pwl_lab.loading.model import LoadingError, ProgressiveModel
from pwl_lab.loading.throttle import Throttle
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.support.processes import WorkerLostError
from pwl_lab.support.progress import Progress
from pwl_lab.swap.evaluation import score_masks
from pwl_lab.swap.masks import all_masks
from pwl_lab.tasks.base import Batch

QUICK = Throttle(5.0, latency_s=0.05)  # so that nothing arrives before the first prediction


@pytest.fixture(scope="module")
def net():
    return pair_of("vgg")


@pytest.fixture(scope="module")
def data():
    inputs = inputs_for("vgg", 60)
    return Batch(inputs, torch.arange(60) % 3)


@pytest.fixture(scope="module")
def written(net, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    index = bundle_of(net, folder / baselines.BUNDLE, accuracies=score_masks(net, data).accuracies())
    baselines.write_plain(net, folder, alternatives=True)
    return baselines.Files(folder, index)


@pytest.mark.parametrize(
    ("baseline", "first", "last"),
    [
        ("progressive", "SSS", "TTT"),
        ("progressive_8bit_first", "sss", "TTT"),
        ("student_only", "SSS", "SSS"),
        ("teacher_safetensors", "TTT", "TTT"),
        ("teacher_torch_load", "TTT", "TTT"),
        ("teacher_8bit", "ttt", "ttt"),
        ("bit_planes", "planes 2", "planes 16"),
    ],
)
@pytest.mark.parametrize("throttle", [None, QUICK])
def test_every_baseline_says_which_networks_answered_when(baseline, first, last, throttle, written):
    found = baselines.moments(baseline, written, throttle)
    assert found[-1].network == last
    if throttle is not None or not baseline.startswith("progressive"):  # from a warm disk a block may be quicker
        assert found[0].network == first
    seconds, sizes = [moment.seconds for moment in found], [moment.bytes for moment in found]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert sizes == sorted(sizes)


def test_a_baseline_waits_for_its_bytes_and_its_link_goes_on_while_it_computes(written, monkeypatch) -> None:
    link = Throttle(1.0, latency_s=5.0)
    monkeypatch.setattr(baselines.time, "perf_counter", lambda: 100.0)  # computing takes no time
    [student] = baselines.moments("student_only", written, link)
    assert student.seconds == pytest.approx(link.seconds_for(written.student_bytes()))
    [teacher] = baselines.moments("teacher_torch_load", written, link)
    assert teacher.seconds == pytest.approx(link.seconds_for((written.folder / baselines.TEACHER_TORCH).stat().st_size))
    sizes = [path.stat().st_size for path in written.stages()]
    arrivals = [sum(map(link.seconds_for, sizes[: number + 1])) for number in range(len(sizes))]
    assert [each.seconds for each in baselines.moments("bit_planes", written, link)] == pytest.approx(arrivals)

    ticks = count()
    monkeypatch.setattr(baselines.time, "perf_counter", lambda: float(next(ticks)))  # a second between two looks
    late = [each.seconds for each in baselines.moments("bit_planes", written, link)]
    assert late == pytest.approx([arrival + 1 for arrival in arrivals])  # the link did not wait for the decoding


def test_the_streamer_loads_the_teacher(written):
    pytest.importorskip("runai_model_streamer")
    (found,) = baselines.moments("teacher_streamer", written)
    assert (found.network, found.bytes) == ("TTT", written.teacher_bytes())


def test_every_size_of_the_sources_has_as_many_blocks_in_both_networks():
    for size in baselines.FULL_SIZES.values():
        assert size.teacher.n_blocks == size.student.n_blocks


def test_a_full_size_is_written_and_loads(tmp_path):
    found = baselines.write_full_size("resnet", tmp_path)
    assert found.teacher_bytes() > 4 * found.student_bytes()
    assert baselines.moments("progressive", found)[-1].network == "TTTT"


def test_bytes_of_a_baseline_are_those_of_its_files(written):
    found = {
        name: baselines.moments(name, written)[-1].bytes
        for name in baselines.BASELINES
        if name not in ("progressive_best", "teacher_streamer")
    }
    index = written.index
    assert found["teacher_safetensors"] == written.teacher_bytes()
    assert found["student_only"] == index.shard(0).bytes == written.student_bytes()
    assert found["progressive"] == index.teacher_bytes + index.shard(0).bytes
    assert found["progressive_8bit_first"] == index.teacher_bytes + sum(index.shard(n, 8).bytes for n in range(4))
    assert found["bit_planes"] == sum(path.stat().st_size for path in written.folder.glob("stage-*"))


def test_bytes_on_the_way_are_those_that_a_mask_took(written):
    """Also where more had arrived by the time it predicted: after 50 ms a block has, and the next is on its way."""
    index, total = written.index, 0
    needed = {}
    for mask, shard in zip(("SSS", "TSS", "TTS", "TTT"), map(index.shard, range(4)), strict=True):
        total += shard.bytes
        needed[mask] = total
    for link in (None, Throttle(latency_s=0.02)):
        for moment in baselines.moments("progressive", written, link):
            assert moment.bytes == needed[moment.network]


def test_before_the_clock_starts_no_file_is_read(written, monkeypatch):
    """Else an index would be in the cache by then, and a cold load not quite cold."""
    opened = []
    monkeypatch.setattr(baselines.time, "perf_counter", lambda: opened.append("clock") or 0.0)
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *args, **more: opened.append(path.name) or real(path, *args, **more))
    baselines.moments("progressive", written)
    assert opened[0] == "clock"
    assert "index.json" in opened


def test_a_load_that_fails_is_an_error_not_a_wait(written, tmp_path):
    shutil.copytree(written.folder, tmp_path / "copy")
    (tmp_path / "copy" / baselines.BUNDLE / written.index.shard(3).file).unlink()
    with pytest.raises(LoadingError, match="block 3"):
        baselines.moments("progressive", baselines.Files(tmp_path / "copy", written.index))


def test_networks_out_of_the_files_are_as_accurate_as_the_pair(written, net, data):
    networks = [*all_masks(3), "sss", "ttt", "Tts", "planes 16", "planes 2"]
    found = network_accuracies(written, networks, data)
    assert {mask: found[mask] for mask in all_masks(3)} == score_masks(net, data).accuracies()
    assert abs(found["ttt"] - found["TTT"]) < 0.1
    assert abs(found["planes 16"] - found["TTT"]) < 0.05
    assert all(0 <= value <= 1 for value in found.values())


def answer(value):
    return value, torch.get_num_threads()


def refuse(value):
    raise ValueError(f"no {value}")


def vanish():
    import os

    os._exit(3)


def hang():
    time.sleep(600)


def test_what_a_fresh_process_has_imported_is_there():
    for module in harness.PRELOADED:
        assert importlib.import_module(module) is sys.modules[module]


def test_a_fresh_process_answers_raises_or_is_missed():
    assert harness.in_fresh_process(answer, value=7) == (7, 1)
    with pytest.raises(ValueError, match="no 7"):
        harness.in_fresh_process(refuse, value=7)
    with pytest.raises(WorkerLostError, match="vanish"):
        harness.in_fresh_process(vanish)
    with pytest.raises(WorkerLostError, match=r"hang did not answer within 0\.2 s"):
        harness.in_fresh_process(hang, longest_s=0.2)


def test_files_are_warmed_and_cooled(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5_000_000)
    harness.warm_up([path])
    assert harness.cached_share(path) == 1.0
    if not harness.cool_down([path]):
        pytest.skip("this file system keeps what it was asked to drop")
    assert harness.cached_share(path) < 0.01
    assert path.read_bytes() == b"x" * 5_000_000


def test_first_predictions_have_a_row_for_each_way_and_state(written):
    table = harness.first_predictions({"small": written}, {"small": ["warm", "50 MB/s"]}, repeats=2)
    counts = table.groupby(["state", "way"]).size().unstack()
    assert counts.loc["warm"].dropna().tolist() == [2] * len(harness.FIRST_BASELINES + harness.DISK_BASELINES)
    assert counts.loc["50 MB/s"].dropna().tolist() == [1] * len(harness.FIRST_BASELINES)
    assert set(table.loc[table["teacher_s"].isna(), "way"]) == {"student_only"}
    assert (table["first_prediction_s"] > 0).all()
    later = table[table["way"] == "progressive"]
    assert (later["teacher_s"] >= later["first_prediction_s"]).all()


def test_a_link_on_which_a_teacher_takes_too_long_is_left_out(written):
    size = written.teacher_bytes() / 1e6
    assert harness.states_of(written, (size, size / 100), longest_s=10) == ["cold", "warm", f"{size:g} MB/s"]


def test_timelines_hold_every_way_with_its_accuracy(written, data):
    known = accuracy.network_accuracies(written, accuracy.anytime_networks(3), data)
    table = harness.timelines(written, QUICK, {4: known, 2: dict.fromkeys(known, 0.5)})
    assert set(table.loc[table["seed"] == 2, "accuracy"]) == {0.5}
    table = table[table["seed"] == 4]
    assert table["accuracy"].tolist() == [known[name] for name in table["network"]]
    assert set(table["network"]) <= set(known)
    # On a busy machine two blocks may arrive between two predictions: the network between them then makes none.
    index = written.index
    passed = {
        one
        for first in (False, True)
        for one in accuracy.planned_timeline(index, "prefix", QUICK, int8_first=first)["network"]
    }
    assert set(known) - set(table["network"]) <= passed - {"SSS", "TTT"}
    assert set(table["way"]) == set(harness.ANYTIME_BASELINES)
    assert set(table["seed"]) == {4}
    last = table.groupby("way")["accuracy"].last()
    assert last["progressive"] == last["progressive_8bit_first"] == last["teacher_safetensors"]
    assert table["accuracy"].notna().all()


def test_reading_rates_are_positive(written):
    rates = harness.reading_rates(written, rounds=1)
    assert set(rates) == {"plain", "verified"}
    assert min(rates.values()) > 0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=6), st.floats(0.1, 20))
@example([(0.0, 0.0), (0.0, 0.0), (1.0, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0)], 1.0)  # an unstable sort swaps them
def test_the_area_is_the_mean_of_the_staircase(points, horizon):
    table = pd.DataFrame(points, columns=["seconds", "accuracy"])
    found = accuracy.anytime_area(table, horizon)
    grid = [horizon * (step + 0.5) / 4000 for step in range(4000)]
    ordered = sorted(points, key=lambda point: point[0])
    heights = [next((a for s, a in reversed(ordered) if s <= moment), 0.0) for moment in grid]
    assert found == pytest.approx(sum(heights) / 4000, abs=0.004)


def test_a_planned_timeline_follows_from_bytes(written):
    index, link = written.index, Throttle(1.0, latency_s=0.1)
    plan = accuracy.planned_timeline(index, "2-1-3", link, "validation")
    assert plan["network"].tolist() == ["SSS", "STS", "TTS", "TTT"]
    sizes = [index.shard(block).bytes for block in (0, 2, 1, 3)]
    waits = [0.1 + 0.1 + sizes[0] / 1e6, *(0.1 + size / 1e6 for size in sizes[1:])]
    assert plan["seconds"].tolist() == pytest.approx([sum(waits[: n + 1]) for n in range(4)])
    assert plan["accuracy"].tolist() == [index.accuracies["validation"][mask] for mask in plan["network"]]
    twice = accuracy.planned_timeline(index, "prefix", link, "validation", int8_first=True)
    assert twice["network"].tolist() == ["sss", "tss", "tts", "ttt", "Ttt", "TTt", "TTT"]


def test_latencies_are_taken_of_the_same_masks_idle_and_loading(written):
    table = harness.latencies(written.bundle, Throttle(0.02, latency_s=0.4), loads=1)  # time for each mask
    counts = {state: rows["mask"].value_counts().to_dict() for state, rows in table.groupby("state")}
    assert counts["loading"] == counts["idle"]
    assert set(all_masks(3)) > set(counts["loading"]) >= {"SSS", "TTS"}
    assert (table["ms"] > 0).all()


def test_hammering_finds_every_wrong_answer(written, net):
    inputs = inputs_for("vgg", 4)[:, None]
    with torch.inference_mode():
        right = {mask: torch.stack([expected(net, one)[mask] for one in inputs]) for mask in all_masks(3)}
    clean = harness.hammer(written.bundle, Throttle(0.05), inputs, right, predictions=100)
    assert (clean.wrong, clean.failed, clean.finished) == (0, [], True)
    assert clean.predictions >= 100
    wrong = right | {"SSS": right["SSS"] + 1e-7}  # the mask that is surely asked, however busy the machine
    found = harness.hammer(written.bundle, Throttle(0.05), inputs, wrong, predictions=100)
    assert found.wrong == found.by_mask["SSS"] > 0
    missing = {mask: logits for mask, logits in right.items() if mask != "SSS"}
    assert (
        harness.hammer(written.bundle, Throttle(0.05), inputs, missing, predictions=10).failed[0] == "KeyError: 'SSS'"
    )


def test_metrics_are_nested_by_level():
    values = pd.Series({("a", "x"): 1.0, ("a", "y"): float("nan"), ("b", "x"): 2.0})
    assert benchmarks.nested(values) == {"a": {"x": 1.0}, "b": {"x": 2.0}}


def test_the_figures_show_what_the_tables_say(written, data):
    known = accuracy.network_accuracies(written, accuracy.anytime_networks(3), data)
    table = harness.timelines(written, QUICK, {0: known})
    anytime = plots.anytime_chart(table, 1.0)
    labels = {text.get_text().split(":")[0] for text in anytime.legends[0].get_texts()}
    assert labels == {plots.clock.baseline_look(name)[0] for name in harness.ANYTIME_BASELINES}
    alone = table.loc[table["way"] == "teacher_safetensors", "seconds"].iloc[0]
    words = [text.get_text() for text in anytime.axes[0].texts]
    assert f"teacher in one file: first answer at {plots.clock.second_words(round(alone, 2))}" in words
    assert len(plots.bytes_chart(table).legends[0].get_texts()) == len(harness.ANYTIME_BASELINES)
    times = harness.first_predictions({"small": written}, {"small": ["warm"]}, repeats=1)
    (panel,) = plots.first_prediction_chart(times).axes
    assert panel.get_title(loc="left") == "small"
    waits = pd.DataFrame({"state": ["idle", "loading"] * 50, "mask": "SSS", "ms": range(1, 101)})
    assert "p50 50 ms, p99 98 ms" in plots.latency_chart(waits).legends[0].get_texts()[0].get_text()


def test_the_timeline_widget_picks_a_frame_for_every_choice(written, tmp_path):
    last_first = {mask: 0.9 if mask.endswith("T") else 0.5 for mask in all_masks(3)}
    rising = {mask: 0.5 + 0.1 * mask.count("T") for mask in all_masks(3)}
    index = written.index.model_copy(update={"accuracies": {"validation": last_first, "test": rising}})
    widget = widgets.loading_timeline(index, (0.1, 1), ("prefix", "best"))
    seen, (links, orders) = set(), widget.controls
    assert links.value == "1 MB/s"  # in the middle
    for link in links.options:
        for order in orders.options:
            links.value, orders.value = link, order
            begun = time.process_time()
            widget._show()
            assert time.process_time() - begun < 5  # it only picks
            assert order in widget.words.value
            assert link in widget.words.value
            seen.add(bytes(widget.picture.value))
    assert len(seen) == 4


def test_a_bundle_without_8_bits_cannot_be_opened_at_8_bits(net, tmp_path):
    teacher, student, shape = FAMILIES["vgg"]
    write_bundle(net, (teacher, student), tmp_path / "b", Inputs(shape=shape), int8=False)
    with pytest.raises(InvalidValueError, match="bits"):
        ProgressiveModel.open(tmp_path / "b", int8_first=True)


def test_loads_over_a_link_run_several_at_once_the_longest_first_and_come_back_in_order(monkeypatch):
    monkeypatch.setattr(harness, "APART_S", 0.0)
    monkeypatch.setattr(harness, "n_cores", lambda: 1)
    begun, cases = [], [1, 5, 2, 8, 3, 7, 4, 6]
    all_there = threading.Barrier(harness.LOADS_A_CORE)

    def load(wait):
        begun.append(wait)
        all_there.wait(60)  # as many as may be at once are there at once
        return 10 * wait

    with Progress("loads", len(cases), "load") as bar:
        found = harness._several(load, cases, bar, wait_s=float)
    assert found == [10 * wait for wait in cases]
    assert set(begun[: harness.LOADS_A_CORE]) == {5, 6, 7, 8}


def test_after_an_error_no_further_load_begins(monkeypatch):
    monkeypatch.setattr(harness, "APART_S", 0.0)
    monkeypatch.setattr(harness, "n_cores", lambda: 1)
    begun, failed = [], threading.Event()

    def load(case):
        begun.append(case)
        if case == 0:
            failed.set()
            raise OSError("gone")
        failed.wait(60)
        time.sleep(0.2)  # until the others are called off

    with pytest.raises(OSError, match="gone"), Progress("loads", 40, "load") as bar:
        harness._several(load, range(40), bar)
    assert len(begun) < 20
