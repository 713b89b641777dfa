"""The study's own errors. Each one names the field, the value, what is allowed and the nearest known name."""

import traceback
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_SHOWN = 400  # characters of a value in a sentence


class PwlLabError(Exception):
    """Base class of every error that pwl_lab raises on purpose; its text is meant for the reader."""


class InvalidValueError(PwlLabError, ValueError):
    """A value is not allowed; nothing has been computed with it."""


class UnknownNameError(InvalidValueError):
    """A name (parameter, preset, dataset, notebook) is not known."""


class MissingDataError(PwlLabError, FileNotFoundError):
    """A data file is not where it should be, or its checksum is not the recorded one."""


class UnreadableError(PwlLabError, OSError):
    """A file exists but cannot be read by this process. It is not treated as damaged, because it may be intact."""


class DivergedError(PwlLabError, ArithmeticError):
    """A training run produced a loss that is not finite."""


class TimeIsUpError(PwlLabError):
    """A training stopped before its end, because it was asked to by that time (`pwl-lab run --stop-after`)."""

    def __init__(self, message: str, step: int = 0) -> None:
        """After `step` steps."""
        super().__init__(message)
        self.step = step


class ExerciseError(PwlLabError):
    """An answer to an exercise is not correct yet; the text says what was expected and found, and gives a hint."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (called by IPython): the text, and where the reader's own code failed.

        The traceback inside a check is of no use to the reader and would bury the text.
        """
        frames = traceback.extract_tb(self.__cause__.__traceback__)[1:] if self.__cause__ else []  # without the call
        return [str(self), *(line.rstrip() for line in traceback.format_list(frames))]


def invalid(field: str, value: object, allowed: str) -> InvalidValueError:
    """An error that names the field, its value, and what is allowed."""
    return InvalidValueError(f"{field} = {shown(value)} is not allowed: {allowed}")


def shown(value: object) -> str:
    """A value for a message: its repr, with the middle left out if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write numbers of more than 4,300 digits
        return f"a value of type {type(value).__name__} that is too long to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]} … {text[-LONGEST_SHOWN // 4 :]}"


def unknown(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """An error that names the unknown name, the nearest known one, and all known ones."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"unknown {kind} {shown(name)}.{hint} Known: {', '.join(names) or 'none'}")
