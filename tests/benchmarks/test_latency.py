"""Bytes and milliseconds of a pair: counted and measured, not made up."""

import time

import pytest
import torch
from scored import scored_pair
from torch import nn

from pwl_lab.benchmarks.latency import size_and_speed
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.base import Batch


class OneImage:
    """All that is asked of the task: an image, as the pair's networks take it."""

    def sample(self, n):
        return torch.zeros(n, 6), Batch(torch.zeros(n, 6), torch.zeros(n, dtype=torch.int64))


class Slow(nn.Module):
    """Passes on what it gets, later."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, inputs):
        time.sleep(self.seconds)
        return inputs


def test_bytes_are_counted_and_seconds_follow_from_them():
    pair = scored_pair()
    table = size_and_speed(pair, OneImage(), megabytes_per_s=2.0, repeats=3)
    assert table["bytes"].to_dict() == {"teacher": pair.teacher_bytes, "student": pair.student_bytes}
    assert table.loc["teacher", "seconds to load at 2 MB/s"] == pair.teacher_bytes / 2e6
    assert (table["milliseconds for one image"] > 0).all()


def test_the_milliseconds_are_those_that_the_network_takes():
    pair = scored_pair()
    pair.net.teacher.stem = Slow(0.02)
    pair.net.train()
    taken = size_and_speed(pair, OneImage(), repeats=3)["milliseconds for one image"]
    assert taken["teacher"] >= 20
    assert taken["teacher"] > taken["student"]
    assert pair.net.student.training, "the mode is put back"


def test_no_repeat_is_refused():
    with pytest.raises(InvalidValueError, match="repeats = 0"):
        size_and_speed(scored_pair(), OneImage(), repeats=0)
