"""Clusters: how a scheduler is reached, which workers answer, and bounded waits for them with clear messages."""

import errno
import logging
import multiprocessing
import shutil
import signal
import socket
import ssl
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
START_S = 300  # many processes import Dask at once, perhaps beside other work
CLOSE_S = 15
ANSWER_S = 20
SILENT_S = 15  # a worker speaks every half second, in a cluster of a thousand every five
# Dask's own setting: a worker that dies is replaced, and its point is tried again this often before the point is blamed.
ALLOWED_FAILURES = 3
PLAIN, ENCRYPTED = ("tcp", "ws"), ("tls", "wss")
FORM = "an address as tcp://HOST:PORT, or tls://HOST:PORT"


class StoppedError(PwlLabError):
    """A signal came while something was waited for."""


def in_time(call: Callable[[], Result], seconds: float, runs: Runs | None = None, patience: float = 0) -> Result:
    """What `call`, in a thread of its own, gives or raises; TimeoutError after so many seconds.

    Where the `runs` are stopped meanwhile it is waited for no more than `patience` seconds longer, then StoppedError is
    raised. The thread goes on all the same: nothing can end it.
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
    """A client that waits for nothing when it is thrown away: one that was not made in time has nothing to close."""

    def __del__(self) -> None:
        """Dask would close it here, and wait for a scheduler that does not answer."""


def connect(scheduler: str, runs: Runs) -> Client:
    """A client of the scheduler at this address (`tcp://HOST:PORT`).

    Raises InvalidValueError for an invalid address, and within CONNECT_S and a little for one where no scheduler
    answers; StoppedError where a signal stops the `runs` meanwhile.
    """
    scheme, host, port = parse_scheduler(scheduler)
    end = time.monotonic() + CONNECT_S
    try:
        in_time(lambda: _wait_for_port(host, port, end), CONNECT_S, runs)
    except (OSError, ValueError) as error:  # UnicodeError, a ValueError, for what can be no host's name
        raise invalid("scheduler", scheduler, _no_port(host, port, error)) from None
    left = max(1.0, end - time.monotonic())
    address, dask_waits = f"{scheme}://{_netloc(host, port)}", left / 2  # it waits up to twice as long as it is told
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
    except ValueError as error:  # a port that is no number, or too large; a bracket that is not closed
        raise invalid("scheduler", scheduler, f"{FORM} ({error})") from None
    if scheme not in PLAIN + ENCRYPTED:
        raise invalid("scheduler", scheduler, f"{FORM}; {scheme}:// is none of Dask's")
    if not host or not port or parts.path.strip("/"):
        raise invalid("scheduler", scheduler, FORM)
    _check_certificates(scheduler, scheme)
    return scheme, host, port


def _netloc(host: str, port: int) -> str:
    """Host and port in one, as an address has them."""
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
    """Wait until something listens there: the scheduler may just be starting. Raises OSError, for good or after `end`."""
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic())).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() + LOOK_EVERY_S > end:
                raise
            time.sleep(LOOK_EVERY_S)


def _no_port(host: str, port: int, error: OSError | ValueError) -> str:
    """What to check where no connection came about."""
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
    """What to check where something listens, and Dask could not make a client of it."""
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
    """Whether a TLS handshake begins there; None where nothing is answered."""
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
        return "ALERT" in (error.reason or "")  # it refuses us, and that in TLS
    except OSError:
        return False


class _OwnCluster(LocalCluster):
    """One that Dask does not close once more when the process ends: what is left then did not answer, and is killed."""

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
    """Inside, Dask is configured as it comes, and as a batch needs it.

    What a person has set for clusters (encryption, time limits, plugins) does not concern processes that live as long
    as a batch; some of it would keep them from starting.
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
    """Inside, what was made; afterwards it is closed, as far as that can be done in time."""
    try:
        yield made
    finally:
        with suppress(OSError, TimeoutError):  # whoever does not answer is not there to be told
            in_time(made.close, CLOSE_S)


def _end_workers() -> None:
    """Kill what is left of the processes that were started here: one that is frozen does not end when it is asked to."""
    left = [process for process in multiprocessing.active_children() if process.name.startswith("Dask Worker")]
    for process in left:
        process.kill()
    for process in left:
        process.join(CLOSE_S)


def _local_cluster(number: int, resources: Mapping[str, float], scratch: Path, runs: Runs) -> LocalCluster:
    """Processes of one thread each on loopback.

    They are started by a thread that takes no signals of the terminal, and neither do they, then: a Ctrl-C while they
    still import would end each of them with a traceback. `StopUnwanted` takes that back when it can ignore them.
    """

    def start() -> LocalCluster:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_TERMINAL)
        return _OwnCluster(  # type: ignore[no-untyped-call]  # its __init__ is Dask's
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # else it asks for one port, and warns
            memory_limit=0,  # the kernels take the memory, and Dask does not see them
            resources=dict(resources) or None,
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,
        )

    resource_tracker.ensure_running()  # else the first process starts it, and that lets SIGINT through again
    return _started(start, runs)


def _started(start: Callable[[], Closed], runs: Runs) -> Closed:
    """What `start` makes. Raises StoppedError where a signal comes first, PwlLabError where it does not come about."""
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
