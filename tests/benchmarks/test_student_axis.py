"""The script of shallower and narrower students: equal bytes, what is done and what is left, and its tables."""

import json
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
import torch
from script_modules import load_script

from pwl_lab.study import store
from pwl_lab.support import paths
from pwl_lab.swap.masks import all_masks

axis = load_script("student_axis")
MASKS = all_masks(axis.BLOCKS)


@pytest.mark.parametrize("family", axis.FAMILIES)
def test_students_and_converters_have_equal_bytes_and_the_extra_ones_do_not(family):
    size = {arm: axis.sizes(family, arm) for arm in axis.ARMS}
    total = {arm: one["student_bytes"] + one["converter_bytes"] for arm, one in size.items()}
    *equal, extra = axis.ARMS
    assert all(abs(total[arm] / total[axis.BASE] - 1) < 0.05 for arm in equal)
    assert total[extra] > 1.05 * total[axis.BASE]
    assert size[extra]["student_bytes"] == size[axis.BASE]["student_bytes"]
    assert (
        size[axis.BASE]["converter_bytes"]
        == 0
        < min(size[arm]["converter_bytes"] for arm in axis.ARMS if arm != axis.BASE)
    )
    assert len({one["teacher_bytes"] for one in size.values()}) == 1
    assert 0.2 < total[axis.BASE] / size[axis.BASE]["teacher_bytes"] < 0.4


def line(family, arm, seed, right, lr=0.1):
    return {"family": family, "arm": arm, "seed": seed, "lr": lr, "seconds": 60.0} | axis.packed(right)


def some_lines(n_seeds=3, gain=0.0, n_images=1_003):
    """Each mask gets the first images right; `gain` more of them for the base."""
    lines = []
    for seed in range(n_seeds):
        for family in axis.FAMILIES:
            for arm in axis.ARMS:
                share = np.array([0.8 + 0.02 * mask.count("T") for mask in MASKS]) + gain * (arm == axis.BASE)
                lines.append(line(family, arm, seed, np.arange(n_images) < (share * n_images)[:, None]))
    return lines


def test_hits_come_back_as_they_were_measured():
    rng = np.random.default_rng(0)
    measured = [rng.random((len(MASKS), 77)) < 0.7 for _ in range(2)]
    found = axis.right_by_arm(line("vgg", axis.BASE, seed, right) for seed, right in enumerate(measured))
    for seed, right in enumerate(measured):
        assert (found["vgg", axis.BASE].xs(seed, level="seed").loc[MASKS].to_numpy() == right).all()


def test_intervals_are_of_differences_on_the_same_seeds_and_images():
    rows = pd.DataFrame(axis.interval_rows(axis.right_by_arm(some_lines(gain=0.05))))
    wanted = rows.set_index(["family", "arm", "against", "measure"])
    for measure in ("SSSS", "STST", "prefix", "mixed"):
        low, mean, high = wanted.loc[("vit", axis.BASE, "narrower, learned", measure), ["low", "mean", "high"]]
        assert mean == pytest.approx(5, abs=0.2)
        assert low < mean < high
    assert wanted.loc["vgg", "narrower, learned", "", "prefix"]["mean"] == pytest.approx(84, abs=0.2)
    assert wanted.loc["vgg", "narrower, learned", "", "worst"]["mean"] == pytest.approx(82, abs=0.2)
    assert not (rows["arm"] == rows["against"]).any()


def test_the_worst_mask_is_that_of_each_seed():
    right = np.ones((len(MASKS), 10), bool)
    lines = []
    for seed, mask in enumerate(("STST", "TSST")):
        mine = right.copy()
        mine[MASKS.index(mask), : 4 + seed] = False
        lines.append(line("vgg", axis.BASE, seed, mine))
    worst = axis.measures(axis.right_by_arm(lines)["vgg", axis.BASE])["worst"]
    assert worst.mean(axis=1).tolist() == pytest.approx([0.6, 0.5])


def test_only_seeds_with_every_arm_are_compared():
    lines = some_lines(n_seeds=2)
    assert axis.complete_seeds(lines) == {family: [0, 1] for family in axis.FAMILIES}
    assert axis.complete_seeds(lines[:-1]) == {
        family: [0] if family == axis.FAMILIES[-1] else [0, 1] for family in axis.FAMILIES
    }
    assert axis.complete_seeds([]) == {}


def test_the_rate_of_each_arm_is_the_best_over_the_tuning_seeds():
    points = [
        {"family": "vgg", "arm": axis.BASE, "seed": seed, "lr": lr, "student": 0.8, "prefix": prefix}
        for lr, both in {0.05: (0.85, 0.89), 0.1: (0.9, 0.83)}.items()
        for seed, prefix in zip((100, 101), both, strict=True)
    ]
    rates = axis.chosen_rates(points)
    assert rates["vgg", axis.BASE] == rates["vgg", "shallower, extra converters"] == 0.05
    assert rates["vgg", "narrower, learned"] == axis.DEFAULT_RATE
    assert set(axis.chosen_rates([]).values()) == {axis.DEFAULT_RATE}


def asked(**changed):
    common = {"families": axis.FAMILIES, "rates": axis.RATES, "seeds": len(axis.SEEDS), "smoke": False}
    return Namespace(**common | changed)


def test_what_is_done_is_not_done_again_and_whole_seeds_come_first(tmp_path):
    whole = axis.points_of("measure", tmp_path, asked())
    each = len(axis.FAMILIES) * len(axis.ARMS)
    assert len(whole) == each * len(axis.SEEDS)
    assert {one["seed"] for one in whole[:each]} == {0}
    assert set(axis.SEEDS).isdisjoint(axis.TUNING_SEEDS)
    done = [json.dumps(one) for one in whole[:5]]
    (tmp_path / "measured.jsonl").write_text("\n".join([*done, done[0][:40]]))  # the last line was cut off
    assert axis.points_of("measure", tmp_path, asked()) == whole[5:]


def test_a_part_is_of_the_whole_and_the_rest_can_follow(tmp_path):
    part = axis.points_of("tune", tmp_path, asked(families=["vgg"], rates=[0.1, 0.2]))
    assert {(one["family"], one["lr"]) for one in part} == {("vgg", 0.1), ("vgg", 0.2)}
    (tmp_path / "tuning.jsonl").write_text("\n".join(json.dumps(one | {"student": 1, "prefix": 1}) for one in part))
    rest = axis.points_of("tune", tmp_path, asked())
    tuned = len(axis.ARMS) - len(axis.LIKE)
    assert len(part) + len(rest) == len(axis.FAMILIES) * tuned * len(axis.RATES) * len(axis.TUNING_SEEDS)
    assert {one["seed"] for one in axis.points_of("measure", tmp_path, asked(seeds=3))} == {0, 1, 2}


def test_a_control_has_the_rate_of_the_arm_that_it_is_like(tmp_path):
    rate = {axis.BASE: 0.2, "shallower, learned": 0.05, "narrower, learned": 0.1}
    common = {"family": "vgg", "seed": 100, "student": 1, "prefix": 1}
    lines = [json.dumps(common | {"arm": arm, "lr": lr}) for arm, lr in rate.items()]
    (tmp_path / "tuning.jsonl").write_text("\n".join(lines))
    points = axis.points_of("measure", tmp_path, asked(families=["vgg"], seeds=1))
    assert {one["arm"]: one["lr"] for one in points} == rate | {"shallower, extra converters": 0.2}


def test_students_of_a_seed_share_what_the_teacher_says_and_learn_the_same(tmp_path):
    common = {"folder": tmp_path, "device": "cpu", "smoke": True, "epochs": 1}
    point = {"family": "vgg", "seed": 0, "lr": 0.1}
    shared = axis.SharedTeacher()
    for arm in ("shallower, identity", "narrower, learned"):
        first = axis.train_student(point | {"arm": arm}, axis.SharedTeacher(), **common)[0].state_dict()
        again = axis.train_student(point | {"arm": arm}, shared, **common)[0].state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)
    assert len(shared.kept) == 8  # 1,024 images
    with pytest.raises(ValueError, match="other images"):
        axis.train_student(point | {"arm": arm, "seed": 1}, shared, **common)


def test_no_point_is_begun_when_time_is_over_and_an_error_ends_one_only():
    begun = []
    attempt = axis.work_off.__globals__["attempt"]
    assert attempt(begun.append, 0.0, 1) == ""
    assert begun == []
    assert attempt(begun.append, float("inf"), 1) == ""
    assert begun == [1]
    assert "ZeroDivisionError" in attempt(lambda item: item / 0, float("inf"), 1)


def test_the_tables_are_of_whole_seeds_at_the_chosen_rates(tmp_path, monkeypatch):
    lines = [one for one in some_lines(n_seeds=3) if one["family"] == "vgg"]
    narrow = {"family": "vgg", "arm": "narrower, learned", "lr": 0.2, "prefix": 1, "mixed": 1, "worst": 1}
    tuning = [narrow | {"seed": seed, "student": 1, "seconds": 1} for seed in axis.TUNING_SEEDS]
    again = [one | {"lr": 0.2} for one in lines if one["arm"] == "narrower, learned" and one["seed"] < 2]
    for name, mine in {"tuning": tuning, "measured": lines + again}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(one) for one in mine))
    monkeypatch.setattr(paths, "results", lambda: tmp_path)
    axis.write_tables(tmp_path)
    table = pd.read_csv(tmp_path / "student_axis.csv")
    assert set(table["seed"]) == {0, 1}
    assert table.groupby("arm")["lr"].unique().str[0].to_dict() == dict.fromkeys(axis.ARMS, 0.1) | {
        "narrower, learned": 0.2
    }
    assert table["accuracy"].between(0.79, 0.9).all()
    assert set(pd.read_csv(tmp_path / "student_axis_intervals.csv")["seeds"]) == {2}
    assert json.loads((tmp_path / "student_axis.json").read_text())["seeds"] == {"vgg": [0, 1]}


def test_all_tables_of_a_command_are_of_the_commit_before_it_wrote_anything(tmp_path, monkeypatch):
    points = load_script("points")
    monkeypatch.setattr(paths, "results", lambda: tmp_path)
    monkeypatch.setattr(store, "commit", lambda: "abc-dirty" if any(tmp_path.iterdir()) else "abc")
    table = pd.DataFrame({"steps": [1]})
    points.made.cache_clear()
    commits = [points.ship_table(name, table)["made"]["commit"] for name in ("one", "two")]
    points.made.cache_clear()
    assert commits == ["abc", "abc"]
