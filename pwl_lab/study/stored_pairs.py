"""What the store has to show: every pair by family and curriculum, and the students of notebook 02. Nothing is trained.

What is not there is named, with the command that makes it.
"""

import html
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.loading.bundle import BundleIndex
from pwl_lab.study import crossing, recipes
from pwl_lab.study.recipes import SamplePredictions, sample_predictions
from pwl_lab.study.results import DistillationRuns, Pair
from pwl_lab.study.settings import (
    CrossingSettings,
    CurriculaSettings,
    DashboardSettings,
    LoadingSettings,
)
from pwl_lab.study.store import load_if_stored
from pwl_lab.support import paths

MOST_ON_A_PAGE = 4  # about 0.7 MB each


@dataclass
class Missing:
    """What is not stored, each with the command that makes it; in a notebook a list."""

    commands: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # what is stored and not shown all the same: why

    def __repr__(self) -> str:
        """A line for each thing that is missing or left out."""
        lines = [f"Not stored: {what}. It is made by: {command}" for what, command in self.commands.items()]
        return "\n".join([*lines, *(f"Not shown: {what}: {why}" for what, why in self.left_out.items())])

    def _repr_html_(self) -> str:
        """A list, with the commands ready to be copied."""
        lines = (
            f"<li>{html.escape(what)}: <code style='white-space: normal'>{html.escape(command)}</code></li>"
            for what, command in self.commands.items()
        )
        page = f"<p>Not stored, and made by:</p><ul>{''.join(lines)}</ul>" if self.commands else "<p>All is stored.</p>"
        lines = (f"<li>{html.escape(what)}: {html.escape(why)}</li>" for what, why in self.left_out.items())
        return page + (f"<p>Stored, and not shown:</p><ul>{''.join(lines)}</ul>" if self.left_out else "")


@dataclass
class StoredPairs:
    """Pairs by (family, curriculum), what each predicts for a few images, and what is missing."""

    pairs: dict[tuple[str, str], Pair] = field(default_factory=dict)
    samples: dict[tuple[str, str], SamplePredictions] = field(default_factory=dict)
    missing: Missing = field(default_factory=Missing)

    @property
    def first(self) -> str:
        """The first pair in words: its family and its curriculum."""
        return ", ".join(next(iter(self.pairs)))

    def index(self) -> BundleIndex:
        """The index of the first pair's bundle, which is written and thrown away for it."""
        with tempfile.TemporaryDirectory() as folder:
            return next(iter(self.pairs.values())).export(folder, int8=False)


def stored_pairs(settings: DashboardSettings) -> StoredPairs:
    """The pairs of notebooks 04 and 05 at a preset, of each family asked for, as far as the store has them; of one seed each.

    Controls are shared by pairs of equally many blocks, those of the first; and a page without a kernel, which holds the
    pictures of all, has `MOST_ON_A_PAGE`. What is left out for that is named.
    """
    found, seed = StoredPairs(), settings.seeds[0]
    notebooks: dict[str, type[LoadingSettings | CrossingSettings]] = {"04": LoadingSettings, "05": CrossingSettings}
    for notebook, cls in notebooks.items():
        own = cls.load(settings.preset).family
        for family in sorted(settings.families, key=lambda name: name != own):
            sizes = cls.load(settings.preset, family=family, device=settings.device)
            before = len(found.pairs)
            for curriculum, load in _pairs_of(sizes, seed):
                pair = load_if_stored(load)
                if pair is not None:
                    found.pairs[family, curriculum] = pair
                    found.samples[family, curriculum] = sample_predictions(pair, recipes.image_task(sizes))
            if len(found.pairs) == before:
                found.missing.commands[f"pairs of notebook {notebook}, {family}"] = _command(
                    notebook, settings.preset, family if family != own else None
                )
    _leave_out(found, MOST_ON_A_PAGE if not settings.interactive else len(found.pairs))
    return found


def _leave_out(found: StoredPairs, most: int) -> None:
    """Take out what cannot be shown with the others, and say so."""
    n_blocks = next(iter(found.pairs.values())).n_blocks if found.pairs else 0
    shown = 0
    for label, pair in list(found.pairs.items()):
        why = f"it has {pair.n_blocks} blocks, the first one {n_blocks}" if pair.n_blocks != n_blocks else ""
        if why:
            why = f"{why}; families=[{label[0]!r}] shows its family alone"
        elif shown == most:
            why = f"this page has room for {most} pairs; a live notebook shows all, families=[{label[0]!r}] only this family"
        shown += not why
        if why:
            del found.pairs[label], found.samples[label]
            found.missing.left_out[", ".join(label)] = why


def _pairs_of(sizes: LoadingSettings | CrossingSettings, seed: int) -> Iterator[tuple[str, Callable[[], Pair]]]:
    """What a notebook with these sizes trains: curriculum as menus call it, and the recipe."""
    if isinstance(sizes, LoadingSettings):
        yield "PWL only (notebook 04)", lambda: recipes.loading_pair(sizes, seed)[1]
        return
    for name, loading in crossing.combinations(sizes.loadings):
        words = f"{name.replace('_', '-')}, {crossing.LOADING_WORDS[loading]} (notebook 05)"
        if (name, loading) == crossing.PWL_ONLY:
            words = "PWL only (notebook 05)"
        yield words, partial(crossing.crossed_pair, sizes, seed, name, loading)


def stored_curricula(settings: DashboardSettings) -> tuple[DistillationRuns, TeacherReadings] | Missing:
    """The students of notebook 02 at a preset and their teacher under the probe, or the command that makes them."""
    sizes = CurriculaSettings.load(settings.preset, device=settings.device)
    runs = load_if_stored(recipes.curricula_runs, sizes)
    if runs is None:
        return Missing({"students of notebook 02": _command("02", settings.preset)})
    return runs, recipes.parity_readings(*recipes.parity_teacher(sizes))  # stored, or its students would not be found


def _command(notebook: str, preset: str, family: str | None = None) -> str:
    """The command that makes it, to be typed in the project's folder."""
    which = f" -p family={family}" if family else ""
    folder = f"runs/{notebook}" + (f"-{family}" if family else "")
    return f".venv/bin/pwl-lab run {notebook} --preset {preset}{which} --out {folder}"


def headline(settings: DashboardSettings) -> str:
    """One line for the top: what is shown, and from where."""
    return f"preset {settings.preset}, pairs of seed {settings.seeds[0]}, read from {paths.store()}"
