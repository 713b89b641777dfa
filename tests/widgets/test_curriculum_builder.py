"""Build a curriculum: what is wrong is said beside the control, Train trains in the background, Stop ends it."""

from dataclasses import replace

import pytest

from pwl_lab import widgets
from pwl_lab.distill.curriculum import Labels, TeacherHidden, TeacherOutput
from pwl_lab.study import recipes
from pwl_lab.study.settings import CurriculaSettings
from pwl_lab.widgets.curriculum_builder import HIDDEN, LABELS, OUTPUT, curves_of

SMALL = {"n_bits": 10, "k_sparse": 2, "teacher_width": 64, "student_width": 16}
LONGEST_S = 60


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The workbench of notebook 02 at a small size, in a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PWL_LAB_RUNS", str(tmp_path_factory.mktemp("runs")))
        settings = CurriculaSettings.load("smoke", **SMALL)
        yield recipes.workbench(settings)


@pytest.fixture
def builder(bench):
    return widgets.curriculum_builder(bench)


def errors(builder):
    return [row.error.value for row in builder.stages]


def train(builder):
    builder.train.click()
    builder.thread.join(LONGEST_S)
    assert not builder.thread.is_alive()


def test_it_begins_with_extracted_and_every_offer_is_a_target(builder, bench):
    assert builder.curriculum() == bench.known["extracted"].for_blocks(1)
    found = {}
    for words in builder.stages[0].target.options:
        builder.stages[0].target.value = words
        found[words] = builder.curriculum().stages[0].target
    assert found.pop(LABELS) == Labels()
    assert found.pop(HIDDEN) == TeacherHidden(block=1)
    assert found.pop(OUTPUT) == TeacherOutput(temperature=0.0)
    assert found == {
        f"checkpoint step {one.step:,}: {one.accuracy:.0%} accurate": TeacherOutput(temperature=0.0, at_step=one.step)
        for one in bench.teacher.checkpoints
    }
    assert len(found) >= 2


@pytest.mark.parametrize(("steps", "words"), [(0, "at least 1 step"), (-3, "at least 1 step"), (10**6, "none is left")])
def test_a_wrong_length_is_said_beside_it_and_nothing_can_be_trained(builder, steps, words):
    builder.stages[0].steps.value = steps
    assert words in errors(builder)[0]
    assert errors(builder)[1] == ""
    assert builder.train.disabled
    builder.train.click()
    assert builder.thread is None
    builder.stages[0].steps.value = 5
    assert errors(builder) == ["", ""]
    assert not builder.train.disabled


def test_the_sum_of_lengths_is_held_against_the_budget(builder, bench):
    builder.more.click()
    for row in builder.stages[:2]:
        row.steps.value = bench.plan.steps // 2
    assert [bool(error) for error in errors(builder)] == [False, True, False]


def test_stages_are_added_up_to_a_limit_and_removed_down_to_one(builder):
    for _ in range(10):
        builder.more.click()
    assert len(builder.stages) == 6
    assert builder.more.disabled
    for _ in range(10):
        builder.stages[0].remove.click()
    (row,) = builder.stages
    assert row.remove.disabled
    assert row.steps.layout.display == "none", "the last one lasts until the end"
    assert builder.curriculum().stages[0].steps is None


def test_training_ends_with_the_curves_of_its_runs_and_the_next_one_keeps_them_behind(builder, bench):
    builder.stages[0].steps.value = 37
    train(builder)
    runs = bench.train({"again": builder.curriculum()})  # from the store
    assert builder.mine == curves_of(runs, "again")
    assert "seed: yours " in builder.words.value
    assert builder.stop.disabled
    assert not builder.train.disabled
    first = builder.mine
    assert "your previous one" not in builder.chart.value
    builder.stages[1].target.value = LABELS
    train(builder)
    assert builder.before == first
    assert "your previous one" in builder.chart.value


def test_curves_grow_while_it_trains(builder, monkeypatch):
    seen = []
    monkeypatch.setattr(builder._redraws, "draw", lambda make: seen.append(sum(map(len, builder.mine.values()))))
    builder.stages[0].steps.value = 41
    train(builder)
    assert seen == sorted(seen)
    assert len(seen) >= 2
    assert seen[0] == 3, "three students, once each"


def test_stop_ends_the_training_and_the_next_one_can_begin(bench):
    long = replace(bench, plan=bench.plan.model_copy(update={"steps": 10**7, "stop_at": None}))
    builder = widgets.curriculum_builder(long)
    builder.stages[0].steps.value = 10**6
    builder.train.click()
    assert builder.train.disabled
    assert not builder.stop.disabled
    builder.stop.click()
    builder.thread.join(LONGEST_S)
    assert not builder.thread.is_alive()
    assert "Stopped" in builder.words.value
    assert not builder.train.disabled


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the kernel's log has it, too
def test_a_failure_is_said(builder, monkeypatch):
    def broken(self, curricula):
        raise ValueError("no such luck")

    monkeypatch.setattr(recipes.Workbench, "train", broken)
    train(builder)
    assert "no such luck" in builder.words.value
    assert not builder.train.disabled


def test_a_page_without_a_kernel_has_trained_curricula_to_choose_from(bench):
    page = widgets.curriculum_builder(bench, interactive=False)
    (choice,) = page.table.choices
    assert len(choice.values) == 6
    assert len({frame.picture for frame in page.table.frames.values()}) >= 3  # what teaches the same looks the same
    assert all("seed: chosen " in frame.words and "JupyterLab" in frame.words for frame in page.table.frames.values())
