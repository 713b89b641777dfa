"""What a transfer says of the link that its bytes came over, by a clock of the test's own."""

import hashlib
from threading import Event

import pytest

from pwl_lab.loading.bundle import Shard
from pwl_lab.loading.sources import Source
from pwl_lab.loading.transfer import Transfer
from pwl_lab.support.retries import Retry

CONTENT = bytes(range(200)) * 5
SHARD = Shard(block=0, file="boot.safetensors", bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


class Slow(Source):
    """A source of one file: half a second until the first byte, then two pieces a second apart; some answers damaged."""

    def __init__(self, damaged: int) -> None:
        super().__init__("slow")
        self.damaged, self.now = damaged, 0.0

    def chunks(self, name, offset=0):
        self.damaged, bad = self.damaged - 1, self.damaged > 0
        self.now += 0.5
        for begin in (0, 500):
            yield bytes(500) if bad else CONTENT[begin : begin + 500]
            self.now += 1.0

    def pause(self, seconds):
        self.now += seconds


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_the_link_is_that_of_the_try_that_succeeded(damaged, tmp_path):
    source = Slow(damaged)
    told = []
    transfer = Transfer(
        source, Retry(tries=4, first_wait_s=30.0, longest_wait_s=60.0), Event(), lambda *event: told.append(event[0]),
        lambda: source.now,
    )  # fmt: skip
    received = transfer.fetch(SHARD)
    assert told == ["damaged"] * damaged
    assert received.latency_s == pytest.approx(0.5)
    assert received.link.latency_s == pytest.approx(0.5)
    assert received.link.seconds_for(SHARD.bytes) == pytest.approx(2.5)


def test_a_damaged_copy_in_the_cache_does_not_count_towards_the_link(tmp_path):
    (tmp_path / f"{SHARD.sha256}.safetensors").write_bytes(bytes(len(CONTENT)))
    source, told = Slow(0), []
    transfer = Transfer(source, Retry(), Event(), lambda *event: told.append(event[0]), lambda: source.now, tmp_path)
    received = transfer.fetch(SHARD)
    assert told == ["cache"]
    assert not received.cached
    assert received.link.latency_s == pytest.approx(0.5)
