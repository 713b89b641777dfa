import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pwl_lab.runner import grid as grid_module
from pwl_lab.runner.grid import plan_grid, seconds_per_point
from pwl_lab.runner.run_folder import RunStatus, write_status
from pwl_lab.support.errors import InvalidValueError

Write = Callable[[str], Path]


@pytest.fixture
def grid(tmp_path: Path) -> Write:
    """Write a grid file."""

    def write(text: str) -> Path:
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        return path

    return write


def refused(path: Path) -> list[str]:
    """The lines with which a grid is refused."""
    with pytest.raises(InvalidValueError) as error:
        plan_grid(path)
    return [line.removeprefix("  - ") for line in str(error.value).splitlines()[1:]]


def test_the_groups_are_combined_and_the_excluded_left_out(grid: Write) -> None:
    plan = plan_grid(
        grid("""
notebook: 02
preset: smoke
parameters: {student_lr: 1e-1}
axes:
  - product: {n_bits: [12, 14], student_width: [16, 32]}
  - zip: {stage_steps: [100, 120], budget_steps: [600, 700]}
  - points: [{saturation: 1}, {saturation: 2.0, teacher_lr: 0.1}]
exclude: [{n_bits: 14, student_width: 32}, {seed: 1, stage_steps: 120}]
seeds: [0, 1]
timeout: 60
resources: {GPU: 1}
""")
    )
    assert len(plan.points) == 3 * 2 * (2 + 1)
    assert plan.notebook.name == "02_distillation_curricula.ipynb"
    assert (plan.preset, plan.timeout, plan.resources) == ("smoke", 60, {"GPU": 1})
    first, second = plan.points[:2]
    assert first.words == "n_bits=12 student_width=16 stage_steps=100 budget_steps=600 saturation=1 seed=0"
    assert first.params["seeds"] == [0]
    assert first.params["student_lr"] == 0.1
    assert "seed" not in first.params
    assert second.params["seeds"] == [1]
    assert len({point.hash for point in plan.points}) == len(plan.points)


def test_a_notebook_of_ones_own_with_one_seed(grid: Write, write_notebook) -> None:
    notebook = write_notebook("# Own", parameters="seed = 0\nrate = 0.5")
    plan = plan_grid(grid(f"notebook: {notebook}\naxes: [product: {{rate: [1, 2]}}]\nseeds: [3, 4]\n"))
    assert [point.params for point in plan.points] == [{"rate": r, "seed": s} for r in (1, 2) for s in (3, 4)]
    notebook = write_notebook("# Own", parameters="rate = 0.5", name="seedless")
    assert refused(grid(f"notebook: {notebook}\nseeds: [3]")) == [
        "seeds: the notebook has no parameter seeds or seed that they could be given to"
    ]


def test_all_that_is_wrong_is_said_at_once(grid: Write) -> None:
    lines = refused(
        grid("""
notebook: 02
presets: smoke
parameters: {teacher_with: 3, student_width: true}
axes:
  - product: {n_bits: [1, 14, "12"], student_width: [16]}
  - zip: {stage_steps: [100, 120], student_lr: [0.1]}
  - {}
  - points: [{saturation: 0.1}]
exclude: [{n_bit: 16}]
seeds: [0, 0, -1]
timeout: soon
""")
    )
    for words in (
        "timeout = 'soon' is not allowed: input should be a valid integer",
        "unknown key 'presets'. Did you mean 'preset'?",
        "axes[1]: zip: lists of equal length expected, but stage_steps has 2, student_lr has 1",
        "axes[2]: expected exactly one of product, zip and points, found none",
        "student_width is set both in parameters and in axes[0]",
        "exclude[0]: unknown axis 'n_bit'. Did you mean 'n_bits'?",
        "seeds = [0, 0, -1] is not allowed: each seed once",
        "parameters: unknown parameter 'teacher_with'. Did you mean 'teacher_width'?",
        "parameters: student_width = True is not allowed: whole number from 1",
        "axes[0].product.n_bits[0]: n_bits = 1 is not allowed: whole number from 2 to 10000",
        "axes[0].product.n_bits[2]: n_bits = '12' is not allowed: whole number",
        "axes[3].points[0]: saturation = 0.1 is not allowed: number from 1.0 to 100.0",
        "seeds: seeds[0] = -1 is not allowed",
    ):
        assert len([line for line in lines if line.startswith(words)]) == 1, (words, lines)
    assert len(lines) == 13


def test_values_that_do_not_fit_each_other_are_said_once(grid: Write) -> None:
    lines = refused(
        grid("{notebook: 02, preset: smoke, axes: [product: {n_bits: [4, 12], k_sparse: [2, 6]}], seeds: [0, 1]}")
    )
    assert len(lines) == 1
    assert lines[0].startswith("point (n_bits=4 k_sparse=6 seed=0) and 1 more: k_sparse = 6 is not allowed")


def test_the_same_run_twice_is_refused(grid: Write) -> None:
    lines = refused(grid("{notebook: 02, preset: smoke, axes: [points: [{student_lr: 1}, {student_lr: 1.0}]]}"))
    assert lines == ["(student_lr=1.0) is the same run as (student_lr=1)"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notebook: 77", "unknown notebook '77'"),
        ("notebook: 02\npreset: smok", "Did you mean 'smoke'?"),
        ("preset: smoke", "notebook is missing"),
        ("notebook: 02\naxes: [product: {n_bits: 5}]\nexclude: [{n_bits: 5}]", "axes[0].product.n_bits = 5"),
        (
            "notebook: 02\naxes: [product: {n_bits: [5], k_sparse: [2]}]\nexclude: [{n_bits: 5}]",
            "every point is excluded",
        ),
        (
            "notebook: 02\naxes: [product: {n_bits: [5]}]\nexclude: [{n_bits: 6}]",
            "exclude[0] (n_bits=6) meets no point",
        ),
        ("notebook: 02\nparameters: {n_bits: 2026-01-01}", "n_bits = '2026-01-01' is not allowed: whole number"),
        ("notebook: 02\nresources: {GPU: 0}", "resources.GPU = 0 is not allowed"),
    ],
)
def test_a_refusal_names_its_reason(grid: Write, text: str, words: str) -> None:
    lines = refused(grid(text))
    assert len(lines) == 1, lines
    assert words in lines[0]


@pytest.mark.parametrize("text", ["notebook: [", "- 1", "notebook: 02\nnotebook: 03", "1: 2"])
def test_a_file_that_is_no_grid(grid: Write, text: str) -> None:
    with pytest.raises(InvalidValueError, match="grid = "):
        plan_grid(grid(text))


def test_too_many_points_are_refused_before_they_are_listed(grid: Write) -> None:
    axes = ", ".join(f"{name}: {list(range(2, 1000))}" for name in ("n_bits", "hard_n_bits", "student_width"))
    assert "994,011,992 points are more than the 100,000" in refused(
        grid(f"notebook: 02\naxes: [product: {{{axes}}}]")
    ).pop(0)


def test_the_hash_covers_cells_parameters_version_and_data(grid: Write, write_notebook, monkeypatch) -> None:
    def only(text: str) -> str:
        return plan_grid(grid(text)).points[0].hash

    own = f"notebook: {write_notebook('# Own', '1', parameters='rate = 0.5')}"
    before = only(own)
    assert only(own + "\nparameters: {rate: 0.5}") == before, "the same as by default"
    assert only(own + "\nparameters: {rate: 0.6}") != before
    write_notebook("# Own", "1", parameters="rate = 0.5", editor={"name": "other"})
    assert only(own) == before, "an editor's metadata are not the notebook's source"
    write_notebook("# Own", "2", parameters="rate = 0.5")
    assert only(own) != before
    images = "{notebook: 04, preset: smoke}"
    with_data = only(images)
    monkeypatch.setattr("pwl_lab.runner.grid._data", lambda name: "others")
    assert only(images) != with_data
    monkeypatch.undo()
    monkeypatch.setattr("pwl_lab.runner.grid.__version__", "9")
    assert only(images) != with_data


def test_the_estimate_is_from_earlier_points_then_from_the_series(grid: Write, store_folder: Path) -> None:
    plan = plan_grid(grid("{notebook: 02, preset: smoke, seeds: [0, 1, 2]}"))
    assert seconds_per_point(plan, []) is None
    good = RunStatus(
        status="ok", notebook=str(plan.notebook), started="", seconds=40, cells=1, versions={}, commit=None
    )
    _left(store_folder.parent / "smoke" / plan.notebook.stem, good)
    assert seconds_per_point(plan, [])[0] == 40
    earlier = [
        good.model_copy(update={"status": state, "seconds": seconds})
        for state, seconds in zip(("ok", "ok", "failed"), (10, 14, 900), strict=True)
    ]
    assert seconds_per_point(plan, earlier) == (12, "the median of 2 earlier points")


def test_ten_thousand_points_are_planned(grid: Write) -> None:
    begun = time.process_time()
    plan = plan_grid(
        grid(
            f"{{notebook: 02, preset: smoke, axes: [product: {{n_bits: {list(range(10, 60))}, "
            f"student_width: {list(range(8, 28))}}}], seeds: {list(range(10))}}}"
        )
    )
    assert len(plan.points) == 10_000 <= grid_module.MOST_POINTS
    assert time.process_time() - begun < 60, (
        "a guard against a check that costs milliseconds a point; it takes five seconds of a core"
    )


def _left(folder: Path, status: RunStatus) -> None:
    folder.mkdir(parents=True)
    write_status(folder, status)
