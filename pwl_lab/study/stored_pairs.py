"""What the store contains: every pair by family and curriculum, and the students of notebook 02. Nothing is trained.

Missing results are listed, with the command that makes them. While there is no pair, the one that ships with the project
is shown.
"""

import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.study import crossing, recipes
from pwl_lab.study.recipes import SamplePredictions, drawn_predictions, sample_predictions
from pwl_lab.study.results import DistillationRuns, Pair
from pwl_lab.study.settings import (
    CrossingSettings,
    CurriculaSettings,
    DashboardSettings,
    LoadingSettings,
)
from pwl_lab.study.shipped_pair import FAMILY, PRESET, SEED, shipped_pair
from pwl_lab.study.store import load_if_stored
from pwl_lab.support import paths
from pwl_lab.tasks.base import Task

N_DRAWN = 24  # test images drawn at random: four rows of the player
SHIPPED = (FAMILY, "plain PWL (ships with the project)")  # under which the shipped pair is shown


@dataclass
class Missing:
    """The results that are not stored, with the commands that make them; shown as a list in a notebook."""

    commands: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """A line for each thing that is missing."""
        return "\n".join(f"Not stored: {what}. To make it, run: {command}" for what, command in self.commands.items())

    def _repr_html_(self) -> str:
        """A list, with commands to copy."""
        lines = (
            f"<li>{html.escape(what)}: <code style='white-space: normal'>{html.escape(command)}</code></li>"
            for what, command in self.commands.items()
        )
        page = f"<p>Not stored; to make it, run:</p><ul>{''.join(lines)}</ul>"
        return page if self.commands else "<p>Everything is stored.</p>"


@dataclass
class StoredPairs:
    """Pairs by (family, curriculum), what each predicts for some groups of images, by name, and what is missing.

    Without a stored pair, the only one is that of `shipped_pair`, by the name `SHIPPED`.
    """

    pairs: dict[tuple[str, str], Pair] = field(default_factory=dict)
    samples: dict[tuple[str, str], dict[str, SamplePredictions]] = field(default_factory=dict)
    missing: Missing = field(default_factory=Missing)

    def add(self, label: tuple[str, str], pair: Pair, task: Task) -> None:
        """Add a pair and what it predicts for images of its task."""
        self.pairs[label] = pair
        self.samples[label] = {
            "picked because they change": sample_predictions(pair, task),
            "drawn at random": drawn_predictions(pair, task, N_DRAWN),
        }


def stored_pairs(settings: DashboardSettings, at_most: int | None = None) -> StoredPairs:
    """The pairs of notebooks 04 and 05 at a preset, of each family asked for, as far as the store has them; of one seed each.

    If it has none, the pair that ships with the project.

    `at_most`: stop after so many pairs; what comes after them is neither read nor listed as missing.
    """
    found = _in_the_store(settings, at_most)
    if not found.pairs:
        pair = shipped_pair(settings.device)
        found.add(SHIPPED, pair, pair.task)
    return found


def _in_the_store(settings: DashboardSettings, at_most: int | None) -> StoredPairs:
    """As `stored_pairs`, but with no pair if none is stored."""
    found, seed = StoredPairs(), settings.seeds[0]
    notebooks: dict[str, type[LoadingSettings | CrossingSettings]] = {"04": LoadingSettings, "05": CrossingSettings}
    for notebook, cls in notebooks.items():
        own = cls.load(settings.preset).family
        for family in sorted(settings.families, key=lambda name: name != own):
            sizes = cls.load(settings.preset, family=family, device=settings.device)
            before = len(found.pairs)
            for curriculum, load in _pairs_of(sizes, seed):
                if at_most is not None and len(found.pairs) >= at_most:
                    return found
                pair = load_if_stored(load)
                if pair is not None:
                    found.add((family, curriculum), pair, recipes.image_task(sizes))
            if len(found.pairs) == before:
                found.missing.commands[f"pairs of notebook {notebook}, {family}"] = command_for(
                    notebook, settings.preset, family if family != own else None
                )
    return found


def _pairs_of(sizes: LoadingSettings | CrossingSettings, seed: int) -> Iterator[tuple[str, Callable[[], Pair]]]:
    """What a notebook with these sizes trains: curriculum as menus call it, and the recipe."""
    if isinstance(sizes, LoadingSettings):
        yield "plain PWL (notebook 04)", lambda: recipes.loading_pair(sizes, seed)[1]
        return
    for name, loading in crossing.combinations(sizes.loadings, sizes.curricula):
        words = f"{name.replace('_', '-')}, {crossing.LOADING_WORDS[loading]} (notebook 05)"
        if (name, loading) == crossing.PWL_ONLY:
            words = "plain PWL (notebook 05)"
        yield words, partial(crossing.crossed_pair, sizes, seed, name, loading)


def stored_curricula(settings: DashboardSettings) -> tuple[DistillationRuns, TeacherReadings] | Missing:
    """The students of notebook 02 at a preset and their teacher under the probe, or the command that makes them."""
    sizes = CurriculaSettings.load(settings.preset, device=settings.device)
    runs = load_if_stored(recipes.curricula_runs, sizes)
    if runs is None:
        return Missing({"students of notebook 02": command_for("02", settings.preset)})
    return runs, recipes.parity_readings(*recipes.parity_teacher(sizes))  # stored, or its students would not be found


def command_for(notebook: str, preset: str, family: str | None = None) -> str:
    """The command that makes it, to be typed in the project's folder."""
    which = f" -p family={family}" if family else ""
    folder = f"runs/{notebook}" + (f"-{family}" if family else "")
    return f".venv/bin/pwl-lab run {notebook} --preset {preset}{which} --out {folder}"


def headline(settings: DashboardSettings, found: StoredPairs) -> str:
    """One line for the top: what is shown, and from where."""
    if SHIPPED in found.pairs:
        return (
            f"No pair of preset {settings.preset} is stored yet. This one ships with the project: "
            f"{FAMILY} at preset {PRESET}, seed {SEED}."
        )
    return f"preset {settings.preset}, pairs of seed {settings.seeds[0]}, read from {paths.store()}"
