"""Figures of curricula crossed with loading: students alone, on the way, and with teacher blocks."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pwl_lab.plots.style import CURRICULUM, NOTE, Figure, Percent, chance_line, row_of_axes, seed_points, style
from pwl_lab.study.crossing import LOADING_WORDS, LOADINGS, MEASURES, PWL_ALONE, Crossed

PWL_LOOK = ("#000000", "-", "D")


def _look(curriculum: str) -> tuple[str, str, str]:
    """Colour, line style and marker."""
    return PWL_LOOK if curriculum == PWL_ALONE[0] else CURRICULUM[curriculum]


def _name(curriculum: str) -> str:
    """As a legend says it."""
    return "PWL alone" if curriculum == PWL_ALONE[0] else curriculum.replace("_", "-")


def _share_frame(figure: Figure, panels: Sequence[Axes], label: str) -> None:
    """One label, in percent, for the y axis that the panels share, and one legend above them."""
    panels[0].set_ylabel(label)
    panels[0].yaxis.set_major_formatter(Percent())
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))


def crossing_histories(found: Sequence[Crossed], chance: float | None = None) -> Figure:
    """The student's validation accuracy over training: a panel per loading, a line per curriculum, a band over seeds.

    PWL alone, for comparison, is in every panel. `chance` is the accuracy of guessing, drawn as a line.
    """
    with style():
        loadings = [
            name for name in LOADINGS if any(one.loading == name and one.curriculum != PWL_ALONE[0] for one in found)
        ]
        figure, panels = row_of_axes(9, 3.4, len(loadings), sharey=True)
        for axes, loading in zip(panels, loadings, strict=True):
            for curriculum in dict.fromkeys(one.curriculum for one in found):
                mine = [
                    one.pair.history.set_index("step")["accuracy"]
                    for one in found
                    if one.curriculum == curriculum and (one.loading == loading or curriculum == PWL_ALONE[0])
                ]
                table = pd.concat(mine, axis=1)
                colour, dashes, _ = _look(curriculum)
                axes.plot(table.index, table.mean(axis=1), color=colour, ls=dashes, lw=2, label=_name(curriculum))
                axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.15, lw=0)
            if 0 < LOADINGS[loading] < 1:
                axes.axvline(LOADINGS[loading] * table.index.max(), color="#444444", lw=0.8, ls="--")
            if chance is not None:
                chance_line(axes, chance, named=axes is panels[-1])
            axes.set_title(LOADING_WORDS[loading], fontsize=NOTE)
            axes.set(xlabel="optimiser steps", xlim=(0, None))
        _share_frame(figure, panels, "student, validation accuracy")
    return figure


def crossing_prefixes(table: pd.DataFrame) -> Figure:
    """Accuracy by loaded teacher blocks: a panel per loading, a line per curriculum (mean, bars from worst to best seed).

    PWL alone, for comparison, is in every panel.
    """
    with style():
        others = table[table["curriculum"] != PWL_ALONE[0]]
        loadings = [name for name in LOADINGS if (others["loading"] == name).any()]
        figure, panels = row_of_axes(9, 3.6, len(loadings), sharey=True)
        for axes, loading in zip(panels, loadings, strict=True):
            chosen = table[(table["loading"] == loading) | (table["curriculum"] == PWL_ALONE[0])]
            for shift, (curriculum, mine) in enumerate(chosen.groupby("curriculum", sort=False)):
                curves = np.array(mine["prefix_accuracy"].tolist())
                mean = curves.mean(axis=0)
                spread = [mean - curves.min(axis=0), curves.max(axis=0) - mean]
                colour, dashes, marker = _look(curriculum)
                axes.errorbar(np.arange(len(mean)) + 0.06 * (shift - 1.5), mean, yerr=spread, color=colour, ls=dashes,
                              marker=marker, ms=5, lw=1.6, capsize=2, label=_name(curriculum))  # fmt: skip
            axes.set_title(LOADING_WORDS[loading], fontsize=NOTE)
            axes.set_xlabel("teacher blocks loaded")
            axes.set_xticks(range(curves.shape[1]))
        _share_frame(figure, panels, "test accuracy")
    return figure


def crossing_chart(table: pd.DataFrame) -> Figure:
    """Every combination: a point per seed and a bar at the mean, for the student, prefix order and all mixes; one scale."""
    keys = list(dict.fromkeys(zip(table["curriculum"], table["loading"], strict=True)))
    with style():
        figure, panels = row_of_axes(9, 0.32 * len(keys) + 1.2, len(MEASURES), sharex=True, sharey=True)
        for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
            for row, (curriculum, loading) in enumerate(keys):
                mine = table[(table["curriculum"] == curriculum) & (table["loading"] == loading)]
                colour, _, marker = _look(curriculum)
                seed_points(axes, mine[measure], [row] * len(mine), colour, marker, 48)
                axes.plot([mine[measure].mean()] * 2, [row - 0.32, row + 0.32], color=colour, lw=2.5, zorder=1.5)
            axes.set_title(title, fontsize=NOTE)
            axes.xaxis.set_major_formatter(Percent())
            axes.set_xlabel("test accuracy")
        names = [_name(c) if c == PWL_ALONE[0] else f"{_name(c)}: {LOADING_WORDS[loading]}" for c, loading in keys]
        panels[0].set_yticks(range(len(keys)), names)
        panels[0].set_ylim(len(keys) - 0.5, -0.5)
    return figure


def parity_crossing(found: Sequence[Crossed]) -> Figure:
    """The smallest pair: each student's accuracy over training, with and without PWL, one line per seed."""
    with style():
        figure, panels = row_of_axes(9, 3.2, 2, sharey=True)
        for axes, loading in zip(panels, ("alone", "combined"), strict=True):
            labelled = set()
            for one in (one for one in found if one.loading == loading):
                history = one.pair.history
                colour, dashes, _ = _look(one.curriculum)
                label = None if one.curriculum in labelled else _name(one.curriculum)
                labelled.add(one.curriculum)
                axes.plot(history["step"], history["accuracy"], color=colour, ls=dashes, lw=1.8, label=label)
            axes.set_title(LOADING_WORDS[loading], fontsize=NOTE)
            chance_line(axes, 0.5, named=loading == "combined")
            axes.set(xlabel="optimiser steps", xlim=(0, None), ylim=(0.45, 1.03))
        _share_frame(figure, panels, "student, validation accuracy")
    return figure
