"""Errors that a finished notebook hides: in its outputs, and in the state of its widgets.

An exception in an `interact` callback does not fail the cell: ipywidgets shows it inside the widget's own output, and
the executed notebook keeps it in the widget state alone.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nbformat import NotebookNode

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
_REFERENCE = re.compile(r"IPY_MODEL_(\w+)")


def widget_models(nb: NotebookNode) -> dict[str, dict[str, Any]]:
    """Every widget of the notebook: model id -> its entry in the stored widget state."""
    return nb.metadata.get("widgets", {}).get(STATE, {}).get("state", {})


def error_in_outputs(nb: NotebookNode) -> tuple[int, dict[str, Any]] | None:
    """The first cell with an error among its plain outputs, and that output; cells tagged `raises-exception` may."""
    for index, cell in enumerate(nb.cells):
        if "raises-exception" in cell.metadata.get("tags", []):
            continue
        for output in cell.get("outputs", []):
            clean_exit = output.get("ename") == "SystemExit" and output.get("evalue") in ("", "0")
            if output.output_type == "error" and not clean_exit:
                return index, output
    return None


def errors_in_widgets(nb: NotebookNode) -> list[tuple[str, dict[str, Any]]]:
    """Every error that an Output widget holds at the end: model id and the error output."""
    return [
        (model_id, output)
        for model_id, model in widget_models(nb).items()
        for output in model.get("state", {}).get("outputs", ())
        if output.get("output_type") == "error"
    ]


def displaying_cell(nb: NotebookNode, model_id: str) -> int | None:
    """The first cell that shows this widget, on its own or inside containers; None when no cell does."""
    for index, cell in enumerate(nb.cells):
        shown = views(cell.get("outputs", ()))
        if any(model_id in reachable(nb, start) for start in shown):
            return index
    return None


def views(outputs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The model ids of the widgets that these outputs display."""
    shown = [output.get("data", {}).get(VIEW) for output in outputs]
    return [str(view.get("model_id")) for view in shown if isinstance(view, Mapping)]


def reachable(nb: NotebookNode, start: str) -> list[str]:
    """The widget `start` and all that it holds, in the order of its state: children, and what Output widgets show."""
    models, found, waiting = widget_models(nb), [], [start]
    while waiting:
        model_id = waiting.pop(0)
        if model_id in found or model_id not in models:
            continue
        found.append(model_id)
        state = models[model_id].get("state", {})
        waiting += _REFERENCE.findall(json.dumps(state, default=str)) + views(state.get("outputs", ()))
    return found
