"""The page's server. It listens on the loopback address: programs on this machine reach it, no others do."""

import json
import logging
import secrets
import socket
import sys
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from segunet.base.errors import UserError
from segunet.base.failures import explained
from segunet.demo.subject import Subject

logger = logging.getLogger(__name__)
_ADDRESS = "127.0.0.1"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src data: blob:",
        "style-src 'nonce-{0}'",
        "script-src 'nonce-{0}'",
        "connect-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_CLOSED = (ConnectionError, TimeoutError)  # the page was closed, or is silent


class Server(ThreadingHTTPServer):
    """Serves the page of one network.

    Args:
        subject: the network.
        port: the port; 0 for a free one.
        max_bytes: size of the largest file that it takes.

    Raises:
        UserError: the port is in use, or not allowed.
    """

    daemon_threads = True

    def __init__(self, subject: Subject, port: int, max_bytes: int) -> None:
        self.subject, self.max_bytes = subject, max_bytes
        templates = Environment(
            loader=PackageLoader("segunet.demo", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self.page = templates.get_template("page.html.j2")
        try:
            super().__init__((_ADDRESS, port), _Handler)
        except OSError as error:
            raise UserError(f"port={port}: {error.strerror}. Give another port, or port=0 for a free one.") from error

    def server_bind(self) -> None:
        """Bind without asking the network for this machine's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = _ADDRESS, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong in a request, unless the page was closed."""
        level = logging.DEBUG if isinstance(sys.exception(), _CLOSED) else logging.ERROR
        logger.log(level, "a request of the page failed", exc_info=True)


class _RefusedError(Exception):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """Answers the page's requests: GET / is the page, POST /predict?name=NAME&tta=flip a prediction as JSON."""

    server: Server
    timeout = 60  # seconds that a connection may be silent

    def do_GET(self) -> None:
        """Send the page."""
        try:
            self._check_own()
            if urlsplit(self.path).path != "/":
                raise _RefusedError(HTTPStatus.NOT_FOUND, "There is no such page.")
        except _RefusedError as error:
            self._fail(error.status, str(error))
            return
        nonce = secrets.token_urlsafe()
        page = self.server.page.render(subject=self.server.subject, max_bytes=self.server.max_bytes, nonce=nonce)
        self._send(HTTPStatus.OK, page, "text/html", _POLICY.format(nonce))

    def do_POST(self) -> None:
        """Predict the image that is sent."""
        try:
            self._check_own()
            content, given = self._upload(), parse_qs(urlsplit(self.path).query)
            name, tta = (given.get(key, [other])[0] for key, other in (("name", ""), ("tta", "none")))
            found = self.server.subject.predict(content, name, tta)
        except _CLOSED:
            raise
        except _RefusedError as error:
            self._fail(error.status, str(error))
        except UserError as error:
            self._fail(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except Exception as error:  # the page goes on
            if (known := explained(error)) is None:
                logger.exception("the prediction failed")
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, str(known or f"{type(error).__name__}: {error}"))
        else:
            self._send(HTTPStatus.OK, json.dumps(found), "application/json")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer as :meth:`_fail` what http.server refuses itself, such as other methods."""
        self._fail(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def _check_own(self) -> None:
        """Refuse what the page itself does not ask for: requests of other sites, or by names that lead here."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host.partition(":")[0] not in (_ADDRESS, "localhost") or origin not in (None, f"http://{host}"):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "Only the page itself, on this machine, is answered.")

    def _upload(self) -> bytes:
        """Return the file that is sent."""
        length = self.headers.get("Content-Length", "")
        if urlsplit(self.path).path != "/predict" or not length.isdecimal():
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "Wanted an image's file at /predict.")
        if len(length) > 12 or int(length) > self.server.max_bytes:
            most = f"{self.server.max_bytes / 1e6:g} MB"
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The file is larger than {most}.")
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise ConnectionError("the upload was stopped")
        return content

    def _fail(self, status: HTTPStatus, text: str) -> None:
        """Answer with an error, and take what is still arriving: browsers show no answer to half an upload."""
        self.close_connection = True
        self._send(status, json.dumps({"error": text}), "application/json")
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(2)
            left = 4 * self.server.max_bytes
            while left > 0 and (part := self.rfile.read1(2**16)):
                left -= len(part)

    def _send(self, status: HTTPStatus, text: str, kind: str, policy: str = "default-src 'none'") -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if getattr(self, "command", "") != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server names it so
        """Log requests for developers only."""
        logger.debug(format, *args)
