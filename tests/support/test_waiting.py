"""Threads beside the one that works: what a call gives or raises comes back, and what ticks stops with its block."""

import threading

import pytest

from pwl_lab.support.waiting import call_in_thread, ticking

SHORT_S, LONG_S = 0.01, 30.0


def test_a_call_in_a_thread_gives_its_result():
    here = threading.get_ident()
    assert call_in_thread(threading.get_ident).result(LONG_S) != here


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_call_in_a_thread_raises_where_it_is_asked_for(error):
    def fail():
        raise error

    with pytest.raises(type(error)) as told:
        call_in_thread(fail).result(LONG_S)
    assert told.value is error


def test_a_call_that_hangs_keeps_nobody():
    never = threading.Event()
    call_in_thread(never.wait, "hangs")
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "hangs"] == [True]
    never.set()


@pytest.mark.parametrize("at_end", [False, True])
def test_what_ticks_ends_with_its_block(at_end):
    ticks, third = [], threading.Event()

    def tick():
        ticks.append(threading.get_ident())
        if len(ticks) >= 3:
            third.set()

    with ticking(tick, SHORT_S, at_end=at_end):
        assert third.wait(LONG_S)
    assert threading.get_ident() not in ticks
    last = len(ticks)
    threading.Event().wait(5 * SHORT_S)
    assert len(ticks) == last


def test_the_last_tick_comes_without_waiting_for_its_turn():
    ticks = []
    with ticking(lambda: ticks.append(1), LONG_S, at_end=True):
        pass
    with ticking(lambda: ticks.append(2), LONG_S):
        pass
    assert ticks == [1]


def test_what_ticks_ends_where_the_block_fails():
    before = threading.active_count()
    with pytest.raises(ValueError, match="odd"), ticking(lambda: None, SHORT_S):
        raise ValueError("odd")
    assert threading.active_count() == before
