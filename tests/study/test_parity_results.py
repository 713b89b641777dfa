"""What is read from the shipped tables of sweeps over sparse parity."""

import numpy as np
import pandas as pd
import pytest

from pwl_lab import plots
from pwl_lab.study import exponents, intervals, parity_results, store

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
    assert exponents.ratio(found, "scratch", "extracted") == (8, 8, 8), "draws are resampled in pairs"
    found["scratch"] = found["scratch"].to_numpy()[::-1]
    low, middle, high = exponents.ratio(found, "scratch", "extracted")
    assert low < middle == 8 < high


@pytest.mark.parametrize("name", ["parity_curricula", "parity_curricula_common", "parity_spike"])
def test_the_shipped_tables_say_how_they_were_made(name):
    table = store.shipped(name)
    assert table.attrs["made"]["commit"]
    assert table.attrs["seeds"] == sorted(table["seed"].unique())
    assert not table.duplicated(
        [one for one in ("curriculum", "setting", "degree", "n", "k", "seed") if one in table]
    ).any()


def test_the_settings_were_chosen_on_other_draws():
    tuned, reported = (set(store.shipped(f"parity_curricula{part}").attrs["seeds"]) for part in ("_tuning", ""))
    assert tuned
    assert tuned & reported == set()


def of_few_bits(samples=(40, 20, 10, 10), pairs=(0.02, 0.06, 0.01, 0.003)):
    """Eight draws at 1, 2, 4 and 8 bits."""
    students, leak = [], []
    for bits, mine, pair in zip((1, 2, 4, 8), samples, pairs, strict=True):
        for seed in range(8):
            factor = 1 + seed / 100
            row = {"k": 4, "n": 50, "seed": seed, "bits": bits}
            students.append(
                row | {"curriculum": f"{bits} bits", "samples": 1_000 * mine * factor, "reached": mine < 40}
            )
            for degree, value in ((1, 0.01), (2, pair), (3, 0.005), (4, 0.4)):
                leak.append(
                    row
                    | {
                        "degree": degree,
                        "accuracy": 0.5 + 0.06 * bits,
                        "decision in": value * factor,
                        "decision off": 0.004,
                    }
                )
    return pd.DataFrame(students), pd.DataFrame(leak)


def test_what_a_teacher_at_few_bits_gives_away():
    students, leak = of_few_bits()
    found = parity_results.given_away(leak)
    assert found["degree"].tolist() == [2, 2, 1, 1], "the whole support does not count"
    low, middle, high = found.loc[2, ["low", "excess", "high"]]
    assert low < middle < high
    assert middle == pytest.approx(0.06 * 1.035 - 0.004)
    table = parity_results.few_bits_table(students, leak)
    assert table.loc[2, "of 8 bits"] == "2.00 (2.00 to 2.00)", "the draws are those of the 8 bits"
    assert table.loc[8, "of 8 bits"] == "1"
    assert table.loc[1, "arrived"] == "0 of 8"
    assert table.loc[1, "thousand samples"] == "none (none to none)"


def test_the_figure_of_few_bits_shows_every_draw():
    students, leak = of_few_bits()
    left, right = plots.few_bits_chart(students, leak, {"progressive": 8_000.0}).axes
    assert [len(dots.get_offsets()) for dots in left.collections] == [32, 4] * 3
    (draws,) = right.collections
    assert draws.get_offsets()[:8, 1].tolist() == [2 * 20 * 1_000 * 1.07] * 8, (
        "those that did not arrive lie at the top"
    )
    assert right.get_xticklabels()[0].get_text() == "1\n56%"
