"""The shape of a notebook's parts: what Jupyter's format asks of those that are read here, by papermill or nbclient.

nbformat's own validation says little of where the fault is, and takes two seconds to import.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pwl_lab.errors import invalid

Check = Callable[[Any], bool]


def _is(*kinds: type) -> Check:
    return lambda value: isinstance(value, kinds)


def _listing(kind: type) -> Check:
    return lambda value: isinstance(value, list) and all(isinstance(each, kind) for each in value)


MAPPING, TEXT, TEXTS = (_is(dict), "a mapping"), (_is(str), "a text"), (_listing(str), "a list of texts")
YES_OR_NO = (_is(bool), "true or false")
# What each part has to be where it is there at all; those of `pwl_lab` may be null, which says nothing either.
NOTEBOOK = dict.fromkeys(("pwl_lab", "kernelspec", "language_info", "papermill", "jupytext"), MAPPING)
OURS = {"settings": TEXT, "metrics": YES_OR_NO, "side_by_side": YES_OR_NO}
CELL = {
    "cell_type": (lambda value: value in ("code", "markdown", "raw"), "code, markdown or raw"),
    "outputs": (_listing(dict), "a list of mappings"),
    "attachments": (
        lambda value: isinstance(value, dict) and _listing(dict)([*value.values()]),
        "a mapping of mappings",
    ),
    "id": TEXT,
}
CELL_METADATA = {"tags": TEXTS, "papermill": MAPPING, "execution": MAPPING}


def check_shape(nb: dict[str, Any], path: Path) -> dict[str, Any]:
    """The notebook. Raises InvalidValueError, naming the part, where one of it is not what Jupyter's format asks."""
    for part, value, allowed in _wrong(nb):
        raise invalid(f"{path.name}: {part}", value, allowed)
    return nb


def _wrong(nb: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Each part of the notebook that has a wrong shape, its value, and what it should be."""
    minor = nb.get("nbformat_minor", 0)
    if not isinstance(minor, int) or isinstance(minor, bool):
        yield "nbformat_minor", minor, "a whole number"
    yield from _of(nb["metadata"], NOTEBOOK, "metadata")
    yield from _of(
        {name: value for name, value in nb["metadata"].get("pwl_lab", {}).items() if value is not None},
        OURS,
        "metadata.pwl_lab",
    )
    for index, cell in enumerate(nb["cells"]):
        yield from _of(cell, CELL, f"cell {index}")
        yield from _of(cell["metadata"], CELL_METADATA, f"cell {index}, metadata")


def _of(part: dict[str, Any], checks: dict[str, tuple[Check, str]], where: str) -> Iterator[tuple[str, Any, str]]:
    """What is wrong with the entries of one mapping."""
    for name, (fits, allowed) in checks.items():
        if name in part and not fits(part[name]):
            yield f"{where}.{name}", part[name], allowed
