"""Clusters: how a scheduler is reached, which workers answer, and bounded waits for them with clear messages."""

import errno
import logging
import multiprocessing
import shutil
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import dask
from distributed import Client, LocalCluster
from distributed.security import Security

from pwl_lab.runner.kernel import Runs
from pwl_lab.runner.machine import share_out
from pwl_lab.runner.points import BatchPlan
from pwl_lab.runner.worker import OF_THE_TERMINAL
from pwl_lab.support.errors import PwlLabError, invalid
from pwl_lab.support.waiting import call_in_thread

Result = TypeVar("Result")
Closed = TypeVar("Closed", Client, LocalCluster)

LOOK_EVERY_S = 0.2
CONNECT_S = 20
PROBE_S = 3
START_S = 300  # many processes import Dask at once, possibly on a busy machine
CLOSE_S = 15
ANSWER_S = 20
SILENT_S = 15  # a worker sends a heartbeat every half second, every five in a cluster of a thousand
# Dask's own setting: how often a point is retried on a new worker before the point itself is blamed for the deaths.
ALLOWED_FAILURES = 3
PLAIN, ENCRYPTED = ("tcp", "ws"), ("tls", "wss")
FORM = "an address as tcp://HOST:PORT, or tls://HOST:PORT"


class StoppedError(PwlLabError):
    """A signal arrived while waiting."""


def in_time(call: Callable[[], Result], seconds: float, runs: Runs | None = None, patience: float = 0) -> Result:
    """Run `call` in a thread and return or raise what it does; TimeoutError after this many seconds.

    If the `runs` are stopped meanwhile, wait at most `patience` seconds longer, then raise StoppedError. The thread itself
    continues: nothing can end it.
    """
    answer = call_in_thread(call)
    end, stopped = time.monotonic() + seconds, None
    while not wait([answer], max(0.0, min(LOOK_EVERY_S, end - time.monotonic()))).done:
        if runs and runs.stopped_by and stopped is None:
            stopped = runs.stopped_by
            end = min(end, time.monotonic() + patience)
        if time.monotonic() >= end:
            raise StoppedError(stopped) if stopped else TimeoutError(f"no answer in {seconds:.0f} s")
    return answer.result()


class _PatientlessClient(Client):
    """A client that does not wait when it is garbage-collected: one that did not connect in time has nothing to close."""

    def __del__(self) -> None:
        """Do nothing. Dask would close the client here and wait for a scheduler that does not answer."""


def connect(scheduler: str, runs: Runs) -> Client:
    """A client of the scheduler at this address (`tcp://HOST:PORT`).

    Raises InvalidValueError for an invalid address, and within CONNECT_S and a little for one where no scheduler
    answers; StoppedError where a signal stops the `runs` meanwhile.
    """
    scheme, host, port = parse_scheduler(scheduler)
    end = time.monotonic() + CONNECT_S
    try:
        in_time(lambda: _wait_for_port(host, port, end), CONNECT_S, runs)
    except (OSError, ValueError) as error:  # UnicodeError, which is a ValueError, for text that cannot be a host name
        raise invalid("scheduler", scheduler, _no_port(host, port, error)) from None
    left = max(1.0, end - time.monotonic())
    address, dask_waits = f"{scheme}://{_netloc(host, port)}", left / 2  # Dask waits up to twice as long as requested
    try:
        return in_time(partial(_PatientlessClient, address, timeout=dask_waits, set_as_default=False), left, runs)
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever Dask makes of it: which error that is differs between versions
        raise invalid("scheduler", scheduler, _no_scheduler(scheme, host, port, error)) from None


def parse_scheduler(scheduler: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address; nobody is asked yet.

    Raises InvalidValueError for an invalid address, or where its certificates cannot be read.
    """
    scheme, separator, rest = scheduler.strip().rpartition("://")
    try:
        scheme = scheme.lower() if separator else str(dask.config.get("distributed.comm.default-scheme"))
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:  # a port that is not a number or is too large, or a bracket that is not closed
        raise invalid("scheduler", scheduler, f"{FORM} ({error})") from None
    if scheme not in PLAIN + ENCRYPTED:
        raise invalid("scheduler", scheduler, f"{FORM}; {scheme}:// is none of Dask's")
    if not host or not port or parts.path.strip("/"):
        raise invalid("scheduler", scheduler, FORM)
    _check_certificates(scheduler, scheme)
    return scheme, host, port


def _netloc(host: str, port: int) -> str:
    """Host and port joined, as in an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_certificates(scheduler: str, scheme: str) -> None:
    """Raise InvalidValueError where Dask's configuration has no certificates that can be read, and needs them."""
    if dask.config.get("distributed.client.security-loader", None):
        return
    try:
        context = Security().get_connection_args("client").get("ssl_context")
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        what = "certificates that can be read: those of distributed.comm.tls in Dask's configuration cannot"
        raise invalid("scheduler", scheduler, f"{what} ({error})") from None
    if scheme in ENCRYPTED and context is None:
        names = ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY")
        what = ", ".join(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in names)
        raise invalid(
            "scheduler", scheduler, f"{scheme}:// needs certificates: set {what}, or the same in Dask's configuration"
        )


def _wait_for_port(host: str, port: int, end: float) -> None:
    """Wait for a listener: the scheduler may still be starting. Raises OSError if that is hopeless, or after `end`."""
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic())).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() + LOOK_EVERY_S > end:
                raise
            time.sleep(LOOK_EVERY_S)


def _no_port(host: str, port: int, error: OSError | ValueError) -> str:
    """What to check if no connection could be made."""
    if not isinstance(error, OSError):
        return f"{host!r} is not a valid host name ({error}); check the spelling"
    if isinstance(error, socket.gaierror):
        return f"the host name {host!r} is not known on this machine ({error.strerror}); check the spelling"
    if isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED:
        return f"nothing listens on port {port} of {host}; check that the scheduler runs, and its port"
    if isinstance(error, TimeoutError):
        return f"{host} does not answer on port {port}; check the address, and whether a firewall lets it through"
    return f"{host} cannot be reached ({error.strerror or error}); check the address and the network"


def _no_scheduler(scheme: str, host: str, port: int, error: Exception) -> str:
    """What to check if something listens but Dask could not connect a client to it."""
    why = f"{type(error).__name__}: {error}".strip(": ").partition("\n")[0]
    encrypted = _speaks_tls(host, port)
    at = _netloc(host, port)
    if encrypted and scheme in PLAIN:
        return f"the server there uses TLS; give the address as tls://{at}, with Dask's certificates"
    if encrypted is False and scheme in ENCRYPTED:
        return f"the server there does not use TLS; a scheduler without it has the address tcp://{at}"
    if scheme in ENCRYPTED and isinstance(error, OSError | ssl.SSLError):
        return f"the two do not accept each other's certificates; check distributed.comm.tls in Dask's configuration ({why})"
    if not isinstance(error, OSError):
        return (
            f"Dask cannot create a client; check its configuration (files and DASK_... variables) and version ({why})"
        )
    return f"the server there does not answer like a Dask scheduler: it is of another kind, or frozen ({why})"


def _speaks_tls(host: str, port: int) -> bool | None:
    """Whether the other side speaks TLS; None if it does not answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except TimeoutError:
        return None
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # it refuses us, but by means of TLS
    except OSError:
        return False


class _OwnCluster(LocalCluster):
    """A cluster that Dask does not close again when the process exits: what is left by then did not answer, and is killed."""

    shutdown_on_close = property(lambda self: False, lambda self, value: None)


@contextmanager
def cluster_at(scheduler: str, runs: Runs) -> Iterator[tuple[Client, Mapping[str, str]]]:
    """A client of a cluster that is there, whose workers have their own environment. Raises as `connect` does."""
    _quieten()
    with _closing(connect(scheduler, runs)) as client:
        yield client, {}


@contextmanager
def own_cluster(
    plan: BatchPlan, points: int, scratch: Path, workers: int | None, runs: Runs
) -> Iterator[tuple[Client, Mapping[str, str]]]:
    """A client of processes that are started here, and what the environment of their kernels gets.

    Dask's own files go to `scratch`, where the next batch removes what one that was killed left. Raises StoppedError where
    a signal stops the `runs` before all are there, InvalidValueError as `share_out` does, and PwlLabError where they do not
    start.
    """
    _quieten()
    number, environment = share_out(plan, points, workers)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with (
            _configured(),
            _closing(_local_cluster(number, plan.resources, scratch, runs)) as cluster,
            _closing(_started(lambda: Client(cluster, timeout=CONNECT_S, set_as_default=False), runs)) as client,
        ):
            yield client, environment
    finally:
        _end_workers()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _configured() -> Iterator[None]:
    """A context in which Dask has its default configuration, plus what a batch needs.

    The user's settings for clusters (encryption, time limits, plugins) are not meant for processes that live only as long
    as a batch, and some would keep them from starting.
    """
    before = deepcopy(dask.config.config)
    dask.config.refresh(paths=[], env={})
    try:
        with dask.config.set(
            {"distributed.scheduler.allowed-failures": ALLOWED_FAILURES, "distributed.admin.tick.limit": "1h"}
        ):
            yield
    finally:
        dask.config.config.clear()
        dask.config.config.update(before)


@contextmanager
def _closing(made: Closed) -> Iterator[Closed]:
    """A context that closes its object at the end, as far as that is possible in time."""
    try:
        yield made
    finally:
        with suppress(OSError, TimeoutError):  # what does not answer cannot be told either
            in_time(made.close, CLOSE_S)


def _end_workers() -> None:
    """Kill what is left of the processes started here: a frozen one does not exit when asked to."""
    left = [process for process in multiprocessing.active_children() if process.name.startswith("Dask Worker")]
    for process in left:
        process.kill()
    for process in left:
        process.join(CLOSE_S)


def _local_cluster(number: int, resources: Mapping[str, float], scratch: Path, runs: Runs) -> LocalCluster:
    """Processes of one thread each on loopback.

    The thread that starts them blocks the terminal's signals, and they inherit that: a Ctrl-C during their imports would
    end each of them with a traceback. `StopUnwanted` unblocks the signals after it has set them to be ignored.
    """

    def start() -> LocalCluster:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_TERMINAL)
        return _OwnCluster(  # type: ignore[no-untyped-call]  # its __init__ is Dask's
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # otherwise it asks for a fixed port and warns
            memory_limit=0,  # the memory is used by the kernels, which Dask does not see
            resources=dict(resources) or None,
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,
        )

    if sys.platform != "win32":
        resource_tracker.ensure_running()  # otherwise the first process starts it, which unblocks SIGINT
    return _started(start, runs)


def _started(start: Callable[[], Closed], runs: Runs) -> Closed:
    """The result of `start`. Raises StoppedError if a signal arrives first, PwlLabError if it fails."""
    try:
        return in_time(start, START_S, runs, patience=ANSWER_S)
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - a worker that was ended before it was there, a full disk, no more processes
        if runs.stopped_by:
            raise StoppedError(runs.stopped_by) from None
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise PwlLabError(f"the batch's workers did not start on this machine ({why}); no point was run") from None


class Workers:
    """The workers of a cluster, and which of them are silent.

    A worker says every few seconds that it is there, and the scheduler notes when. Whether that moves is looked at by this
    machine's clock alone: the scheduler's may show another time.
    """

    def __init__(self, client: Client) -> None:
        """No worker has been looked at yet."""
        self.client = client
        self.heard: dict[str, tuple[float, float]] = {}  # what the scheduler noted last, and when we saw it first

    def look(self) -> dict[str, dict[str, Any]]:
        """All workers by their addresses. Raises OSError and TimeoutError where the scheduler does not answer."""
        found: dict[str, dict[str, Any]] = in_time(
            lambda: self.client.scheduler_info(n_workers=-1)["workers"], ANSWER_S
        )
        now, before = time.monotonic(), self.heard
        self.heard = {
            name: before[name]
            if name in before and before[name][0] == facts["last_seen"]
            else (facts["last_seen"], now)
            for name, facts in found.items()
        }
        return found

    def heard_of(self, seconds: float) -> tuple[list[str], list[str]]:
        """Those that the scheduler has heard of in the last `seconds` by its own clock, and the others. Raises as `look`."""
        found = self.look()
        now = in_time(lambda: self.client.run_on_scheduler(lambda: time.time()), ANSWER_S)
        heard = [name for name, facts in found.items() if now - facts["last_seen"] <= seconds]
        return heard, [name for name in found if name not in heard]

    def silent(self, seconds: float = SILENT_S) -> list[str]:
        """Those that have not been heard of for so long, as of the last look."""
        now = time.monotonic()
        return [name for name, (_, seen) in self.heard.items() if now - seen > seconds]


def nobody_fits(workers: Mapping[str, Mapping[str, Any]], resources: Mapping[str, float]) -> str | None:
    """Why no point can begin: none of these workers has the resources; None where one has."""
    if any(fits(worker, resources) for worker in workers.values()):
        return None
    if not workers:
        return "there is no worker; waiting"
    words = " ".join(f"{name}={need:g}" for name, need in resources.items())
    return f"there is no worker with {words} ({len(workers)} without); waiting"


def fits(worker: Mapping[str, Any], resources: Mapping[str, float]) -> bool:
    """Whether a worker has these resources."""
    return all(worker["resources"].get(name, 0) >= need for name, need in resources.items())


def _quieten() -> None:
    """Dask says nothing: the points tell what matters. These are the two whose levels it sets."""
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
