"""What the shipped tables of sweeps over sparse parity say (`scripts/complexity_tables.py`, `scripts/teacher_tables.py`).

A student that did not reach 99% within its budget has no number of samples: it counts as infinite, in medians as well
as in their intervals. The unit of resampling is the draw: a support, a teacher and a student, with streams of their own.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pwl_lab.study.exponents import or_never, ratio, ratio_to
from pwl_lab.study.intervals import in_words, mean_interval, median_interval
from pwl_lab.study.store import shipped

CURRICULA = ("scratch", "one_shot", "progressive", "even", "extracted")
ALL_SAID = 8  # bits at which a teacher says what it says at full precision
MEASURES = {"p": "|E[p χ]|", "decision": "|E[decision χ]|", "r": "|correlation|"}  # of the sweep's probe, in words


def samples_by_draw(students: pd.DataFrame, best: pd.DataFrame, by: Sequence[str] = ("k", "n")) -> pd.DataFrame:
    """Samples to 99%, in a column for each curriculum, by `by` and seed; infinite where they did not suffice.

    `progressive` is the one whose checkpoint did better where the settings were tuned, of those that `students` has.

    Arguments:
    - `students`: one row per student: the columns of `by`, seed, curriculum, samples and reached.
    - `best`: one row per task and curriculum: the median of its samples on the draws that settings were tuned on.
    """
    tuned = best.set_index(list(by))
    parts = []
    for key, mine in students.groupby(list(by)):
        medians = tuned.loc[[key]].set_index("curriculum")["samples"]
        there = [name for name in medians.sort_values().index if name in set(mine["curriculum"])]
        names = {"labels": "scratch"} | {next(n for n in there if n.startswith("progressive")): "progressive"}
        kept = mine.assign(curriculum=mine["curriculum"].replace(names))
        parts.append(kept[kept["curriculum"].isin(CURRICULA)])
    found = pd.concat(parts)
    wide = found.assign(samples=or_never(found)).pivot(index=[*by, "seed"], columns="curriculum", values="samples")
    return wide[[name for name in CURRICULA if name in wide]]


def ratios_table(parts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Per task and curriculum, for each part: thousand samples to 99%, and how many times fewer than one-shot's.

    Medians with 95% intervals, and how many draws arrived.

    Arguments:
    - `parts`: for each name, the samples as from `samples_by_draw`.
    """
    rows: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for name, samples in parts.items():
        for (k, n), mine in samples.groupby(["k", "n"]):
            for curriculum in samples:
                if (there := mine[curriculum].dropna()).empty:
                    continue
                row = rows.setdefault((f"({n}, {k})", curriculum), {})
                row[name, "thousand samples"] = in_words(median_interval((there / 1_000).tolist()), 0)
                row[name, "arrived"] = f"{int(np.isfinite(there).sum())} of {len(there)}"
                if "one_shot" in mine and mine[["one_shot", curriculum]].notna().all(axis=1).any():
                    row[name, "times fewer"] = in_words(ratio(mine, "one_shot", curriculum), 1)
    order = [(name, word) for name in parts for word in ("thousand samples", "times fewer", "arrived")]
    table = pd.DataFrame(rows).T.fillna("–").rename_axis(["task", "curriculum"])
    tasks = dict.fromkeys(task for task, _ in table.index)
    return table.reindex([(task, name) for task in tasks for name in CURRICULA if (task, name) in rows], columns=order)


def settings_table(best: pd.DataFrame) -> pd.DataFrame:
    """The best setting of each curriculum per task; a star marks a value that was the last one tried."""
    rows = {}
    for row in best.sort_values(["k", "n"], kind="stable").to_dict("records"):
        edges, name = str(row["edge"]).split(" "), str(row["curriculum"])
        words = {
            "lr": "learning rate",
            "momentum": "momentum",
            "stage_steps": "steps a stage",
            "hidden_weight": "weight",
        }
        used = {"stage_steps": name not in ("labels", "one_shot"), "hidden_weight": name == "extracted"}
        rows[f"({row['n']}, {row['k']})", name.replace("labels", "scratch")] = {
            words[column]: f"{row[column]:g}{' *' if column in edges else ''}" if used.get(column, True) else "–"
            for column in words
        }
    return pd.DataFrame(rows).T.rename_axis(["task", "curriculum"])


def standing_out(peaks: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Per k and setting, the degree below k that stands out most in each draw's transition.

    Columns: `degree` (of the largest mean over draws of the reading in the support minus that outside it), `draws` (in
    how many of them it is the largest), and for each degree the mean of that difference.

    Arguments:
    - `peaks`: one row per k, setting, seed and degree, as shipped in `parity_spike`.
    - `measure`: one of `MEASURES`.
    """
    below = peaks[peaks["degree"] < peaks["k"]]
    excess = below.assign(excess=below[f"{measure} in"] - below[f"{measure} off"])
    by_draw = excess.pivot(index=["k", "setting", "seed"], columns="degree", values="excess")
    means = by_draw.groupby(["k", "setting"], sort=False).mean()
    largest = means.idxmax(axis=1)
    first = by_draw.idxmax(axis=1).groupby(["k", "setting"], sort=False)
    draws = {key: f"{int((mine == largest[key]).sum())} of {len(mine)}" for key, mine in first}
    return means.assign(degree=largest, draws=pd.Series(draws))


def few_bits() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The shipped students that were first shown the final teacher at few bits, and what that teacher gives away.

    Both have one row per draw and number of `bits`, the second one also per degree.
    """
    students = shipped("parity_bits")
    return students.assign(bits=students["curriculum"].str.split().str[0].astype(int)), shipped("parity_bits_leak")


def given_away(leak: pd.DataFrame) -> pd.DataFrame:
    """The degree below k that stands out most at each number of bits, in the decisions: these are what students are shown.

    Columns: `degree`, and `low`, `excess` and `high` of its |E[decision chi]| in the support minus that off it, with a 95%
    interval over draws.

    Arguments:
    - `leak`: one row per draw, bits and degree, as from `few_bits`.
    """
    below = leak[leak["degree"] < leak["k"]]
    excess = below.assign(excess=below["decision in"] - below["decision off"])
    rows = {}
    for bits, mine in excess.groupby("bits"):
        by_degree = mine.pivot(index="seed", columns="degree", values="excess")
        degree = by_degree.mean().idxmax()
        rows[bits] = (degree, *mean_interval(by_degree[degree].tolist()))
    return pd.DataFrame(rows, index=["degree", "low", "excess", "high"]).T.rename_axis("bits").astype({"degree": int})


def few_bits_table(students: pd.DataFrame, leak: pd.DataFrame) -> pd.DataFrame:
    """A row per number of bits: the rounded teacher's accuracy, what it gives away, and samples of students shown it first.

    Arguments:
    - `students`, `leak`: as from `few_bits`.
    """
    points, rows = students.assign(curriculum=students["bits"].astype(str)), {}
    for bits, found in given_away(leak).iterrows():
        mine = points[points["bits"] == bits]
        both = points[points["bits"].isin((bits, ALL_SAID))]
        ends = None if bits == ALL_SAID else ratio_to(both, str(bits), str(ALL_SAID))
        rows[bits] = {
            "teacher's accuracy": f"{leak.loc[leak['bits'] == bits, 'accuracy'].mean():.1%}",
            "degree": f"{found['degree']:.0f}",
            "in minus off": in_words(found[["low", "excess", "high"]], 3),
            "thousand samples": in_words(median_interval((or_never(mine) / 1_000).tolist()), 0),
            f"of {ALL_SAID} bits": "1" if ends is None else in_words(ends),
            "arrived": f"{int(mine['reached'].sum())} of {len(mine)}",
        }
    return pd.DataFrame(rows).T.rename_axis("bits")
