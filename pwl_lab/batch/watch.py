"""How a batch stands, once or again and again: what `pwl-lab status` shows."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pwl_lab.batch.batches import status_lines
from pwl_lab.batch.holding import holder
from pwl_lab.batch.places import place_at


def looks(out: Path | str, watch: bool) -> Iterator[list[str]]:
    """The lines of `status_lines`: once, or again and again while a batch is at work there.

    Raises as `read_states` does.
    """
    place = place_at(out)
    if watch:
        place.remember()
    yield status_lines(place)
    with suppress(KeyboardInterrupt):
        while watch and holder(place):
            time.sleep(place.look_s)
            yield status_lines(place)
