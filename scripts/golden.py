"""What a change that should change nothing must leave as it is: the smoke series, recorded and compared.

`record FILE` executes the series at `smoke` into an empty folder and writes what it made: for each notebook the store's
entries with the checksum of their weights, and the metrics without times. `compare OLD NEW` says what differs and ends
with 1 where anything does. Weights and metrics are equal only on one machine with one number of threads: record both
there. The entries' keys hold everywhere, and `tests/notebooks/test_series_smoke.py` compares them with
`tests/golden/smoke.json`, which `record --keys` writes: there each notebook begins with an empty store.
`recipes FILE` writes what each recipe of `study/verbs.py` makes of tiny networks, with its version, for
`tests/study/test_recipe_versions.py`: run it with `tests/golden/recipes.json` once a version was raised.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

TIMED = re.compile(r"(seconds|minutes|_s|_ms|_per_s|_mib|latency|clock|area|made|peak|bytes_per_s)(\.|$)")


def main() -> int:
    """The exit code: 1 where two recordings differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record", help="execute the series and write what it made")
    recording.add_argument("file", type=Path)
    recording.add_argument("--keys", action="store_true", help="keys of the store's entries only: they hold everywhere")
    comparing = verbs.add_parser("compare", help="two recordings of one machine")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    verbs.add_parser("recipes", help="what each recipe makes of tiny networks").add_argument("file", type=Path)
    given = parser.parse_args()
    if given.verb == "recipes":
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PWL_LAB_RUNS"] = folder
            given.file.write_text(json.dumps(recipe_results(), indent=1) + "\n", encoding="utf-8")
        return 0
    if given.verb == "record":
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= {"PWL_LAB_RUNS": folder, "OMP_NUM_THREADS": "1"}
            found = record(Path(folder), weights=not given.keys)
        given.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    differences = list(differing(*(json.loads(path.read_text(encoding="utf-8")) for path in (given.old, given.new))))
    print("\n".join(differences) or "nothing differs")
    return bool(differences)


def recipe_results() -> dict[str, Any]:
    """By recipe: its version, and the last losses of tiny networks trained with it, on one thread."""
    import torch

    from pwl_lab.study.verbs import VERSIONS

    torch.set_num_threads(1)
    found: dict[str, Any] = {kind: {"version": version} for kind, version in VERSIONS.items()}
    for results in (of_parity, of_complexity, of_images, of_more_images, of_language):
        for kind, name, number in results():
            found[kind][name] = rounded(number)
    return found


Numbers = Iterator[tuple[str, str, float]]  # the recipe, a name, and what it made


def of_parity() -> Numbers:
    """A teacher, its students, and a teacher of the fast loop with momentum and weight decay."""
    from pwl_lab.distill.curriculum import extracted, one_shot, progressive
    from pwl_lab.models import MLPConfig, transformer
    from pwl_lab.study.verbs import train_or_load
    from pwl_lab.tasks.parity import SparseParity
    from pwl_lab.training import TrainPlan

    plan = TrainPlan(steps=24, batch_size=16, eval_every=8, lr=0.05, clip_norm=2.0, keep_checkpoints=True)
    fast = TrainPlan(steps=24, batch_size=16, eval_every=8, lr=0.05, momentum=0.9, weight_decay=0.01, loop="fast")
    task = SparseParity(n_bits=8, k_sparse=2, eval_samples=64)
    wide, narrow = (MLPConfig(n_inputs=8, widths=(width, width)) for width in (24, 8))
    teacher = train_or_load(wide, task, plan, device="cpu")
    yield from last_row("teacher", "", teacher)
    curricula = {"soft": one_shot(), "progressive": progressive(at_steps=[8], steps=8), "extracted": extracted(steps=8)}
    yield from students_losses("", teacher, narrow, task, curricula, plan)
    one_layer = MLPConfig(n_inputs=8, widths=(24,))
    with patch("pwl_lab.fast.two_layer_step.multiplies_in_bfloat16", lambda device: False):  # some processors do
        yield from last_row("teacher", "fast ", train_or_load(one_layer, task, fast, device="cpu"))
    tokens = transformer(task, width=8, heads=2, layers=1)
    yield from last_row("teacher", "transformer ", train_or_load(tokens, task, plan, device="cpu"))


def of_complexity() -> Numbers:
    """The tables of notebook 08: samples of students of two widths, and the two-phase scheme."""
    from pwl_lab.study.complexity import over_widths, two_phase_table
    from pwl_lab.study.settings import ComplexitySettings

    settings = ComplexitySettings.load(
        "smoke", seeds=[0, 1], device="cpu", teacher_width=64, width_n_bits=8, widths=[8, 16], budget_steps=4000,
        two_phase_bits=8, two_phase_k=2, two_phase_width=16, two_phase_label_samples=[50, 200], two_phase_hidden_samples=[50],
    )  # fmt: skip
    for row in over_widths(settings).itertuples():
        yield "sweep", f"{row.curriculum} {row.width} {row.seed}", row.samples
    for row in two_phase_table(settings).to_dict("records"):
        yield "two_phase", f"{row['target']} {row['samples']} {row['seed']}", row["support ratio"]


def of_images() -> Numbers:
    """A pair of ResNets as in the paper, and what is measured on it afterwards."""
    from pwl_lab.benchmarks.accuracy import loading_accuracies
    from pwl_lab.models import ResNetConfig
    from pwl_lab.study.testing import similarity, tested_on
    from pwl_lab.study.verbs import train_or_load, train_pair
    from pwl_lab.tasks.images import ImageTask
    from pwl_lab.training import TrainPlan

    plan = TrainPlan(steps=24, batch_size=16, eval_every=8, lr=0.05, clip_norm=2.0, keep_checkpoints=True)
    task = ImageTask("digits")
    big, small = (ResNetConfig(channels=(width,) * 3, depths=(1, 1, 1)) for width in (6, 4))
    pair = train_pair(train_or_load(big, task, plan, device="cpu"), small, task, plan, device="cpu")
    yield from last_row("pair", "", pair)
    masks = tested_on(pair, task, "digits").masks
    yield from (("tested", mask, loss) for mask, loss in zip(masks["mask"], masks["test_loss"], strict=True))
    for row in similarity(pair).itertuples():
        yield "similarity", f"{row.boundary} {row.direction}", row.unexplained
    found = loading_accuracies(pair)  # a single one may differ by a sample where rounding does
    yield "loading", "mean", sum(found.values()) / len(found)


def of_more_images() -> Numbers:
    """Pairs with an extracted curriculum: VGGs with Adam, ViTs with momentum, both with a cosine and weight decay."""
    from pwl_lab.distill.curriculum import extracted
    from pwl_lab.models import vgg, vit
    from pwl_lab.study.verbs import train_or_load, train_pair
    from pwl_lab.tasks.images import ImageTask
    from pwl_lab.training import TrainPlan

    same = {"steps": 16, "batch_size": 16, "eval_every": 8, "schedule": "cosine", "weight_decay": 0.2}
    task = ImageTask("digits")
    vggs = [vgg(task, channels=(width, width), convolutions=(1, 1)) for width in (6, 4)]
    vits = [vit(task, width=width, heads=2, layers=(1, 1), patch=2) for width in (8, 4)]
    for name, models, plan in (
        ("vgg ", vggs, TrainPlan(**same, optimiser="adam", lr=0.005)),
        ("vit ", vits, TrainPlan(**same, momentum=0.9, lr=0.02)),
    ):
        teacher = train_or_load(models[0], task, plan, device="cpu")
        yield from last_row("teacher", name, teacher)
        pair = train_pair(teacher, models[1], task, plan, device="cpu", curriculum=extracted(steps=6))
        yield from last_row("pair", name, pair)


def of_language() -> Numbers:
    """A teacher of masked prediction, with padded strings, its students and a pair."""
    from pwl_lab.distill.curriculum import extracted, one_shot
    from pwl_lab.models import language_transformer
    from pwl_lab.study.verbs import train_or_load, train_pair
    from pwl_lab.tasks.sequences import GrammarTask
    from pwl_lab.training import TrainPlan

    plan = TrainPlan(steps=16, batch_size=8, eval_every=8, optimiser="adam", lr=0.005, schedule="cosine")
    task = GrammarTask("hidden", eval_strings=32)
    wide, narrow = (language_transformer(task, width=width, heads=2, layers=2) for width in (8, 4))
    teacher = train_or_load(wide, task, plan, device="cpu")
    yield from last_row("teacher", "language ", teacher)
    curricula = {"soft": one_shot(), "extracted": extracted(steps=6, at_once=True)}
    yield from students_losses("language ", teacher, narrow, task, curricula, plan)
    yield from last_row("pair", "language ", train_pair(teacher, narrow, task, plan, device="cpu"))


def students_losses(name: str, teacher: Any, student: Any, task: Any, curricula: Any, plan: Any) -> Numbers:
    """The validation loss of a student of each curriculum."""
    from pwl_lab.study.verbs import distill
    from pwl_lab.tasks.base import label_loss

    split, net = task.split("validation"), student.make()
    for (curriculum, _), weights in distill(teacher, student, task, curricula, [0], plan, "cpu").weights.items():
        net.load_state_dict(weights)
        yield "students", name + curriculum, label_loss(net.eval()(split.inputs), split.labels).item()


def last_row(kind: str, name: str, made: Any) -> Numbers:
    """The last value of each loss; accuracies would say less, and times nothing."""
    losses = made.history.select_dtypes("float").drop(columns=["seconds"], errors="ignore").iloc[-1].dropna()
    yield from ((kind, name + loss, value) for loss, value in losses.items() if "accuracy" not in loss)


def rounded(value: float) -> float:
    """Six digits of it."""
    return float(f"{value:.6g}")


def record(runs: Path, weights: bool) -> dict[str, Any]:
    """Per notebook of the series, executed at `smoke`: the entries that it added to the store, and its metrics."""
    from pwl_lab.runner.execute import run_notebook
    from pwl_lab.runner.parameters import series

    found: dict[str, Any] = {}
    known: set[Path] = set()
    for notebook in series():
        print(notebook.stem, file=sys.stderr)
        if not weights:
            os.environ["PWL_LAB_RUNS"] = str(runs / f"only {notebook.stem}")
            known = set()
        store = Path(os.environ["PWL_LAB_RUNS"]) / "store"
        status = run_notebook(notebook, runs / notebook.stem, preset="smoke")
        if status.status != "ok":
            raise SystemExit(f"{notebook.stem}: {status.status}, {status.error}")
        entries = {path.parent for path in store.glob("*/*/record.json")} - known
        known |= entries
        found[notebook.stem] = {"entries": made_by(entries, weights)}
        if weights:
            metrics = json.loads((runs / notebook.stem / "metrics.json").read_text(encoding="utf-8"))
            metrics.get("batch", {}).pop("place", None)  # a folder of this recording
            found[notebook.stem]["metrics"] = {name: value for name, value in flat(metrics) if not TIMED.search(name)}
    return found


def made_by(entries: set[Path], weights: bool) -> Any:
    """`kind/key` of each entry, with the checksums of its files where `weights` are asked for."""
    names = sorted(f"{entry.parent.name}/{entry.name}" for entry in entries)
    if not weights:
        return names
    records = {f"{entry.parent.name}/{entry.name}": entry / "record.json" for entry in entries}
    return {name: json.loads(records[name].read_text(encoding="utf-8"))["files"] for name in names}


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested mappings and lists under its dotted name."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def differing(old: Any, new: Any) -> Iterator[str]:
    """One line for each value that differs or is in one recording only."""
    before, after = dict(flat(old)), dict(flat(new))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name, "absent") != after.get(name, "absent"):
            yield f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"


if __name__ == "__main__":
    raise SystemExit(main())
