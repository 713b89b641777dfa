"""The report on a batch: 500 points whose runs are made up, and small ones with all that can be missing or damaged."""

import json
from collections import Counter
from pathlib import Path

import pytest
import stub_runner
from distributed import Client, LocalCluster

from pwl_lab import plots
from pwl_lab.runner import batch, curves, points, report, worker
from pwl_lab.runner.grid import plan_grid
from pwl_lab.runner.location import location_at
from pwl_lab.runner.parameters import read_notebook
from pwl_lab.runner.points import BatchPlan, Point
from pwl_lab.study import settings
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, UnknownNameError


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[Path, BatchPlan]:
    """500 points, of which the last 20 have not run."""
    folder = tmp_path_factory.mktemp("sweep")
    assert stub_runner.write_grid(folder / "grid.yaml", bits=5, seeds=5) == 500
    plan = plan_grid(folder / "grid.yaml")
    stub_runner.fill(folder / "batch", plan, list(plan.points[:-20]))
    return folder / "batch", plan


def leave(folder: Path, runs: list[tuple[dict, object]]) -> Path:
    """A batch of runs that went well: the values of each point, and what its metrics.json holds (text as it is)."""
    listed = [Point(f"{number:08x}00", values, values) for number, (values, _) in enumerate(runs, 1)]
    stub = {"n_bits": 10, "student_width": 16, "stage_steps": 50, "seeds": [0]}
    plan = BatchPlan(Path("own.ipynb"), "s", None, None, {}, tuple(listed))
    stub_runner.fill(folder, plan, [Point(point.hash, {}, stub) for point in listed])
    for point, (_, metrics) in zip(listed, runs, strict=True):
        text = metrics if isinstance(metrics, str) else json.dumps(metrics)
        location_at(folder).point(point.hash).joinpath("metrics.json").write_text(text)
    return folder


def test_every_point_is_counted_and_every_failure_has_its_error(sweep) -> None:
    folder, plan = sweep
    bad = {point.hash for point in plan.points[:-20] if stub_runner.fails(point.hash)}
    assert len(bad) > 3, "the stub fails now and then"
    found = report.read_batch(folder)
    assert found.counts() == {"points": 500, "ok": 480 - len(bad), "failed": len(bad), "waiting": 20}
    assert list(found.points["hash"]) == [point.hash for point in plan.points]
    assert set(found.failures["hash"]) == {name[:8] for name in bad}
    kinds = found.kinds_of_failure()
    assert dict(zip(kinds["message"], kinds["points"], strict=True)) == dict(Counter(found.failures["message"]))
    assert found.axes == ("n_bits", "student_width", "stage_steps")
    assert found.cost()["seconds"] == found.points["seconds"].sum() > 0
    assert len(found.slowest(3)) == 3
    assert "made up" in report.listing(kinds).to_html()
    assert found.head(4).shape[0] == 4


def test_the_same_points_through_the_engine_with_the_stub_in_the_workers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(worker, "run_notebook", worker.run_notebook)  # so that the plugin's change is undone
    stub_runner.write_grid(tmp_path / "grid.yaml", bits=1, seeds=5)
    quiet = {"dashboard_address": None, "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=False, protocol="tcp://", **quiet) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(stub_runner.StubRunner())
        prepared = batch.prepare(tmp_path / "grid.yaml", tmp_path / "batch")
        outcome = batch.run_batch(prepared, scheduler=cluster.scheduler_address)
    found = report.read_batch(tmp_path / "batch")
    bad = sum(stub_runner.fails(point.hash) for point in prepared.plan.points)
    assert len(outcome.ended) == 100
    assert found.counts() == {"points": 100, "ok": 100 - bad} | ({"failed": bad} if bad else {})
    assert len(batch.prepare(tmp_path / "grid.yaml", tmp_path / "batch").todo) == bad
    assert found.wall_seconds > 0


def test_what_is_drawn_is_chosen_by_the_rule(sweep) -> None:
    found = report.read_batch(sweep[0])
    view = curves.choose(found)
    assert view == curves.View("steps_to_threshold.*", "n_bits", "part", ("student_width",), ("stage_steps",))
    assert curves.choose(found, facet=["none"], hue="none").averaged == ("part", "student_width", "stage_steps")
    assert curves.choose(found, metric="teacher.steps", axis="stage_steps").hue == "n_bits"
    assert found.metrics == ["steps_to_threshold.*", "final_accuracy.*", "teacher.*"]
    for words in ({"metric": "steps_to_threshold.extractet"}, {"axis": "n_bit"}, {"facet": ["width"]}):
        with pytest.raises(UnknownNameError):
            curves.choose(found, **words)
    for words in ({"axis": "n_bits", "hue": "n_bits"}, {"facet": ["n_bits", "student_width"], "hue": "none"}):
        with pytest.raises(InvalidValueError):
            curves.choose(found, **words)


def test_a_curve_is_the_mean_over_seeds_of_means_within_a_seed(sweep) -> None:
    found = report.read_batch(sweep[0], seeds=[0, 1, 2])
    assert set(found.points["seed"]) == {0, 1, 2}
    view = curves.choose(found, metric="steps_to_threshold.extracted", axis="n_bits", hue="none", facet=["none"])
    row = curves.summarize(found, view).set_index("n_bits").loc[12]
    ok = found.points[(found.points["n_bits"] == 12) & (found.points["status"] == "ok")]
    expected = ok.groupby("seed")["steps_to_threshold.extracted"].mean()
    assert row["middle"] == pytest.approx(expected.mean())
    assert row["low"] < row["middle"] < row["high"]
    assert (row["seeds"], row["reached"]) == (3, 3)
    two = curves.summarize(report.read_batch(sweep[0], seeds=[0, 1]), view).set_index("n_bits").loc[12]
    assert (two["low"], two["high"]) == pytest.approx((expected[:2].min(), expected[:2].max())), "no interval of two"
    with pytest.raises(InvalidValueError, match="statistic"):
        curves.summarize(found, view, "mode")


@pytest.mark.parametrize(("statistic", "seeds", "bar"), [
    ("mean", 1, ""), ("median", 1, ""), ("mean", 2, "seeds"), ("median", 2, "seeds"), ("mean", 3, "95%"),
    ("median", 5, "seeds"), ("median", 6, "95%"),
])  # fmt: skip
def test_a_bar_is_an_interval_only_of_enough_seeds(tmp_path: Path, statistic: str, seeds: int, bar: str) -> None:
    runs = [({"n": n, "seed": seed}, {"steps": 10 * n + seed**2}) for n in (1, 2) for seed in range(seeds)]
    found = report.read_batch(leave(tmp_path, runs))
    row = curves.as_records(curves.summarize(found, curves.choose(found), statistic))[0]
    assert row["bar"] == bar
    if bar == "seeds":
        assert (row["low"], row["high"]) == (10, 10 + (seeds - 1) ** 2)
    else:
        assert (row["low"] is None) == (row["high"] is None) == (not bar)


def test_values_at_the_budget_make_no_interval(tmp_path: Path) -> None:
    runs = [({"n": n, "seed": seed}, {"budget_steps": 100, "steps": None if n == seed == 2 else 10 * n + seed})
            for n in (1, 2) for seed in range(4)]  # fmt: skip
    rows = curves.summarize(found := report.read_batch(leave(tmp_path, runs)), curves.choose(found)).set_index("n")
    assert dict(rows["bar"]) == {1: "95%", 2: "seeds"}
    assert (rows.loc[2, "low"], rows.loc[2, "high"]) == (20, 100)


def test_only_steps_count_at_the_budget(tmp_path: Path) -> None:
    """An accuracy that is not known is not 12,000."""
    odd = {"budget_steps": 12_000, "teacher": {"accuracy": None}, "median_steps": {"a": None}}
    runs = [({"n": 1}, odd), ({"n": 2}, odd | {"teacher": {"accuracy": 0.9}})]
    found = report.read_batch(leave(tmp_path, runs))
    assert list(found.values("teacher.accuracy")["value"]) == [0.9]
    assert list(found.values("median_steps.a")["value"]) == [12_000, 12_000]


@pytest.mark.parametrize("lost", [("a", 2, 2), ("b", 1, 0)])
def test_a_place_that_lacks_runs_of_the_others_says_so(tmp_path: Path, lost: tuple) -> None:
    """The survivors' mean is no match for a whole one: of the seeds, or of an axis that is averaged over."""
    every = [(kind, n, seed) for kind in "ab" for n in (1, 2) for seed in range(3)]
    runs = [({"kind": kind, "n": n, "seed": seed}, {"steps": 10 * n + seed} if (kind, n, seed) != lost else {})
            for kind, n, seed in every]  # fmt: skip
    found = report.read_batch(leave(tmp_path, runs))
    whole = {"metric": "steps", "axis": "n", "facet": ["none"]}
    lines = curves.summarize(found, curves.choose(found, **whole, hue="kind")).set_index(["kind", "n"])["missing"]
    assert lines[lost[:2]] == 1
    assert lines.sum() == 1
    means = curves.summarize(found, curves.choose(found, **whole, hue="none")).set_index("n")["missing"]
    assert dict(means) == {n: int(n == lost[1]) for n in (1, 2)}


def test_null_counts_at_the_budget_that_is_nearest_and_is_marked(tmp_path: Path) -> None:
    runs = [
        (
            {"n": n, "seed": seed},
            {"budget_steps": 100, "hard": {"budget_steps": 50, "steps": {"a": a, "b": 7}}, "lone": None},
        )
        for n, seed, a in [(1, 0, 10), (1, 1, 20), (2, 0, None), (2, 1, 30)]
    ]
    found = report.read_batch(leave(tmp_path, runs))
    table = found.values("hard.steps.a").set_index(["n", "seed"])
    assert table["value"].to_dict() == {(1, 0): 10, (1, 1): 20, (2, 0): 50, (2, 1): 30}
    assert table["reached"].to_dict() == {(1, 0): True, (1, 1): True, (2, 0): False, (2, 1): True}
    assert found.points["hard.steps.a"].isna().sum() == 1, "the table says what was measured"
    rows = curves.summarize(found, curves.choose(found)).set_index(["part", "n"])
    assert rows.loc[("a", 2), "reached"] == 1
    assert curves.as_records(rows.reset_index())[0]["part"] in ("a", "b")


def test_lists_are_seeds_or_parts(tmp_path: Path) -> None:
    metrics = {"seeds": [3, 4], "steps": {"a": [1, 2], "b": [5, None]}, "budget_steps": 9, "prefix": [0.1, 0.2, 0.3],
               "rows": [{"k": 1}], "text": "vgg", "version.two": 1.5, "made": {"per_seed": ["steps"]}}  # fmt: skip
    found = report.read_batch(leave(tmp_path, [({"n": 1}, metrics), ({"n": 2}, metrics)]))
    steps = found.values("steps.*")
    assert (
        sorted(zip(steps["part"], steps["seed"], steps["value"], strict=True))[:4]
        == [("a", 3, 1.0)] * 2 + [("a", 4, 2.0)] * 2
    )
    assert list(steps.loc[~steps["reached"], "value"]) == [9, 9]
    view = curves.choose(found, metric="prefix.*")
    assert (view.axis, view.hue) == ("part", "n"), "numbered parts are an axis"
    assert list(found.points["text"]) == ["vgg", "vgg"]
    assert found.metrics == ["steps.*", "prefix.*", "version_two"]
    assert found.undeclared == ()


@pytest.mark.parametrize("said", [None, [], ["steps"]])
def test_a_list_as_long_as_the_seeds_is_one_value_per_seed_only_where_it_is_said(tmp_path: Path, said) -> None:
    """Five seeds, and the accuracy with 0 to 4 teacher blocks loaded: nothing but a word can tell the two apart."""
    metrics = {"seeds": [0, 1, 2, 3, 4], "steps": {"a": [1, 2, 3, 4, 5]}, "prefix": {"all": [0.5, 0.6, 0.7, 0.8, 0.9]}}
    made = {} if said is None else {"made": {"per_seed": said}}
    found = report.read_batch(leave(tmp_path, [({"n": 1}, metrics | made), ({"n": 2}, metrics | made)]))
    view = curves.choose(found, metric="prefix.all.*")
    assert (view.axis, view.hue) == ("part", "n"), "the depth of loading is an axis"
    assert curves.summarize(found, view)["seeds"].eq(1).all(), "and no interval over depths is claimed"
    assert found.per_seed == ({"steps.a"} if said else frozenset())
    if said:
        rows = curves.summarize(found, curves.choose(found, metric="steps.a"))
        assert set(rows["seeds"]) == {5}
        assert set(rows["middle"]) == {3}
    assert found.undeclared == (("steps.a", "prefix.all") if said is None else ()), "what is left open is listed"


def test_values_under_the_names_of_the_seeds(tmp_path: Path) -> None:
    metrics = {"seeds": [3, 4], "each": {"3": {"SS": 0.1, "TT": 0.2}, "4": {"SS": 0.3, "TT": 0.4}}}
    found = report.read_batch(leave(tmp_path, [({"n": 1}, metrics | {"made": {"per_seed": ["each"]}})]))
    assert found.metrics == ["each.*"]
    values = found.values("each.*")
    assert sorted(zip(values["part"], values["seed"], values["value"], strict=True)) == [
        ("SS", 3, 0.1), ("SS", 4, 0.3), ("TT", 3, 0.2), ("TT", 4, 0.4)
    ]  # fmt: skip


def test_a_declared_list_of_another_length_is_no_value_per_seed_and_said(tmp_path: Path) -> None:
    metrics = {"seeds": [0, 1], "steps": [1, 2, 3], "made": {"per_seed": ["steps"]}}
    found = report.read_batch(leave(tmp_path, [({"n": 1}, metrics)]))
    assert list(found.points["note"]) == ["not one value for each seed: steps"]
    assert found.per_seed == frozenset()
    assert found.metrics == ["steps.*"]


@pytest.mark.parametrize("name", [path.name for path in sorted(paths.notebooks().glob("*.ipynb"))])
def test_every_notebook_that_records_its_seeds_says_what_has_one_value_for_each(name: str) -> None:
    cells = ["".join(cell["source"]) for cell in read_notebook(paths.notebooks() / name)["cells"]]
    recording = [cell for cell in cells if "store.record_metrics(\n" in cell or "metrics).name" in cell]
    assert all("per_seed=" in cell for cell in recording if '"seeds"' in cell)


def test_what_is_missing_or_damaged_is_said_and_the_rest_reported(tmp_path: Path) -> None:
    good = {"accuracy": 0.5}
    runs = [
        ({"n": 1, "seed": 0}, good),
        ({"n": 2, "seed": 0}, "{"),
        ({"n": [3, 4]}, "[1]"),
        ({"seed": 1, "n": 1, "lr": 0.1}, good),
    ]
    leave(tmp_path, runs)
    for number, name in ((1, "notebook.ipynb"), (4, "metrics.json")):
        location_at(tmp_path).point(f"{number:08x}00").joinpath(name).unlink()
    location_at(tmp_path).point(f"{2:08x}00").joinpath("params.json").write_text('{"lr": 0.3}')
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"cut o')
    found = report.read_batch(tmp_path)
    assert list(found.points["status"]) == ["damaged", "ok", "ok", "ok"]
    assert list(found.points["note"]) == ["", "its metrics cannot be read", "its metrics cannot be read", "no metrics"]
    assert list(found.points["lr"])[1] == 0.3, "what a point leaves to the preset stands in its params.json"
    assert found.points["n"][2] == "[3,4]"
    with pytest.raises(InvalidValueError, match="nothing to draw"):
        curves.choose(found)
    with pytest.raises(InvalidValueError, match="there is no batch"):
        report.read_batch(tmp_path / "points")


def test_a_batch_at_an_address(sweep) -> None:
    place, source = location_at("memory://report/batch"), sweep[0]
    for name in ("batch.json", "events.jsonl"):
        place.write(name, (source / name).read_text())
    for point in json.loads((source / "batch.json").read_text())["points"][:3]:
        for file in location_at(source).point(point["hash"]).iterdir():
            place.write(f"points/{point['hash']}/{file.name}", file.read_text())
    found = report.read_batch("memory://report/batch")
    assert found.counts()["waiting"] == 497
    assert len(found.values("steps_to_threshold.*")) == 3 * found.counts()["ok"]


@pytest.mark.parametrize(
    "words", [{}, {"facet": ["none"]}, {"axis": "student_width", "hue": "n_bits", "facet": ["none"]}, {"hue": "none"}]
)
def test_the_figure_shows_each_line_and_panel(sweep, words: dict) -> None:
    found = report.read_batch(sweep[0])
    view = curves.choose(found, **words)
    figure = plots.sweep_curves(
        curves.summarize(found, view), curves.tidy(found, view), view.metric, view.axis, view.hue, view.facets
    )
    figure.draw_without_rendering()
    panels = 1
    for name in view.facets:
        panels *= found.values(view.metric)[name].nunique()
    assert len(figure.axes) == panels
    assert figure.axes[0].get_xlabel() == view.axis or figure.axes[-1].get_xlabel() == view.axis
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    texts += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    if view.hue == "part":
        assert {"one-shot", "progressive", "extracted"} <= set(texts)


def test_the_settings_know_a_batch_by_the_file_that_the_batch_writes() -> None:
    assert settings.BATCH == points.BATCH
