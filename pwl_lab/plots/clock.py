"""Figures of loading by the clock: first predictions, accuracy against seconds and bytes, latencies, arrivals."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pwl_lab.benchmarks.accuracy import anytime_area, planned_timeline
from pwl_lab.loading.bundle import BundleIndex
from pwl_lab.loading.log import Event
from pwl_lab.loading.throttle import Throttle
from pwl_lab.loading.weightless import build_empty
from pwl_lab.models.blocknet import parameter_bytes
from pwl_lab.plots.style import (
    NOTE,
    OWNER,
    SPARE,
    Figure,
    Percent,
    byte_words,
    labels_above,
    level_line,
    order_look,
    row_of_axes,
    style,
)

# Way to load -> what figures call it, colour, line style, marker.
WAY = {
    "progressive": ("progressive", "#009E73", "-", "o"),
    "progressive_8bit_first": ("progressive, 8 bits first", "#0072B2", (0, (5, 1.5)), "D"),
    "student_only": ("student only", "#56B4E9", ":", "s"),
    "teacher_safetensors": ("teacher, safetensors", "#D55E00", "-", "^"),
    "teacher_torch_load": ("teacher, torch.load", "#E69F00", "-.", "v"),
    "teacher_streamer": ("teacher, Run:ai streamer", "#CC79A7", ":", "P"),
    "teacher_8bit": ("teacher at 8 bits", "#CC79A7", "--", "P"),
    "bit_planes": ("teacher in bit planes", "#000000", "-.", "X"),
}
BELOW = 0.05  # accuracies further than this below the student's are named, not drawn to scale


def way_look(way: str) -> tuple[str, str, str | tuple, str]:
    """Label, colour, line style and marker of a way to load; of a reader's own one too."""
    return WAY.get(way, (way, *SPARE[3]))


def way_name(way: str) -> str:
    """What figures and tables call a way to load."""
    return way_look(way)[0]


def second_words(value: float, _: object = None) -> str:
    """A time in words: `20 ms`, `1.5 s`."""
    return f"{1000 * value:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def first_prediction_chart(table: pd.DataFrame) -> Figure:
    """Seconds to the first prediction: a panel per size, a row per state, a marker per way.

    `table` as from `clock.measure.first_predictions`. Markers are medians, bars go from the quickest to the slowest
    repeat; the scale is logarithmic and the same in all panels.
    """
    sizes, ways = (list(dict.fromkeys(table[column])) for column in ("size", "way"))
    rows = [table.loc[table["size"] == size, "state"].nunique() for size in sizes]
    with style():
        figure = Figure(figsize=(9, 1.2 + 0.27 * sum(rows) + 0.38 * len(sizes)), layout="constrained")
        panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, height_ratios=[n + 0.6 for n in rows])
        for size, axes in zip(sizes, panels[:, 0], strict=True):
            part = table[table["size"] == size]
            states = list(dict.fromkeys(part["state"]))
            for place, way in enumerate(ways):
                _spread(axes, part[part["way"] == way], states, way, 0.16 * (place - (len(ways) - 1) / 2))
            axes.set_yticks(range(len(states)), states)
            axes.set(ylim=(len(states) - 0.4, -0.6), xscale="log")
            axes.set_title(size, fontsize=NOTE, weight="bold", pad=2)
            axes.tick_params(axis="y", left=False)
        _log_seconds(axes)
        handles = [
            axes.plot([], [], ls="", color=way_look(way)[1], marker=way_look(way)[3], label=way_look(way)[0])[0]
            for way in ways
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(ways)))
    return figure


def _spread(axes: Axes, rows: pd.DataFrame, states: Sequence[str], way: str, shift: float) -> None:
    """The markers of one way, a little above or below the middle of each state's row."""
    by_state = rows.groupby("state")["first_prediction_s"].agg(["median", "min", "max"])
    spots = np.array([states.index(state) for state in by_state.index]) + shift
    _, colour, _, marker = way_look(way)
    axes.hlines(spots, by_state["min"], by_state["max"], color=colour, lw=2)
    axes.plot(by_state["median"], spots, ls="", marker=marker, color=colour, ms=6)


def _log_seconds(axes: Axes) -> None:
    """A logarithmic axis of seconds, in words."""
    axes.set_xlabel("seconds to the first prediction (logarithmic)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(second_words))
    axes.xaxis.set_minor_formatter(NullFormatter())


def anytime_chart(timelines: pd.DataFrame, horizon_s: float) -> Figure:
    """Accuracy against seconds since the start, a staircase per way; nothing is drawn before the first prediction.

    `timelines` has way, seed, seconds, network and accuracy (see `clock.measure.timelines`): means over seeds, with a
    band from the worst to the best seed. The legend has the area (`clock.timeline.anytime_area`) up to `horizon_s`.
    """
    with style():
        figure, (axes,) = row_of_axes(9, 4.8)
        for way, rows in timelines.groupby("way", sort=False):
            area = float(np.mean([anytime_area(mine, horizon_s) for _, mine in rows.groupby("seed", sort=False)]))
            label, colour, dashes, marker = way_look(way)
            steps = _steps(rows)
            times = [*steps["seconds"], horizon_s]
            low, high, mean = ([*steps[name], steps[name].iloc[-1]] for name in ("low", "high", "mean"))
            axes.fill_between(times, low, high, step="post", color=colour, alpha=0.15, lw=0)
            axes.step(times, mean, where="post", color=colour, ls=dashes, lw=2, label=f"{label}: {area:.1%}")
            axes.plot(times[:-1], mean[:-1], ls="", marker=marker, color=colour, ms=6)
        _lowest(axes, timelines)
        axes.set(xlabel="seconds since the start", ylabel="test accuracy", xlim=(0, horizon_s))
        axes.yaxis.set_major_formatter(Percent())
        figure.legend(loc="outside upper center", ncols=2, title="area: mean accuracy over the time shown")
    return figure


def bytes_chart(timelines: pd.DataFrame) -> Figure:
    """Accuracy against the bytes that a network took (logarithmic), a staircase per way.

    Means over seeds, bars from the worst to the best one.
    """
    with style():
        figure, (axes,) = row_of_axes(9, 4.4)
        for way, rows in timelines.groupby("way", sort=False):
            label, colour, dashes, marker = way_look(way)
            steps = _steps(rows)
            bars = [steps["mean"] - steps["low"], steps["high"] - steps["mean"]]
            axes.errorbar(steps["bytes"], steps["mean"], yerr=bars, color=colour, ls=dashes, marker=marker, lw=1.8,
                          ms=6, capsize=3, label=label, drawstyle="steps-post")  # fmt: skip
        _lowest(axes, timelines)
        axes.set(xscale="log", xlabel="bytes that had to arrive (logarithmic)", ylabel="test accuracy")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: byte_words(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(Percent())
        figure.legend(loc="outside upper center", ncols=3)
    return figure


def _steps(rows: pd.DataFrame) -> pd.DataFrame:
    """One way's networks in order: when and with how many bytes (means over seeds), accuracy mean, low and high."""
    by_network = rows.groupby("network", sort=False)
    accuracy = by_network["accuracy"]
    steps = pd.DataFrame({"seconds": by_network["seconds"].mean(), "bytes": by_network["bytes"].mean()})
    return steps.assign(mean=accuracy.mean(), low=accuracy.min(), high=accuracy.max()).sort_values("seconds")


def _lowest(axes: Axes, timelines: pd.DataFrame) -> None:
    """End the axis a little below the student; what is worse is said in words at its lower edge."""
    means = timelines.groupby(["way", "network"])[["accuracy"]].mean()["accuracy"]
    usual = means[~means.index.get_level_values("network").str.startswith("planes")]
    bottom = float(usual.min()) - BELOW / 2
    lost = [
        f"{network.removeprefix('planes ')} bits: {value:.0%}"
        for (_, network), value in means.items()
        if value < bottom
    ]
    axes.set_ylim(bottom, float(means.max()) + 0.01)
    if lost:
        axes.annotate("bit planes, below the axis: " + ", ".join(lost), (0.99, 0.02), xycoords="axes fraction",
                      ha="right", fontsize=NOTE)  # fmt: skip


def latency_chart(latencies: pd.DataFrame) -> Figure:
    """How many predictions take longer than so many milliseconds, idle and while blocks arrive; both axes logarithmic.

    `latencies` as from `clock.latency.latencies`; the dotted lines are the share of 1% (p99) and of 50% (p50).
    """
    looks = {"idle": ("#56B4E9", "--"), "loading": ("#009E73", "-")}
    with style():
        figure, (axes,) = row_of_axes(9, 3.6)
        for state, (colour, dashes) in looks.items():
            times = np.sort(latencies.loc[latencies["state"] == state, "ms"].to_numpy())
            share = 1 - np.arange(len(times)) / len(times)
            p50, p99 = np.percentile(times, (50, 99))
            axes.step(
                times,
                share,
                where="post",
                color=colour,
                ls=dashes,
                lw=2,
                label=f"{state}: p50 {p50:.2g} ms, p99 {p99:.2g} ms",
            )
        for share in (0.5, 0.01):
            level_line(axes, share, f"p{100 * (1 - share):.0f}", "#666666", ":")
        axes.set(xscale="log", yscale="log", xlabel="milliseconds (logarithmic)", ylabel="share that takes longer")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def arrival_chart(events: Sequence[Event], accuracies: Mapping[str, float] | None = None) -> Figure:
    """What a loader's events say: bytes arrived against seconds, and at each swap the mask that predicts from then on."""
    came = [event for event in events if event.kind in ("boot", "fetched", "swap")]
    with style():
        figure, (axes,) = row_of_axes(9, 4)
        seconds, arrived = [event.seconds for event in came], [event.bytes_arrived for event in came]
        axes.plot([0, *seconds], [0, *arrived], color="#444444", lw=1.5)
        swaps = [event for event in came if event.kind != "fetched"]
        for event in swaps:
            owner, marker = ("S", "s") if event.kind == "boot" else ("T", "o")
            axes.plot(event.seconds, event.bytes_arrived, marker=marker, ms=8, color=OWNER[owner])
        axes.margins(x=0.06, y=0.1)
        axes.set(xlabel="seconds since the loader was opened", ylabel="bytes arrived", xlim=(0, None), ylim=(0, None))
        words = [one.mask + (f"\n{accuracies[one.mask.upper()]:.1%}" if accuracies else "") for one in swaps]
        labels_above(axes, words, [one.seconds for one in swaps], [one.bytes_arrived for one in swaps])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: byte_words(value)))
    return figure


def planned_charts(index: BundleIndex, megabytes_per_s: Sequence[float], orders: Sequence[str]) -> Figure:
    """What each loading order would bring on each link (`clock.timeline.planned_timeline`): a panel per link."""
    with style():
        figure, panels = row_of_axes(9, 3.4, len(megabytes_per_s), sharey=True)
        for speed, axes in zip(megabytes_per_s, panels, strict=True):
            plans = plans_for(index, speed, orders)
            for place, (order, plan) in enumerate(plans.items()):
                colour, dashes, marker = order_look(order)
                times, values = _held(plan, horizon(plans))
                thick = 0.9 * (len(plans) - place)  # later ones thinner, on top: common stretches show all of them
                axes.step(times, values, where="post", color=colour, ls=dashes, lw=1.2 + thick, label=order)
                axes.plot(times[:-1], values[:-1], ls="", marker=marker, color=colour, ms=5)
            _teacher_alone(axes, index, speed)
            axes.set_title(f"{speed:g} MB/s", fontsize=NOTE, weight="bold")
            axes.set(xlabel="seconds since the start", xlim=(0, horizon(plans)))
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.xaxis.set_major_formatter("{x:g}")
        panels[0].set(ylabel="test accuracy")
        panels[0].yaxis.set_major_formatter(Percent())
        figure.legend(handles=panels[0].get_legend_handles_labels()[0], loc="outside upper center", ncols=len(orders))
    return figure


def planned_chart(index: BundleIndex, megabytes_per_s: float, shown: str, orders: Sequence[str]) -> Figure:
    """What the loading order `shown` would bring on one link; in grey the other `orders`."""
    plans = plans_for(index, megabytes_per_s, orders)
    end = horizon(plans)
    with style():
        figure, (axes,) = row_of_axes(9, 3.4)
        for order, plan in plans.items():
            axes.step(*_held(plan, end), where="post", color="#BBBBBB", lw=1.2, zorder=1)
            if order == shown:
                times, values = _held(plan, end)
                axes.step(times, values, where="post", color="#009E73", lw=2.5)
                axes.plot(times[:-1], values[:-1], ls="", marker="o", color="#009E73")
                axes.set(xlim=(0, end))
                labels_above(axes, plan["network"].tolist(), times[:-1], values[:-1])
        _teacher_alone(axes, index, megabytes_per_s, inside=True)
        axes.margins(y=0.25)
        axes.set(xlabel="seconds since the start", ylabel="test accuracy")
        axes.yaxis.set_major_formatter(Percent())
    return figure


def plans_for(index: BundleIndex, megabytes_per_s: float, orders: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The timeline of each order on a link."""
    return {order: planned_timeline(index, order, Throttle(megabytes_per_s)) for order in orders}


def horizon(plans: Mapping[str, pd.DataFrame]) -> float:
    """The seconds that a figure of these timelines shows."""
    return 1.08 * max(float(plan["seconds"].iloc[-1]) for plan in plans.values())


def _held(plan: pd.DataFrame, end: float) -> tuple[list[float], list[float]]:
    """Seconds and accuracies of a timeline, the last one held to the end."""
    return [*plan["seconds"], end], [*plan["accuracy"], plan["accuracy"].iloc[-1]]


def _teacher_alone(axes: Axes, index: BundleIndex, megabytes_per_s: float, inside: bool = False) -> None:
    """When the teacher in one file, without converters, could answer; its words above the axes or `inside` them."""
    seconds = Throttle(megabytes_per_s).seconds_for(parameter_bytes(build_empty(index.teacher)))
    axes.axvline(seconds, color=OWNER["T"], ls="--", lw=1.5)
    axes.annotate(f"teacher alone\n{second_words(seconds)}", (seconds, 0.03 if inside else 1.02), ha="right",
                  xycoords=("data", "axes fraction"), xytext=(-4 if inside else 3, 0), textcoords="offset points",
                  fontsize=NOTE, color=OWNER["T"])  # fmt: skip
