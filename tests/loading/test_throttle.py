"""The arithmetic of a slow link, by a clock that the test sets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwl_lab.loading.throttle import SLACK_S, Link, Throttle
from pwl_lab.support.errors import InvalidValueError

SIZES = st.lists(st.integers(0, 3_000_000), min_size=1, max_size=40)
RATES = st.floats(0.01, 1000)


def test_only_what_a_link_can_have_is_allowed():
    assert Throttle() == Throttle(None, 0)
    assert Throttle(2).bytes_per_s == 2e6
    assert math.isinf(Throttle().bytes_per_s)
    for rate in (0, -1, math.nan, math.inf):
        with pytest.raises(InvalidValueError, match="megabytes_per_s"):
            Throttle(megabytes_per_s=rate)
    for latency in (-0.1, math.nan, math.inf):
        with pytest.raises(InvalidValueError, match="latency_s"):
            Throttle(latency_s=latency)


def test_it_says_what_it_is():
    assert str(Throttle()) == "no limit"
    assert str(Throttle(2.5, 0.05)) == "2.5 MB/s, 50 ms latency"


@given(SIZES, RATES)
def test_who_waits_exactly_as_told_is_done_after_bytes_over_rate(sizes, rate):
    link, now = Link(Throttle(rate)), 100.0
    link.begin(now)
    for size in sizes:
        now += link.delay(size, now)
    assert now == pytest.approx(100 + sum(sizes) / (rate * 1e6), abs=1e-6)


@given(SIZES, RATES, st.data())
def test_no_byte_comes_early_however_late_the_reader(sizes, rate, data):
    link, now = Link(Throttle(rate)), 7.0
    link.begin(now)
    for done, size in enumerate(sizes, 1):
        now += link.delay(size, now) + data.draw(st.floats(0, 3 * SLACK_S))
        assert now >= 7 + sum(sizes[:done]) / (rate * 1e6) - 1e-6


@given(st.lists(st.floats(SLACK_S, 1), min_size=1, max_size=40), RATES, st.data())
def test_small_lateness_does_not_add_up(durations, rate, data):
    link, now, late = Link(Throttle(rate)), 7.0, 0.0
    sizes = [round(seconds * rate * 1e6) for seconds in durations]
    link.begin(now)
    for size in sizes:
        late = data.draw(st.floats(0, SLACK_S * 0.99))
        now += link.delay(size, now) + late
    assert now == pytest.approx(7 + sum(sizes) / (rate * 1e6) + late, abs=1e-6)


@given(SIZES, RATES, st.data())
def test_transfers_at_the_same_time_share_the_link(sizes, rate, data):
    link = Link(Throttle(rate))
    clocks = [50.0, 50.0, 50.0]
    for _ in clocks:
        link.begin(50.0)
    for size in sizes:  # the transfer whose turn it is asks at its own time, as threads do
        first = min(clocks)
        turn = data.draw(st.sampled_from([i for i, clock in enumerate(clocks) if clock == first]))
        clocks[turn] = first + link.delay(size, first)
    assert max(clocks) == pytest.approx(50 + sum(sizes) / (rate * 1e6), abs=1e-6)


def test_idle_time_is_not_saved_up():
    link = Link(Throttle(1))
    link.begin(0)
    assert link.delay(1_000_000, 0) == pytest.approx(1)
    assert link.delay(1_000_000, 500) == pytest.approx(1 - SLACK_S), "a pause gives no more than the slack"
    link.begin(900)
    assert link.delay(1_000_000, 900) == pytest.approx(1), "a new transfer gives nothing"


def test_pieces_are_short_at_any_bandwidth_and_without_limit_nothing_is_cut():
    assert Link(Throttle(10)).piece_bytes == 200_000
    assert Link(Throttle(0.001)).piece_bytes == 1024
    assert Link(Throttle()).piece_bytes is None
    assert Link(Throttle()).delay(10**9, 5.0) == 0
