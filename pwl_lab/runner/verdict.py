"""What no cell execution reported: errors in outputs, errors inside widgets, and metrics that are missing.

Whether a run failed, ran out of time or was killed is decided in `client`; `judge` takes that over, and fails a run that
seemed to go well where it finds one of these.

An exception in an `interact` callback does not fail the cell: ipywidgets shows it inside the widget's own output, and
the executed notebook keeps it in the widget state alone.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbformat import NotebookNode

from pwl_lab.runner.run_folder import METRICS, RunError, RunStatus, parse_json

if TYPE_CHECKING:
    from pwl_lab.runner.client import Job

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
IN_WIDGET = "Raised in a widget's callback; Jupyter shows it inside the widget only.\n"
_REFERENCE = re.compile(r"IPY_MODEL_(\w+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class WidgetError:
    """An exception that an Output widget shows, or showed while the cell `cell` ran."""

    model_id: str
    error: RunError
    cell: int | None = None


def judge(state: RunStatus, job: "Job", nb: NotebookNode, folder: Path) -> None:
    """Complete `state`: what the client saw, then errors in outputs, then those in widgets, then missing metrics."""
    state.status, state.error, state.cell, state.cells = job.status, job.error, job.cell, len(nb.cells)
    if state.status == "ok":
        _find_hidden(state, nb, job.widget_errors)
    if state.status == "ok" and nb.metadata.get("pwl_lab", {}).get("metrics"):
        _check_metrics(state, folder / METRICS)
    if state.cell is not None and state.cell_source is None:
        lines = nb.cells[state.cell].source.strip().splitlines()
        state.cell_source = "\n".join(lines[:3]) or None


def error_of(output: Mapping[str, Any]) -> RunError:
    """The content of an error output as a RunError, without the terminal's colours."""
    trace = _COLOURS.sub("", "\n".join(output.get("traceback", [])))
    return RunError(name=output.get("ename", "Error"), message=output.get("evalue", ""), traceback=trace)


def expects_errors(cell: NotebookNode) -> bool:
    """Whether the cell's author tagged it as one that raises."""
    return "raises-exception" in cell.metadata.get("tags", [])


def is_clean_exit(name: str | None, value: str | None) -> bool:
    """Whether this error is `sys.exit(0)`, a notebook's own way to end early."""
    return name == "SystemExit" and value in ("", "0")


def _find_hidden(state: RunStatus, nb: NotebookNode, seen: Sequence[WidgetError]) -> None:
    """Fail `state` on an error that no cell execution reported."""
    for index, cell in enumerate(nb.cells):
        for output in () if expects_errors(cell) else cell.get("outputs", ()):
            if output.output_type == "error" and not is_clean_exit(output.get("ename"), output.get("evalue")):
                state.status, state.cell, state.error = "failed", index, error_of(output)
                return
    for found in (*seen, *_errors_in_widgets(nb)):
        shown_by = _displaying_cell(nb, found.model_id)
        at = found.cell if shown_by is None else shown_by
        if at is None or not expects_errors(nb.cells[at]):
            found.error.traceback = IN_WIDGET + found.error.traceback
            state.status, state.cell, state.error = "failed", at, found.error
            if at is None:
                state.cell_source = f"(the output widget {found.model_id}, which no cell displays)"
            return


def _check_metrics(state: RunStatus, metrics: Path) -> None:
    """Fail `state` if a notebook that promises metrics left none that can be read."""
    try:
        parse_json(metrics.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        text = f"the notebook ran to its end but did not write {METRICS}, which its metadata announce"
        if isinstance(error, ValueError):
            text = f"{METRICS} is not JSON: {error}"
        state.status, state.error = "failed", RunError(name="MissingMetrics", message=text)


def _errors_in_widgets(nb: NotebookNode) -> list[WidgetError]:
    """Every error in an Output widget at the end."""
    return [
        WidgetError(model_id, error_of(output))
        for model_id, model in widget_models(nb).items()
        for output in model.get("state", {}).get("outputs", ())
        if output.get("output_type") == "error"
    ]


def _displaying_cell(nb: NotebookNode, model_id: str) -> int | None:
    """The first cell that shows this widget, by itself or inside containers; None if no cell does."""
    for index, cell in enumerate(nb.cells):
        if any(model_id in reachable(nb, start) for start in views(cell.get("outputs", ()))):
            return index
    return None


def widget_models(nb: NotebookNode) -> Mapping[str, Mapping[str, Any]]:
    """Every widget of the notebook: model id -> its entry in the stored widget state."""
    models: Mapping[str, Mapping[str, Any]] = nb.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    return models


def views(outputs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The model ids of the widgets that these outputs display."""
    shown = [output.get("data", {}).get(VIEW) for output in outputs]
    return [str(view.get("model_id")) for view in shown if isinstance(view, Mapping)]


def reachable(nb: NotebookNode, start: str) -> list[str]:
    """The widget `start` and all that it holds, in the order of its state: children, and what Output widgets show."""
    models, waiting = widget_models(nb), [start]
    found: list[str] = []
    while waiting:
        model_id = waiting.pop(0)
        if model_id in found or model_id not in models:
            continue
        found.append(model_id)
        state = models[model_id].get("state", {})
        waiting += _REFERENCE.findall(json.dumps(state, default=str)) + views(state.get("outputs", ()))
    return found
