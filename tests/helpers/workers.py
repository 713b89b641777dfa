"""What worker processes run in tests: a module of its own that imports next to nothing, for each of them imports it."""

import os
import threading


def leave(number: int) -> None:
    os._exit(number)


def fall(number: int) -> None:
    os.kill(os.getpid(), number)


class AwkwardError(Exception):
    """Can be pickled, but not made again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def stumble(number: int) -> None:
    raise AwkwardError(number, number)


def keep_locked(number: int) -> object:
    return threading.Lock()


def miss(number: int) -> None:
    import nowhere_to_be_found  # noqa: F401
