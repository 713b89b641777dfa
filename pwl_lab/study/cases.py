"""Several calls of one verb: what is stored is loaded, the rest is made in parallel."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pwl_lab.study.store import NotMadeError, from_shipped, may_make, only_stored
from pwl_lab.support import config
from pwl_lab.support.errors import invalid
from pwl_lab.support.processes import side_by_side


def run_cases(
    verb: Callable[..., Any],
    cases: Sequence[Mapping[str, Any]],
    description: str,
    device: config.Device,
    shipped_seeds: Collection[int] = (),
) -> list[Any]:
    """`verb(**case)` for each case; results missing in the store are made first, several cases in parallel.

    On a GPU the cases run one by one (see `side_by_side`).

    Arguments:
    - `verb`: any function that keeps its results in the store.
    - `cases`: its arguments by name.
    - `description`: a name for the progress bar.
    - `device`: where the verb computes; passed on if it takes a `device`.
    - `shipped_seeds`: for these seeds (`case["seed"]`, or all of `case["seeds"]`) what the store lacks is taken, without
      weights, from what ships with the project (`study/shipped_seeds.py`).

    Raises NotMadeError inside `only_stored` for a case that is not in the store, and InvalidValueError for a case with
    a different `device`.
    """
    where = config.device(device)
    for case in cases:
        if config.device(case.get("device", where)) != where:
            raise invalid("device", case["device"], f"the device of all cases, {device!r}")
    if "device" in inspect.signature(verb).parameters:
        cases = [{**case, "device": where} for case in cases]

    def look_up(case: Mapping[str, Any]) -> Any:
        try:
            with only_stored():
                return verb(**case)
        except NotMadeError:
            if not _may_ship(case, shipped_seeds):
                raise
        with from_shipped():
            return verb(**case)

    if not may_make():
        return [look_up(case) for case in cases]
    found: dict[int, Any] = {}
    for number, case in enumerate(cases):
        with suppress(NotMadeError):
            found[number] = look_up(case)
    missing = [case for number, case in enumerate(cases) if number not in found]
    if len(missing) > 1:
        side_by_side(_make_only, [{"verb": verb, "case": case} for case in missing], description, where)
    return [found[number] if number in found else verb(**case) for number, case in enumerate(cases)]


def _make_only(verb: Callable[..., Any], case: Mapping[str, Any]) -> None:
    """Run the case only for its entry in the store: loading that is cheaper than sending the result."""
    verb(**case)


def _may_ship(case: Mapping[str, Any], shipped_seeds: Collection[int]) -> bool:
    """Whether all seeds of a case are among these."""
    seeds = case["seeds"] if "seeds" in case else [case["seed"]] if "seed" in case else []
    return bool(seeds) and {*seeds} <= {*shipped_seeds}
