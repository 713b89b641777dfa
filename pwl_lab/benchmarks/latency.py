"""What loading costs the predictions that go on meanwhile, and whether any of them goes wrong."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.throttle import Throttle

LINGER = Throttle(latency_s=0.2)  # time enough to close a model between two swaps


def latencies(folder: Path, throttle: Throttle, loads: int) -> pd.DataFrame:
    """Milliseconds of single predictions while blocks arrive and, exactly as many of each mask, while nothing does.

    Columns: state (`loading`, `idle`), mask, ms. Blocks come over `throttle`, `loads` times.
    """
    busy = [row for _ in range(loads) for row in _while_loading(folder, throttle)]
    counts = Counter(mask for mask, _ in busy)
    idle = [row for mask, count in counts.items() for row in _while_idle(folder, mask, count)]
    rows = [("loading", *row) for row in busy] + [("idle", *row) for row in idle]
    return pd.DataFrame(rows, columns=["state", "mask", "ms"])


def _while_loading(folder: Path, throttle: Throttle) -> list[tuple[str, float]]:
    """One load, with one prediction after the other."""
    rows: list[tuple[str, float]] = []
    with ProgressiveModel.open(folder, throttle=throttle, device="cpu") as model:
        sample = torch.zeros(1, *model.index.inputs.shape)
        _timed(model, sample, 20)  # the first ones choose kernels
        while not model.status().finished:
            rows += _timed(model, sample, 1)
    return rows


def _while_idle(folder: Path, mask: str, times: int) -> list[tuple[str, float]]:
    """Predictions of one mask by a model that was closed when it had got there, so that nothing else goes on."""
    with ProgressiveModel.open(folder, throttle=LINGER, device="cpu") as model:
        model.on_swap(lambda event: model.close() if event.mask == mask else None)
        if model.mask == mask:
            model.close()
        model.wait()
        sample = torch.zeros(1, *model.index.inputs.shape)
        _timed(model, sample, 20)
        return _timed(model, sample, times)


def _timed(model: ProgressiveModel, sample: Tensor, times: int) -> list[tuple[str, float]]:
    """So many predictions: mask and milliseconds of each."""
    rows = []
    for _ in range(times):
        begun = time.perf_counter()
        mask = model.predict(sample).mask
        rows.append((mask, 1000 * (time.perf_counter() - begun)))
    return rows


@dataclass
class Hammered:
    """What became of many predictions at once: how many of each mask, and which were not what that mask says."""

    by_mask: Counter = field(default_factory=Counter)
    wrong: int = 0
    failed: list[str] = field(default_factory=list)
    finished: bool = False

    @property
    def predictions(self) -> int:
        """All of them."""
        return sum(self.by_mask.values())


def hammer(
    folder: Path,
    throttle: Throttle,
    inputs: Tensor,
    expected: Mapping[str, Tensor],
    predictions: int,
    n_threads: int = 4,
) -> Hammered:
    """At least `predictions` from `n_threads` threads while all blocks arrive, each checked against its mask's logits.

    `inputs` are samples of one batch each ([n, 1, *shape]), `expected[mask]` their logits ([n, 1, classes]); equal means
    to the last bit.
    """
    found, lock = Hammered(), threading.Lock()
    with ProgressiveModel.open(folder, throttle=throttle, device="cpu") as model:

        def more() -> bool:
            with lock:
                return found.predictions < predictions or not model.status().finished

        def ask() -> None:
            number = 0
            while more():
                number = (number + 1) % len(inputs)
                try:
                    prediction = model.predict(inputs[number])
                    right = torch.equal(prediction.logits, expected[prediction.mask][number])
                except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                    with lock:
                        found.failed.append(f"{type(error).__name__}: {error}")
                    return
                with lock:
                    found.by_mask[prediction.mask] += 1
                    found.wrong += not right

        threads = [threading.Thread(target=ask) for _ in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found.finished = model.mask == "T" * model.index.n_blocks
    return found
