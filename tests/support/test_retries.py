"""One policy for what fails: what is tried again, how often, from where, and what is said in the end."""

import asyncio
import inspect
import json
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwl_lab.loading import remote, sources, transfer
from pwl_lab.loading.sources import SourceError
from pwl_lab.runner import location
from pwl_lab.support.errors import PwlLabError
from pwl_lab.support.retries import PERMANENT, DamagedError, Retry, patiently, permanent, reason

FINAL = [
    FileNotFoundError("bucket/key"),
    PermissionError("bucket/key"),
    ValueError("bad"),
    NotImplementedError(),
    ImportError("no package"),
    ssl.SSLCertVerificationError("self-signed"),
    PwlLabError("said on purpose"),
    SourceError("no such file"),
]
PASSING = [
    OSError("odd"),
    ConnectionResetError(),
    TimeoutError("slow"),
    KeyError("odd"),
    RuntimeError("odd"),
    asyncio.CancelledError(),
    json.JSONDecodeError("a page of HTML", "<", 0),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"),
    SourceError("broken off", transient=True),
    DamagedError("wrong checksum"),
]


class Wrapped(Exception):
    """A client's own error."""


@pytest.mark.parametrize("error", FINAL + PASSING, ids=repr)
def test_what_another_try_would_find_again_is_in_one_table(error):
    assert permanent(error) is (error in FINAL)
    if not isinstance(error, PwlLabError):
        wrapped = Wrapped()
        wrapped.__cause__ = error
        assert permanent(wrapped) is (error in FINAL)


@pytest.mark.parametrize("module", [location, remote, sources, transfer])
def test_nobody_has_a_table_or_a_loop_of_its_own(module):
    text = inspect.getsource(module)
    assert getattr(module, "PERMANENT", PERMANENT) is PERMANENT
    assert "PERMANENT = " not in text
    assert "FileNotFoundError," not in text.replace("ABSENT = (FileNotFoundError,", "")


@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError])
def test_a_reason_is_more_than_a_path(kind):
    """As storages raise them; the system itself gives a number and words."""
    assert reason(kind("bucket/key")).endswith("(bucket/key)")
    assert len(reason(kind("bucket/key"))) > len(" (bucket/key)")
    assert reason(kind()) == reason(kind("x")).removesuffix(" (x)")
    assert reason(kind(2, "in the system's words", "path")) == "in the system's words"


@pytest.mark.parametrize("error", [KeyError("odd"), RuntimeError("odd"), asyncio.CancelledError(), TimeoutError()])
def test_a_reason_names_the_kind_of_an_error_that_has_few_words(error):
    assert reason(error).startswith(type(error).__name__)


class Undertaking:
    """Something of 10 bytes, each attempt with one of these outcomes; the last one for ever."""

    def __init__(self, outcomes):
        self.outcomes, self.place, self.attempts, self.waits, self.reports = outcomes, 0, 0, [], []

    def attempt(self):
        outcome = self.outcomes[min(self.attempts, len(self.outcomes) - 1)]
        self.attempts += 1
        if outcome == "good":
            return self.place
        if outcome == "cut":
            self.place += 1
        raise {
            "cut": SourceError("cut", transient=True),
            "late": SourceError("late", transient=True),
            "odd": RuntimeError("odd"),
            "damaged": DamagedError("damaged"),
            "missing": SourceError("missing"),
        }[outcome]

    def restart(self):
        self.place = 0

    def run(self, tries=4):
        retry = Retry(tries=tries, first_wait_s=1.0, longest_wait_s=3.0)
        return patiently(
            self.attempt,
            retry,
            self.waits.append,
            position=lambda: self.place,
            restart=self.restart,
            report=self.reports.append,
        )


@given(st.lists(st.sampled_from(["cut", "late", "odd", "damaged"]), max_size=3))
def test_fewer_faults_than_tries_never_lose_anything(faults):
    made = Undertaking([*faults, "good"])
    made.run()
    assert made.attempts == len(faults) + 1
    assert len(made.waits) == len(made.reports) == len(faults)
    assert all(wait in (1.0, 2.0, 3.0) for wait in made.waits)


@given(st.lists(st.sampled_from(["cut", "late", "odd", "damaged", "missing"]), min_size=1, max_size=12))
def test_every_undertaking_that_does_not_go_on_has_an_end(faults):
    """Whatever comes first, the same fault for ever is raised in the end, unless each attempt brings a byte."""
    made = Undertaking([*faults, "damaged" if faults[-1] == "cut" else faults[-1]])
    with pytest.raises(Exception, match=r"cut|late|odd|damaged|missing"):
        made.run()
    assert made.attempts <= len(faults) + 2 * 4


def test_a_try_that_brings_bytes_starts_the_count_anew_and_a_new_beginning_does_not():
    assert Undertaking([*["cut", "late", "late"] * 5, "good"]).run() == 5
    made = Undertaking(["cut", "damaged"] * 20)
    with pytest.raises(DamagedError):
        made.run()
    assert made.attempts == 8


def test_an_error_that_is_permanent_is_believed_at_the_beginning_alone():
    first = Undertaking(["missing", "good"])
    with pytest.raises(SourceError, match="missing"):
        first.run()
    assert (first.attempts, first.waits) == (1, [])
    assert Undertaking(["cut", "missing", "good"]).run() == 0
    again = Undertaking(["cut", "missing", "missing"])
    with pytest.raises(SourceError, match="missing"):
        again.run()
    assert again.attempts == 3


def test_who_interrupts_is_not_asked_to_wait():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patiently(interrupted, Retry(), pytest.fail)
