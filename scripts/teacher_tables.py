"""What a teacher of sparse parity gives away: the shipped tables of notebooks 01, 02 and 08; see `parity_sweep`.

    python scripts/teacher_tables.py spike --device cuda   # which degrees stand out during the transition, and why
    python scripts/teacher_tables.py costs --device cuda   # what predicts the samples that extraction needs
    python scripts/teacher_tables.py bits --device cuda    # does the final teacher at few bits do what a checkpoint does

Expected before the first run:
- `spike`: that the degree which stands out depends on k (degree 1 for k = 6, as in the papers' figure), not on batch,
  momentum, learning rate, initial scale or width. (For k = 4 it did depend on the noise of the steps. Expected after
  that, before single samples and k = 6 ran: single samples at the papers' rates let degree 1 lead at k = 4, above 0.04;
  at k = 6 degree 2 leads with batches of 128, degree 1 with single samples; width 8,192 and initial weights times 3
  change nothing.)
- `costs`: samples proportional to rho^-2, with rho the root mean square correlation of the projected targets with the
  support's bits: the signal of a bit is rho, and a mean over N samples has noise of 1/sqrt(N).
- `bits`: that rounding adds noise to the margin of a saturated teacher but no low-degree terms of the support: a teacher
  at few bits is then a worse label, and no curriculum.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from complexity_tables import REPORTED, TUNING, best_settings
from torch import Tensor

from pwl_lab.fast.two_layer import Nets, Projections, joined
from pwl_lab.study.parity_sweep import (
    Draws,
    Setting,
    TeacherPlan,
    growing,
    on_device,
    train_students,
    train_teachers,
)
from pwl_lab.support.seeding import generator


class Probe:
    """Monomials of every degree up to k, in the support and off it, on many inputs, for each group."""

    def __init__(self, draws: Draws, samples: int, off_subsets: int = 100) -> None:
        """`off_subsets`: how many subsets outside the support, per degree."""
        self.inputs, _ = draws.tasks.draw(samples, on_device(draws.seeds[0], "probe", draws.device))
        self.columns = [(degree, where) for degree in range(1, draws.rows[0]["k"] + 1) for where in ("in", "off")]
        found = []
        for group, (row, support) in enumerate(zip(draws.rows, draws.tasks.support, strict=True)):
            chosen = support.nonzero().squeeze(1).tolist()
            others = torch.tensor([bit for bit in range(row["n"]) if bit not in chosen])
            random, chis = generator(row["seed"], "probe", "sweep"), []
            for degree, where in self.columns:
                outside = [others[torch.randperm(len(others), generator=random)[:degree]] for _ in range(off_subsets)]
                sets = torch.tensor(list(combinations(chosen, degree))) if where == "in" else torch.stack(outside)
                chis.append(self._monomials(group, sets))
            found.append(torch.cat(chis, dim=1))
            self.sizes = [chi.shape[1] for chi in chis]  # the same for every group: all have the same k
        self.chi = torch.stack(found)  # (groups, samples, subsets)

    def _monomials(self, group: int, sets: Tensor) -> Tensor:
        """The product of each subset's bits, [samples, subsets]."""
        seen = self.inputs[group]
        return seen[:, sets.flatten().to(seen.device)].reshape(len(seen), *sets.shape).prod(dim=2)

    @torch.no_grad()
    def __call__(self, nets: Nets, groups: Tensor) -> list[dict[str, Any]]:
        """Per group and degree the mean over subsets of |E[p chi]|, |E[decision chi]| and |Pearson's r of the margin|."""
        parts = torch.split(self.inputs[groups], 1_024, 1)
        margins = torch.cat([nets.margins(part)[:, :, 0] for part in parts], dim=1)  # (groups, samples)
        centred = margins - margins.mean(dim=1, keepdim=True)
        measures = {
            "p": torch.sigmoid(margins),
            "decision": margins.sign(),
            "r": centred / centred.std(dim=1, keepdim=True).clamp_min(1e-12),
        }
        means = torch.bmm(torch.stack(list(measures.values()), dim=1), self.chi[groups]).abs() / margins.shape[1]
        whole = torch.stack(
            [part.mean(dim=2) for part in torch.split(means, self.sizes, 2)], dim=2
        )  # (groups, 3, columns)
        rows: list[dict[str, Any]] = []
        for group, values in zip(groups.tolist(), whole.tolist(), strict=True):
            for number in range(0, len(self.columns), 2):
                row: dict[str, Any] = {"group": group, "degree": self.columns[number][0]}
                for name, mine in zip(measures, values, strict=True):
                    row |= {f"{name} in": mine[number], f"{name} off": mine[number + 1]}
                rows.append(row)
        return rows


SIZES = {4: 50, 6: 30}  # bits, of `spike`, for each k
SINGLE = {"batch_size": 1, "lr": 0.01, "eval_every": 500}  # the papers' batch and rate
SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "weight decay 0.001": {"weight_decay": 1e-3},
    "momentum 0.9, lr 0.02": {"momentum": 0.9, "lr": 0.02},
    "momentum 0.9, lr 0.2": {"momentum": 0.9, "lr": 0.2},
    "lr 0.05": {"lr": 0.05},
    "lr 0.4": {"lr": 0.4},
    "batch 16, lr 0.05": {"batch_size": 16, "lr": 0.05},
    "batch 1, lr 0.01": SINGLE,
    "batch 1, lr 0.005": SINGLE | {"lr": 0.005},
    "batch 1, lr 0.01, width 8,192": SINGLE | {"width": 8_192},
    "batch 1,024": {"batch_size": 1_024},
    "initial weights times 0.1": {"init_scale": 0.1},
    "initial weights times 3": {"init_scale": 3.0},
    "width 128": {"width": 128},
    "width 8,192": {"width": 8_192},
}


def spike(asked: argparse.Namespace) -> Iterator[dict[str, pd.DataFrame]]:
    """One row per setting, seed and degree: the highest reading before 90% accuracy. What is in the file is kept."""
    path = Path(asked.out) / "spike.csv"
    peaks = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["k", "setting"])
    base = TeacherPlan(
        width=64 if asked.smoke else 1024, lr=0.15, momentum=0.0, eval_every=25, saturation=1.0, checkpoints=(),
        stop_at=0.95,
    )  # fmt: skip
    for k, name in product(asked.k, asked.only):
        if ((peaks["k"] == k) & (peaks["setting"] == name)).any():
            continue
        change = SETTINGS[name]
        budget = 400 if asked.smoke else (12_000 if k == 4 else 40_000) * (40 if change.get("batch_size") == 1 else 1)
        draws = Draws.of(
            [(12 if asked.smoke else SIZES[k], k)], REPORTED[:2] if asked.smoke else REPORTED[:4], asked.device
        )
        begun, plan = time.monotonic(), replace(base, **change, budget=budget)
        found = _highest(draws, plan, asked.probe_samples).assign(setting=name, machine=asked.machine)
        print(f"k = {k}, {name}: {len(found)} rows, {time.monotonic() - begun:.0f} s", flush=True)
        peaks = pd.concat([one for one in (peaks, found) if len(one)], ignore_index=True)
        yield {"spike": peaks}


def _highest(draws: Draws, plan: TeacherPlan, samples: int) -> pd.DataFrame:
    """The highest reading of each measure before 90%, per draw whose teacher learns, and degree."""
    probe, rows = Probe(draws, samples), []

    def watch(step: int, groups: Tensor, nets: Nets, accuracy: Tensor) -> None:
        reached = dict(zip(groups.tolist(), accuracy[:, 0].tolist(), strict=True))
        rows.extend(row | {"step": step, "accuracy": reached[row["group"]]} for row in probe(nets, groups))

    arrived = train_teachers(draws, plan, watch=watch).draws.seeds
    course = pd.DataFrame(rows).assign(k=draws.rows[0]["k"], n=draws.rows[0]["n"])
    course["seed"] = course["group"].map(dict(enumerate(draws.seeds)))
    early, by = course[(course["accuracy"] < 0.9) & course["seed"].isin(arrived)], ["k", "n", "seed", "degree"]
    parts = []
    for measure in ("p", "decision", "r"):
        at = early.loc[early.groupby(by)[f"{measure} in"].idxmax()].set_index(by)
        kept = at[[f"{measure} in", f"{measure} off", "accuracy", "step"]]
        parts.append(kept.rename(columns={name: f"{measure} {name}" for name in ("accuracy", "step")}))
    return pd.concat(parts, axis=1).reset_index()


def costs(asked: argparse.Namespace) -> Iterator[dict[str, pd.DataFrame]]:
    """One row per teacher and setting of its student; the teacher's correlations beside it."""
    sizes = [(10, 2)] if asked.smoke else [(n, 4) for n in (30, 50, 70)]
    stages = (50, 100) if asked.smoke else (12, 25, 50, 100, 200, 400, 800, 1_600)
    settings = [Setting(lr, 0.0, steps) for lr in (0.2, 0.4) for steps in stages]
    width, tables = 64, []
    for decay, saturation in product((0.0, 1e-4, 1e-3), (1.0, 2.0, 4.0)):
        plan = TeacherPlan(
            width=128 if asked.smoke else 1024, weight_decay=decay, saturation=saturation, checkpoints=()
        )
        seeds = REPORTED[:2] if asked.smoke else REPORTED[:4]
        found = train_teachers(Draws.of(sizes, seeds, asked.device), replace(plan, budget=20_000))
        print(
            f"weight decay {decay}, saturation {saturation}: {len(found.draws.rows)}, without {found.missing}",
            flush=True,
        )
        if not found.draws.rows:
            continue
        draws, many = found.draws, found.draws.tasks.draw(8_192, on_device(seeds[0], "probe", asked.device))[0]
        fitted = Projections.fit(found.nets, width, many, draws.streams("projection"))
        readings = pd.DataFrame(
            [row | _support_signal(fitted, found.nets, many, group, draws) for group, row in enumerate(draws.rows)]
        )
        students = train_students(draws, found.nets, "extracted", [settings], width, 32, 5_000, growing())
        tables.append(students.merge(readings, on=["n", "k", "seed"]).assign(weight_decay=decay, saturation=saturation))
        yield {"costs": pd.concat(tables, ignore_index=True)}


def _support_signal(fitted: Projections, nets: Nets, inputs: Tensor, group: int, draws: Draws) -> dict[str, float]:
    """Root mean square correlation of one group's projected targets with the bits of the support, and with the others."""
    here = torch.tensor([group], device=inputs.device)
    seen, mine = inputs[here], nets.at(here)
    parts = [fitted.at(here)(mine.hidden(part))[0, :, 0] for part in torch.split(seen, 1_024, 1)]
    targets = torch.cat(parts)  # (samples, units)
    targets = (targets - targets.mean(dim=0)) / targets.std(dim=0)
    found = (targets.T @ seen[0] / len(targets)).square()  # (units, n)
    support, bits = draws.tasks.support[group] > 0, draws.tasks.bits[group] > 0
    return {
        "rho": found[:, support].mean().sqrt().item(),
        "rho off": found[:, bits & ~support].mean().sqrt().item(),
    }


def rounded(nets: Nets, bits: int) -> Nets:
    """The networks with every tensor of each rounded to `bits` bits: the middles of 2^bits equal bins (arXiv 2110.00916)."""

    def one(values: Tensor) -> Tensor:
        flat = values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
        least, largest = flat.amin(dim=2, keepdim=True), flat.amax(dim=2, keepdim=True)
        span = (largest - least).clamp_min(1e-12)
        number = ((flat - least) / span * 2**bits).floor().clamp(0, 2**bits - 1)
        middle: Tensor = least + (number + 0.5) * span / 2**bits
        return middle.reshape_as(values)

    weight = torch.where(nets.weight == 0, 0.0, one(nets.weight))  # padded bits stay away
    return Nets(weight, one(nets.bias), one(nets.out), nets.shift)


def bits(asked: argparse.Namespace) -> Iterator[dict[str, pd.DataFrame]]:
    """Per number of bits: what the rounded teacher gives away, and its decisions as the first stage of a curriculum."""
    sizes = [(10, 3)] if asked.smoke else [(50, 4)]
    stages = (50, 100) if asked.smoke else (100, 200, 400, 800)
    settings = [Setting(lr, 0.0, steps) for lr in (0.2, 0.4) for steps in stages]
    leaks: list[dict[str, Any]] = []
    tuning: list[pd.DataFrame] = []
    reported: list[pd.DataFrame] = []
    for seeds, rows in ((TUNING, tuning), (REPORTED, reported)):
        seeds = seeds[:2] if asked.smoke else seeds[:8]
        found = train_teachers(Draws.of(sizes, seeds, asked.device), TeacherPlan(width=128 if asked.smoke else 1024))
        probe = Probe(found.draws, 16_384)
        for b in (1, 2, 3, 4, 8):
            first = rounded(found.nets, b)
            if rows is reported:
                right = dict(enumerate(first.accuracy(*found.draws.test)[:, 0].tolist()))
                for row in probe(first, torch.arange(len(found.draws.rows), device=asked.device)):
                    group = row.pop("group")
                    leaks.append(found.draws.rows[group] | {"bits": b, "accuracy": right[group]} | row)
                best = best_settings(pd.concat(tuning), ("k", "n", "bits")).set_index(["k", "n", "bits"])
                chosen = [[Setting.of(row)] for row in (best.loc[(one["k"], one["n"], b)] for one in found.draws.rows)]
            else:
                chosen = [settings]
            both = joined([first, found.nets])
            budget = 200 if asked.smoke else 8_000 if rows is tuning else 16_000
            table = train_students(found.draws, both, "progressive", chosen, 64, 128, budget, growing())
            rows.append(table.assign(bits=b, curriculum=f"{b} bits"))
            print(f"{b} bits: {len(table)} students", flush=True)
            found_so_far = {"bits": reported, "bits_tuning": tuning}
            leak = {"bits_leak": pd.DataFrame(leaks)} if leaks else {}
            yield {name: pd.concat(some) for name, some in found_so_far.items() if some} | leak


def main() -> None:
    """Make one of the tables."""
    verbs: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, pd.DataFrame]]]] = {
        "spike": spike,
        "costs": costs,
        "bits": bits,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(verbs))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="data/results")
    parser.add_argument("--k", type=int, nargs="+", default=(4, 6), choices=list(SIZES), help="of `spike`")
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), help="of `spike`")
    parser.add_argument("--probe-samples", type=int, default=16_384, help="of `spike`")
    parser.add_argument("--machine", default="CPU", help="where it runs, in words, for the tables")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    asked, begun = parser.parse_args(), time.monotonic()
    folder = Path(asked.out)
    folder.mkdir(parents=True, exist_ok=True)
    for found in verbs[asked.table](asked):  # more rows each time
        for name, table in found.items():
            table.to_csv(folder / f"{name}.csv", index=False)
    made = {"table": asked.table, "minutes": round((time.monotonic() - begun) / 60, 1), "device": asked.device}
    print(json.dumps(made))


if __name__ == "__main__":
    main()
