"""What a notebook's parameters cell says, read from its source: before a kernel starts, and in the kernel itself.

In the kernel the names themselves would not do: a notebook goes on to use `masks` or `seeds` for something else, and then
its set-up cell is run again.
"""

import ast
from collections.abc import Collection, Sequence
from typing import Any

from pwl_lab.errors import InvalidValueError, invalid

INJECTED = "# Parameters\n"  # how the cell begins that papermill puts behind the parameters cell
MARK = "preset"  # every parameters cell of the study sets it


class _NotLiteral:
    """Stands for a value that is an expression: it is not known before the notebook runs."""

    def __repr__(self) -> str:
        return "computed in the notebook"


NOT_LITERAL = _NotLiteral()


def values_in(source: str) -> dict[str, Any]:
    """Name and value of every `name = value` and `name: type = value` at the top of a cell; NOT_LITERAL for an expression.

    Raises SyntaxError for a cell that is not plain Python.
    """
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if targets and node.value is not None:
            found |= {target.id: _literal(node.value) for target in targets if isinstance(target, ast.Name)}
    return found


def values_that_ran(cells: Sequence[str], whole: Collection[str]) -> dict[str, Any]:
    """What the parameters cells among these sources say, which have run in this order; a later one wins.

    A parameters cell sets `preset`, or was put there by papermill. One that sets all of `whole` begins anew: it is another
    notebook's, or the same one once more. Raises InvalidValueError where there is none, or a value is no literal.
    """
    values: dict[str, Any] | None = None
    for source in cells:
        try:
            mine = values_in(source) if MARK in source or source.startswith(INJECTED) else {}
        except SyntaxError:
            continue  # such a cell did not run
        if MARK in mine or source.startswith(INJECTED):
            values = mine if values is None or set(whole) <= set(mine) else values | mine
    if values is None:
        raise InvalidValueError(
            f"no parameters cell has run: run the cell that begins with {MARK} = ... before this one"
        )
    for name, value in values.items():
        if value is NOT_LITERAL:
            raise invalid(name, value, "a literal in the parameters cell, such as 3, [0, 1] or None")
    return values


def _literal(value: ast.expr) -> Any:
    """The value of a literal, NOT_LITERAL for any other expression."""
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return NOT_LITERAL
