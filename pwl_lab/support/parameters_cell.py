"""The values in a notebook's parameters cell, read from its source: before a kernel starts, and in the kernel itself.

In the kernel, the variables themselves are not enough: a notebook may reuse `masks` or `seeds` for something else, and
then its set-up cell may run again.
"""

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pwl_lab.support.errors import InvalidValueError, invalid, shown

INJECTED = "# Parameters\n"  # the first line of the cell that papermill inserts after the parameters cell
MARK = "preset"  # every parameters cell of the study sets it
HARMLESS = "time|capture"  # cell magics that do not change how a cell runs


class _NotLiteral:
    """A placeholder for an expression, whose value is unknown before the notebook runs."""

    def __repr__(self) -> str:
        return "computed in the notebook"


NOT_LITERAL = _NotLiteral()


def values_in(source: str) -> dict[str, Any]:
    """Name and value of each `name = value` and `name: type = value` in a parameters cell; NOT_LITERAL for expressions.

    The magics %%time and %%capture are ignored. Raises SyntaxError for a cell that is not plain Python, and
    InvalidValueError, naming the line, for a statement that sets, or may set, a parameter in another way.
    """
    found: dict[str, Any] = {}
    body, above = _below_magic(source)
    for node in ast.parse(body).body:
        names = [target.id for target in _targets(node) if isinstance(target, ast.Name)]
        if (
            isinstance(node, ast.Assign | ast.AnnAssign)
            and node.value is not None
            and len(names) == len(_targets(node))
        ):
            found |= dict.fromkeys(names, _literal(node.value))
        elif not isinstance(node, ast.Import | ast.ImportFrom) and not _is_text(node):
            line = (ast.get_source_segment(body, node) or "").splitlines()[0]
            raise InvalidValueError(
                f"line {node.lineno + above} of the parameters cell, {shown(line)}, is not allowed: each parameter is set "
                "on its own line, as in name = 3 or name = [0, 1]; comments, strings and imports are allowed as well"
            )
    return found


def is_parameters_cell(source: str) -> bool:
    """Whether a cell sets `preset` or was inserted by papermill. Raises SyntaxError if it is not plain Python."""
    if source.startswith(INJECTED):
        return True
    if MARK not in source:
        return False
    targets = [target for node in ast.parse(_below_magic(source)[0]).body for target in _targets(node)]
    return any(isinstance(name, ast.Name) and name.id == MARK for target in targets for name in ast.walk(target))


def values_that_ran(cells: Sequence[str], whole: Collection[str]) -> dict[str, Any]:
    """The values in the parameters cells among these sources, which ran in this order; later values win.

    A cell that sets all of `whole` starts afresh: it is another notebook's, or the same cell run again. Raises
    InvalidValueError if no parameters cell ran, if a value is not a literal, or if `values_in` refuses a later cell.
    """
    values: dict[str, Any] | None = None
    refusal: InvalidValueError | None = None
    for source in cells:
        try:
            if not is_parameters_cell(source):
                continue
            mine = values_in(source)
        except SyntaxError:
            continue  # such a cell did not run
        except InvalidValueError as error:
            refusal = error
            continue
        anew = set(whole) <= set(mine)
        values = mine if values is None or anew else values | mine
        refusal = None if anew else refusal
    if refusal is not None:
        raise refusal
    if values is None:
        raise InvalidValueError(f"no parameters cell has run: first run the cell that begins with {MARK} = ...")
    check_literal(values)
    return values


def check_literal(values: Mapping[str, Any]) -> None:
    """Raise InvalidValueError if a value is an expression: settings must be known before a notebook runs."""
    for name, value in values.items():
        if value is NOT_LITERAL:
            raise invalid(name, value, "a literal in the parameters cell, such as 3, [0, 1] or None")


def _below_magic(source: str) -> tuple[str, int]:
    """A cell without a first line with a harmless magic, and how many lines were removed.

    IPython stores a cell with a magic as a call that runs it; a notebook stores it as written.
    """
    ran = re.fullmatch(rf"get_ipython\(\)\.run_cell_magic\('(?:{HARMLESS})', '[^']*', (.*)\)\s*", source, re.DOTALL)
    if ran:
        return ast.literal_eval(ran.group(1)), 1
    written = re.match(rf"\s*%%(?:{HARMLESS})\b[^\n]*\n", source)
    return (source[written.end() :], written.group().count("\n")) if written else (source, 0)


def _targets(node: ast.stmt) -> list[ast.expr]:
    """The targets of an assignment."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is only a string, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _literal(value: ast.expr) -> Any:
    """The value of a literal; NOT_LITERAL for any other expression."""
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return NOT_LITERAL
