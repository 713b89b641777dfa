"""Figures of loading by the clock: first predictions, accuracy against seconds and bytes, latencies, arrivals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pwl_lab.benchmarks.accuracy import anytime_area, planned_timeline
from pwl_lab.loading.bundle import BundleIndex
from pwl_lab.loading.log import Event
from pwl_lab.loading.throttle import Throttle
from pwl_lab.loading.weightless import build_empty
from pwl_lab.models.blocknet import parameter_bytes
from pwl_lab.plots import style
from pwl_lab.plots.style import BASELINE, LATENCY, NOTE, OWNER, SPARE, Figure, Look

# A baseline, or progressive loading -> its name in figures; its look is in `style.BASELINE`.
BASELINE_NAME = {
    "progressive": "progressive",
    "progressive_8bit_first": "progressive, int8 first",
    "student_only": "student only",
    "teacher_safetensors": "teacher, safetensors",
    "teacher_torch_load": "teacher, torch.load",
    "teacher_streamer": "teacher, Run:ai streamer",
    "teacher_8bit": "teacher in int8",
    "bit_planes": "teacher in bit planes",
}
BANDED = ("progressive", "bit_planes")  # whose spread over seeds is drawn: all bands together would hide the lines
BELOW = 0.05  # accuracies further than this below the student's are written out, not drawn to scale


def baseline_look(baseline: str) -> tuple[str, Look]:
    """The name and the look of a baseline, also of a reader's own."""
    return BASELINE_NAME.get(baseline, baseline), BASELINE.get(baseline, SPARE[3])


def baseline_name(baseline: str) -> str:
    """The name of a baseline in figures and tables."""
    return baseline_look(baseline)[0]


def second_words(value: float, _: object = None) -> str:
    """A time in words: `20 ms`, `1.5 s`."""
    return f"{1000 * value:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


@style.context()
def first_prediction_chart(table: pd.DataFrame) -> Figure:
    """Seconds to the first prediction: one panel per size, one row per state, one marker per baseline.

    `table` as from `benchmarks.first_predictions`. Markers are medians, bars go from the quickest to the slowest
    repeat; the scale is logarithmic and the same in all panels.
    """
    sizes, baselines = (list(dict.fromkeys(table[column])) for column in ("size", "way"))
    rows = [table.loc[table["size"] == size, "state"].nunique() for size in sizes]
    figure = Figure(figsize=(9, 1.2 + 0.27 * sum(rows) + 0.38 * len(sizes)), layout="constrained")
    panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, height_ratios=[n + 0.6 for n in rows])
    for size, axes in zip(sizes, panels[:, 0], strict=True):
        part = table[table["size"] == size]
        states = list(dict.fromkeys(part["state"]))
        for i, baseline in enumerate(baselines):
            shift = 0.16 * (i - (len(baselines) - 1) / 2)
            _spread(axes, part[part["way"] == baseline], states, baseline_look(baseline)[1], shift)
        axes.set_yticks(range(len(states)), states)
        axes.set(ylim=(len(states) - 0.4, -0.6), xscale="log")
        axes.set_title(size, fontsize=NOTE, weight="bold", pad=2)
        axes.tick_params(axis="y", left=False)
    axes.set_xlabel("time to the first prediction (logarithmic)")
    style.log_ticks(axes.xaxis, second_words, (1, 3))
    looks = [baseline_look(baseline) for baseline in baselines]
    handles = [Line2D([], [], ls="", color=colour, marker=marker, label=name) for name, (colour, _, marker) in looks]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(looks)))
    return figure


def _spread(axes: Axes, rows: pd.DataFrame, states: Sequence[str], look: Look, shift: float) -> None:
    """The markers of one baseline, a little above or below the middle of each state's row."""
    colour, _, marker = look
    by_state = rows.groupby("state")["first_prediction_s"].agg(["median", "min", "max"])
    heights = [states.index(state) + shift for state in by_state.index]
    axes.hlines(heights, by_state["min"], by_state["max"], color=colour, lw=2)
    axes.plot(by_state["median"], heights, ls="", marker=marker, color=colour, ms=6)


@style.context()
def anytime_chart(timelines: pd.DataFrame, horizon_s: float) -> Figure:
    """Accuracy against seconds (logarithmic), as a staircase per baseline that begins with the first prediction.

    Means over seeds, for some with a band from the worst to the best seed.

    Arguments:
    - `timelines`: as from `benchmarks.timelines`: way, seed, seconds, network and accuracy.
    - `horizon_s`: the seconds shown; the legend has the area under the curve up to there (`anytime_area`).
    """
    figure, (axes,) = style.row_of_axes(9, 4.8)
    for baseline, rows in timelines.groupby("way", sort=False):
        area = float(np.mean([anytime_area(mine, horizon_s) for _, mine in rows.groupby("seed", sort=False)]))
        name, look = baseline_look(baseline)
        steps = _steps(rows)
        if baseline in BANDED:
            low, high = ([*steps[end], steps[end].iloc[-1]] for end in ("low", "high"))
            axes.fill_between([*steps["seconds"], horizon_s], low, high, step="post", color=look[0], alpha=0.15, lw=0)
        front = 3 if baseline == "progressive_8bit_first" else 2  # its first marker is under the student's
        _staircase(axes, steps["seconds"], steps["mean"], horizon_s, look, label=f"{name}: {area:.1%}", zorder=front)
        if baseline == "teacher_safetensors":
            _teacher_in_one_file(axes, steps)
    _lowest(axes, timelines)
    axes.set(xscale="log", xlabel="time since the start (logarithmic)", xlim=(None, horizon_s))
    style.log_ticks(axes.xaxis, second_words)
    figure.legend(loc="outside upper center", ncols=2, title="area: mean accuracy over the time shown")
    return figure


@style.context()
def bytes_chart(timelines: pd.DataFrame) -> Figure:
    """Accuracy against the bytes that a network needs (logarithmic), as a staircase per baseline.

    `timelines` as from `benchmarks.timelines`. Means over seeds, bars from the worst to the best one.
    """
    figure, (axes,) = style.row_of_axes(9, 4.4)
    for baseline, rows in timelines.groupby("way", sort=False):
        name, (colour, dashes, marker) = baseline_look(baseline)
        steps = _steps(rows)
        bars = style.bar_lengths(steps["mean"], steps["low"], steps["high"])
        axes.errorbar(steps["bytes"], steps["mean"], yerr=bars, color=colour, ls=dashes, marker=marker, lw=1.8,
                      ms=6, capsize=3, label=name, drawstyle="steps-post")  # fmt: skip
    _lowest(axes, timelines)
    axes.set(xscale="log", xlabel="bytes that had to arrive (logarithmic)")
    style.log_ticks(axes.xaxis, style.byte_words)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _steps(rows: pd.DataFrame) -> pd.DataFrame:
    """A baseline's networks in order: when and with how many bytes (means over seeds), accuracy mean, low and high."""
    steps = rows.groupby("network", sort=False).agg(
        seconds=("seconds", "mean"),
        bytes=("bytes", "mean"),
        mean=("accuracy", "mean"),
        low=("accuracy", "min"),
        high=("accuracy", "max"),
    )
    return steps.sort_values("seconds")


def _staircase(
    axes: Axes, seconds: pd.Series, accuracy: pd.Series, end: float, look: Look, lw: float = 2, **keys: Any
) -> None:
    """Accuracy as steps that begin at markers; the last one is held to the end."""
    colour, dashes, marker = look
    axes.step([*seconds, end], [*accuracy, accuracy.iloc[-1]], where="post", color=colour, ls=dashes, lw=lw, **keys)
    axes.plot(seconds, accuracy, ls="", marker=marker, color=colour, ms=6, zorder=keys.get("zorder"))


def _teacher_in_one_file(axes: Axes, steps: pd.DataFrame) -> None:
    """When the teacher in one file first answers, in words: its line is under others of the same accuracy."""
    seconds, colour = steps["seconds"].iloc[0], baseline_look("teacher_safetensors")[1][0]
    axes.annotate(f"teacher in one file: first answer at {second_words(round(seconds, 2))}", (seconds, steps["mean"].iloc[0]),
                  xytext=(seconds, 0.1), textcoords=("data", "axes fraction"), ha="right", fontsize=NOTE, color=colour,
                  arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "relpos": (1, 1)})  # fmt: skip


def _lowest(axes: Axes, timelines: pd.DataFrame) -> None:
    """End the accuracy axis a little below the student; worse values are written at its lower edge."""
    style.accuracy_axis(axes, "test accuracy")
    means = timelines.groupby(["way", "network"])["accuracy"].mean()
    planes = means.index.get_level_values("network").str.startswith("planes")
    bottom = float(means[~planes].min()) - BELOW / 2
    axes.set_ylim(bottom, float(means.max()) + 0.01)
    lost = means[means < bottom].droplevel("way")
    words = [f"{value:.0%} ({network.removeprefix('planes ')} bits)" for network, value in lost.items()]
    if words:
        axes.annotate(f"bit planes start at {', '.join(words)}, below this axis", (0.99, 0.02),
                      xycoords="axes fraction", ha="right", fontsize=NOTE)  # fmt: skip


@style.context()
def latency_chart(latencies: pd.DataFrame) -> Figure:
    """The share of predictions that take longer than a given time, idle and while blocks arrive; logarithmic axes.

    `latencies` as from `benchmarks.latencies`; the dotted lines are the share of 1% (p99) and of 50% (p50).
    """
    figure, (axes,) = style.row_of_axes(9, 3.6)
    for state, (colour, dashes, _) in LATENCY.items():
        times = np.sort(latencies.loc[latencies["state"] == state, "ms"].to_numpy())
        p50, p99 = np.percentile(times, (50, 99))
        label = f"{state}: p50 {p50:.2g} ms, p99 {p99:.2g} ms"
        longer = 1 - np.arange(len(times)) / len(times)
        axes.step(times, longer, where="post", color=colour, ls=dashes, lw=2, label=label)
    for share in (0.5, 0.01):
        style.level_line(axes, share, f"p{100 * (1 - share):.0f}", "#666666", ":")
    axes.set(xscale="log", yscale="log", xlabel="milliseconds (logarithmic)", ylabel="share that takes longer")
    style.log_ticks(axes.xaxis, "{x:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@style.context()
def arrival_chart(events: Sequence[Event], accuracies: Mapping[str, float] | None = None) -> Figure:
    """A loader's events: bytes arrived against seconds, and at each swap the mask that predicts from then on.

    Arguments:
    - `events`: a `ProgressiveModel`'s `events`.
    - `accuracies`: the accuracy of each mask, to be written beside it.
    """
    came = [event for event in events if event.kind in ("boot", "fetched", "swap")]
    figure, (axes,) = style.row_of_axes(9, 4)
    seconds, arrived = [event.seconds for event in came], [event.bytes_arrived for event in came]
    axes.plot([0, *seconds], [0, *arrived], color="#444444", lw=1.5)
    swaps = [event for event in came if event.kind != "fetched"]
    for event in swaps:
        owner, marker = ("S", "s") if event.kind == "boot" else ("T", "o")
        axes.plot(event.seconds, event.bytes_arrived, marker=marker, ms=8, color=OWNER[owner])
    axes.margins(x=0.06, y=0.1)
    axes.set(xlabel="seconds since the loader was opened", ylabel="bytes arrived", xlim=(0, None), ylim=(0, None))
    words = [one.mask + (f"\n{accuracies[one.mask.upper()]:.1%}" if accuracies else "") for one in swaps]
    style.labels_above(axes, words, [one.seconds for one in swaps], [one.bytes_arrived for one in swaps])
    axes.yaxis.set_major_formatter(style.byte_words)
    return figure


@style.context()
def planned_charts(index: BundleIndex, megabytes_per_s: Sequence[float], orders: Sequence[str]) -> Figure:
    """The planned accuracy of each loading order of a bundle (`planned_timeline`), one panel per link.

    Arguments:
    - `index`: the bundle's index, with its bytes and recorded accuracies.
    - `megabytes_per_s`: the bandwidth of each link.
    - `orders`: the loading orders, as in the index.
    """
    figure, panels = style.row_of_axes(9, 3.4, len(megabytes_per_s), sharey=True)
    for speed, axes in zip(megabytes_per_s, panels, strict=True):
        plans = plans_for(index, speed, orders)
        for i, (order, plan) in enumerate(plans.items()):
            thick = 1.2 + 0.9 * (len(plans) - i)  # later ones thinner, on top, so that overlapping lines stay visible
            look = style.order_look(order)
            _staircase(axes, plan["seconds"], plan["accuracy"], horizon(plans), look, lw=thick, label=order)
        _teacher_alone(axes, index, speed)
        axes.set_title(f"{speed:g} MB/s", loc="left", fontsize=NOTE, weight="bold")
        axes.set(xlabel="seconds since the start", xlim=(0, horizon(plans)))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter("{x:g}")
    style.accuracy_axis(panels[0], "test accuracy")
    style.order_note(figure, orders)
    figure.legend(handles=panels[0].get_legend_handles_labels()[0], loc="outside upper center", ncols=len(orders))
    return figure


@style.context()
def planned_chart(index: BundleIndex, megabytes_per_s: float, shown: str, orders: Sequence[str]) -> Figure:
    """The planned accuracy of one loading order of a bundle on one link, with the others in grey.

    Arguments:
    - `index`: the bundle's index, with its bytes and recorded accuracies.
    - `megabytes_per_s`: the bandwidth of the link.
    - `shown`: the loading order in colour.
    - `orders`: all loading orders, as in the index.
    """
    plans = plans_for(index, megabytes_per_s, orders)
    figure, (axes,) = style.row_of_axes(9, 3.4)
    for plan in plans.values():
        _staircase(axes, plan["seconds"], plan["accuracy"], horizon(plans), ("#BBBBBB", "-", ""), lw=1.2, zorder=1)
    seconds, accuracy = plans[shown]["seconds"], plans[shown]["accuracy"]
    _staircase(axes, seconds, accuracy, horizon(plans), style.order_look(shown), lw=2.5)
    axes.set(xlabel="seconds since the start", xlim=(0, horizon(plans)))
    style.labels_above(axes, plans[shown]["network"].tolist(), seconds.tolist(), accuracy.tolist())
    _teacher_alone(axes, index, megabytes_per_s, inside=True)
    axes.margins(y=0.25)
    style.accuracy_axis(axes, "test accuracy")
    return figure


def plans_for(index: BundleIndex, megabytes_per_s: float, orders: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The timeline of each order on a link."""
    return {order: planned_timeline(index, order, Throttle(megabytes_per_s)) for order in orders}


def horizon(plans: Mapping[str, pd.DataFrame]) -> float:
    """The seconds that a figure of these timelines shows."""
    return 1.08 * max(float(plan["seconds"].iloc[-1]) for plan in plans.values())


def _teacher_alone(axes: Axes, index: BundleIndex, megabytes_per_s: float, inside: bool = False) -> None:
    """When the teacher in one file, without converters, could predict; labelled above the axes or `inside` them."""
    seconds = Throttle(megabytes_per_s).seconds_for(parameter_bytes(build_empty(index.teacher)))
    axes.axvline(seconds, color=OWNER["T"], ls="--", lw=1.5)
    axes.annotate(f"teacher alone\n{second_words(seconds)}", (seconds, 0.03 if inside else 1.02), ha="right",
                  xycoords=("data", "axes fraction"), xytext=(-4 if inside else 3, 0), textcoords="offset points",
                  fontsize=NOTE, color=OWNER["T"])  # fmt: skip
