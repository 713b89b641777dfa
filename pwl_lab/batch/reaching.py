"""Reach a Dask scheduler that is there already, or say in one line why that cannot be and what to check."""

import errno
import socket
import ssl
import time
from urllib.parse import urlsplit

import dask
from distributed import Client
from distributed.security import Security

from pwl_lab.batch.kernel import Runs
from pwl_lab.batch.waiting import StoppedError, in_time
from pwl_lab.errors import invalid

CONNECT_S = 20
PROBE_S = 3
AGAIN_S = 0.2
PLAIN, ENCRYPTED = ("tcp", "ws"), ("tls", "wss")
FORM = "an address as tcp://HOST:PORT, or tls://HOST:PORT"


class PatientlessClient(Client):
    """A client that waits for nothing when it is thrown away: one that was not made in time has nothing to close."""

    def __del__(self) -> None:
        """Dask would close it here, and wait for a scheduler that does not answer."""


def connect(scheduler: str, runs: Runs) -> Client:
    """A client of the scheduler at this address (`tcp://HOST:PORT`).

    Raises InvalidValueError for an address that is none, and within CONNECT_S and a little for one where no scheduler
    answers; StoppedError where a signal stops the `runs` meanwhile.
    """
    scheme, host, port = checked(scheduler)
    end = time.monotonic() + CONNECT_S
    try:
        in_time(lambda: _wait_for_port(host, port, end), CONNECT_S, runs)
    except (OSError, ValueError) as error:  # UnicodeError, a ValueError, for what can be no host's name
        raise invalid("scheduler", scheduler, _no_port(host, port, error)) from None
    left = max(1.0, end - time.monotonic())
    try:  # Dask itself waits up to twice as long as it is told
        return in_time(
            lambda: PatientlessClient(f"{scheme}://{_netloc(host, port)}", timeout=left / 2, set_as_default=False),
            left,
            runs,
        )
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever Dask makes of it: which error that is differs between versions
        raise invalid("scheduler", scheduler, _no_scheduler(scheme, host, port, error)) from None


def checked(scheduler: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address; nobody is asked yet.

    Raises InvalidValueError for an address that is none, or whose certificates cannot be read.
    """
    parts = _parts(scheduler)
    _check_certificates(scheduler, parts[0])
    return parts


def _parts(scheduler: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address. Raises InvalidValueError."""
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
            if time.monotonic() + AGAIN_S > end:
                raise
            time.sleep(AGAIN_S)


def _no_port(host: str, port: int, error: OSError | ValueError) -> str:
    """What to check where no connection came about."""
    if not isinstance(error, OSError):
        return f"{host!r} can be no host's name ({error}); check how it is spelt"
    if isinstance(error, socket.gaierror):
        return f"the host name {host!r} is not known on this machine ({error.strerror}); check how it is spelt"
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
        return f"what listens there speaks TLS; give the address as tls://{at}, with Dask's certificates"
    if encrypted is False and scheme in ENCRYPTED:
        return f"what listens there does not speak TLS; a scheduler without it is at tcp://{at}"
    if scheme in ENCRYPTED and isinstance(error, OSError | ssl.SSLError):
        return f"the two do not accept each other's certificates; check distributed.comm.tls in Dask's configuration ({why})"
    if not isinstance(error, OSError):
        return (
            f"Dask makes no client of it; check Dask's configuration (files and DASK_... variables) and version ({why})"
        )
    return (
        f"what listens there does not answer as a Dask scheduler: another kind of server, or one that is frozen ({why})"
    )


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
