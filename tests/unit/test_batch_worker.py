"""What a worker does with one point, and with the batches that share it."""

from collections.abc import Iterator

import pytest
from distributed import Client, LocalCluster
from processes import until

from pwl_lab.batch import worker
from pwl_lab.batch.kernel import Runs
from pwl_lab.batch.worker import CANCELLED, StopUnwanted


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A scheduler and one worker in this process."""
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as made:
        yield made


def test_a_second_batch_on_a_worker_stops_none_of_the_first(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs()
    monkeypatch.setitem(worker._running, "point-first-abc-1", runs)
    for _ in range(2):
        with Client(cluster, set_as_default=False) as client:
            client.register_plugin(StopUnwanted())
    assert runs.stopped_by is None
    cluster.scale(0)
    until(lambda: runs.stopped_by == CANCELLED)
