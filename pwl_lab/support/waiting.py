"""Background threads: a call whose result need not be waited for, and a call that is repeated at intervals.

Both are daemon threads: they do not keep the process alive.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


def call_in_thread(call: Callable[[], Result], name: str | None = None) -> Future[Result]:
    """Start `call` in a separate thread. The future gets its result or its exception, of any kind.

    The call cannot be interrupted: a caller that no longer needs the result leaves the thread running.
    """
    answer: Future[Result] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is requested
            answer.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return answer


@contextmanager
def ticking(tick: Callable[[], object], every_s: float, *, at_end: bool = False) -> Iterator[None]:
    """A context in which a thread calls `tick` every `every_s` seconds; with `at_end`, once more at the end."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(every_s):
            tick()
        if at_end:
            tick()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
