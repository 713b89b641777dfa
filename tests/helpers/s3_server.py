"""For tests: an S3 server on loopback that can be told to refuse, and to go away and come back with all that it held."""

import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

BUCKET = "lab"
KEY, SECRET = "testing-key", "testing-secret-that-nobody-may-see"


class Quiet(WSGIRequestHandler):
    """Says nothing."""

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class S3Server:
    """moto's implementation of S3. `refuse` maps an HTTP status to what decides, by method and path, who gets it."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.refuse: dict[int, Callable[[str, str], bool]] = {}
        self.asked: list[tuple[str, str]] = []
        self._server: BaseWSGIServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What makes s3fs come here, and give up at once: the place tries again by itself."""
        names = {"ENDPOINT_URL": self.url, "ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "MAX_ATTEMPTS": "1"}
        return {f"AWS_{name}": value for name, value in names.items()} | {"AWS_DEFAULT_REGION": "us-east-1"}

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True, request_handler=Quiet)
        self._server.daemon_threads = True
        self.port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Go away."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked.append((method, path))
        for status, applies in self.refuse.items():
            if applies(method, path):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response(f"{status} Refused", [("Content-Type", "application/xml")])
                code = "AccessDenied" if status == 403 else "InternalError"
                return [f"<Error><Code>{code}</Code><Message>not today</Message></Error>".encode()]
        return self._moto(environ, start_response)
