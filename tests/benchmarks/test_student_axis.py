"""The script of shallower and narrower students: equal bytes, what is done and what is left, and its tables."""

import base64
import json

import numpy as np
import pandas as pd
import pytest
from script_modules import load_script

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
    bits = base64.b85encode(np.packbits(right).tobytes()).decode()
    return {
        "family": family,
        "arm": arm,
        "seed": seed,
        "lr": lr,
        "images": right.shape[1],
        "hits": bits,
        "seconds": 60.0,
    }


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
        low, mean, high = wanted.loc["vit", axis.BASE, "narrower, learned", measure]
        assert mean == pytest.approx(0.05, abs=0.002)
        assert low < mean < high
    assert wanted.loc["vgg", "narrower, learned", "", "prefix"]["mean"] == pytest.approx(0.84, abs=0.002)
    assert not (rows["arm"] == rows["against"]).any()


def test_only_seeds_with_every_family_and_arm_are_compared():
    lines = some_lines(n_seeds=2)
    assert axis.complete_seeds(lines) == [0, 1]
    assert axis.complete_seeds(lines[:-1]) == [0]


def test_the_rate_of_each_arm_is_the_best_over_the_tuning_seeds():
    points = [
        {"family": "vgg", "arm": axis.BASE, "seed": seed, "lr": lr, "student": 0.8, "prefix": prefix}
        for lr, both in {0.05: (0.85, 0.89), 0.1: (0.9, 0.83)}.items()
        for seed, prefix in zip((100, 101), both, strict=True)
    ]
    assert axis.chosen_rates(points) == {("vgg", axis.BASE): 0.05}
    assert axis.chosen_rates([]) == {}


def test_what_is_done_is_not_done_again_and_whole_seeds_come_first(tmp_path):
    whole = axis.points_of("measure", tmp_path, smoke=False)
    each = len(axis.FAMILIES) * len(axis.ARMS)
    assert len(whole) == each * len(axis.SEEDS)
    assert {one["seed"] for one in whole[:each]} == {0}
    assert set(axis.SEEDS).isdisjoint(axis.TUNING_SEEDS)
    done = [json.dumps(one) for one in whole[:5]]
    (tmp_path / "measured.jsonl").write_text("\n".join([*done, done[0][:40]]))  # the last line was cut off
    assert axis.points_of("measure", tmp_path, smoke=False) == whole[5:]


def test_no_point_is_begun_when_time_is_over():
    begun = []
    assert axis.until(0.0, begun.append, 1) == ""
    assert begun == []
    assert axis.until(float("inf"), begun.append, 1) == ""
    assert begun == [1]
    assert "ZeroDivisionError" in axis.until(float("inf"), lambda item: item / 0, 1)
