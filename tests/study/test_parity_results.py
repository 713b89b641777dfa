"""What is read from the shipped tables of sweeps over sparse parity."""

import numpy as np
import pandas as pd
import pytest

from pwl_lab.study import intervals, parity_results, store

MEDIANS = {"labels": 400, "progressive 0.6": 120, "progressive 0.8": 100, "extracted": 50}


def students(missing=()):
    rows = [
        {"n": 50, "k": 4, "seed": seed, "curriculum": name, "samples": samples * (1 + seed / 100)}
        | {"reached": (name, seed) not in missing}
        for name, samples in MEDIANS.items()
        for seed in range(9)
    ]
    return pd.DataFrame(rows)


def best(**medians):
    rows = [{"n": 50, "k": 4, "curriculum": name, "samples": MEDIANS[name]} for name in MEDIANS]
    return pd.DataFrame(rows).replace({"samples": medians})


def test_progressive_has_the_checkpoint_that_did_better_where_it_was_tuned():
    found = parity_results.samples_by_draw(students(), best())
    assert list(found) == ["scratch", "progressive", "extracted"]
    assert found["progressive"].median() == 104
    worse = best().assign(samples=[400, 90, 100, 50])
    assert parity_results.samples_by_draw(students(), worse)["progressive"].median() == pytest.approx(124.8)


def test_a_student_that_did_not_arrive_counts_as_infinite():
    missing = [("extracted", seed) for seed in range(6)]
    found = parity_results.samples_by_draw(students(missing), best())
    assert np.isinf(found["extracted"]).sum() == 6
    assert np.isinf(intervals.median_interval(found["extracted"].tolist())[1])
    table = parity_results.ratios_table({"here": found})
    assert table.loc[("(50, 4)", "extracted"), ("here", "arrived")] == "3 of 9"
    assert table.loc[("(50, 4)", "extracted"), ("here", "thousand samples")].startswith("none")


def test_a_ratio_of_medians_has_an_interval_around_it():
    found = parity_results.samples_by_draw(students(), best())
    low, middle, high = parity_results.ratio(found, "scratch", "extracted")
    assert middle == 8
    assert low < 8 < high


@pytest.mark.parametrize("name", ["parity_curricula", "parity_curricula_common", "parity_spike"])
def test_the_shipped_tables_say_how_they_were_made(name):
    table = store.shipped(name)
    assert table.attrs["made"]["commit"]
    assert table.attrs["seeds"] == sorted(table["seed"].unique())
    assert not table.duplicated(
        [one for one in ("curriculum", "setting", "degree", "n", "k", "seed") if one in table]
    ).any()


def test_the_settings_were_chosen_on_other_draws():
    tuned, reported = (set(store.shipped(f"parity_curricula{part}")["seed"]) for part in ("_tuning", ""))
    assert tuned & reported == set()
