"""Threads beside the one that works: a call whose answer need not be waited for, and a call that is repeated meanwhile.

Both are daemons: none keeps the process from ending.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


def call_in_thread(call: Callable[[], Result], name: str | None = None) -> Future[Result]:
    """Start `call` in a thread of its own. The future gets its result or what it raises, whatever that is.

    Nothing can end the call: a caller that no longer wants the answer leaves the thread behind.
    """
    answer: Future[Result] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where the answer is asked for
            answer.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return answer


@contextmanager
def ticking(tick: Callable[[], object], every_s: float, *, at_end: bool = False) -> Iterator[None]:
    """Inside, a thread calls `tick` every `every_s` seconds; with `at_end` once more when the block ends."""
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
