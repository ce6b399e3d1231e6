"""gunicorn's thread worker: a request's id ends with it, what is no HTTP gets an answer as others do, slow
clients have an end, and a stop is one that clients can understand.
"""

import contextvars
import errno
import logging
import re
import secrets
import signal
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors
from gunicorn.util import close_graceful, write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from app.errors import ApiError
from app.routes import access, master
from app.routes.slow import Readings
from app.services import wire
from app.telemetry import request_id

log = logging.getLogger(__name__)

REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.LimitRequestLine, 414, "The address is too long: a line of 4094 bytes is the most."),
    (errors.LimitRequestHeaders, 431, "The headers are too many, or one of them is too long."),
    (errors.ExpectationFailed, 417, "Of all that a client can expect, only 100-continue is known here."),
    (errors.UnsupportedTransferCoding, 501, "Of transfer codings, only chunked is known here."),
    (errors.InvalidRequestLine, 400, "The first line of the request is no HTTP."),
    (errors.InvalidRequestMethod, 400, "The method of the request is none."),
    (errors.InvalidHTTPVersion, 400, "The version of HTTP is none that is known here."),
    (errors.InvalidHeaderName, 400, "The name of a header has characters in it that no name may have."),
    (errors.InvalidHeader, 400, "A header cannot be: its value, or its place beside another one."),
    (errors.ParseException, 400, "The request is no HTTP."),
)
"""What gunicorn refuses before the application sees it: the first kind that fits. What the client wrote is in
none of the texts, since it may be a key.
"""


LAST_WORDS = 2.0
"""Seconds after the drain's deadline for the last events; then connections are cut."""


class Worker(ThreadWorker):
    """The gthread worker."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._readings = Readings()
        self._replaced = self._told = False
        self._interrupts = 0

    def handle(self, conn: Any) -> Any:
        """A request from its first byte to its last; what its thread was told about it is forgotten then."""
        return contextvars.copy_context().run(self._handle, conn)

    def _handle(self, conn: Any) -> Any:
        connection = conn.sock
        self._readings.head(connection)
        try:
            more = super().handle(conn)
            if more is False:
                # gunicorn would do so in its main thread, where each client that keeps its end open stops
                # all others for two seconds.
                close_graceful(connection)
            return more
        finally:
            self._readings.over(connection)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request whose headers have been read."""
        unreader, connection = req.unreader, conn.sock
        headers = {name for name, value in req.headers if value != "0"}
        self._readings.body(connection, follows=bool(headers & {"TRANSFER-ENCODING", "CONTENT-LENGTH"}))
        receive = type(unreader).chunk
        unreader.chunk = lambda hint=None: self._readings.came(connection, receive(unreader, hint))
        try:
            return super().handle_request(req, conn)
        except BlockingIOError:
            log.info("a client has stopped to read its answer")
            raise OSError(
                errno.EPIPE, "the client does not read"
            ) from None  # of which gunicorn makes no fuss

    def finish_request(self, conn: Any, fs: Any) -> None:
        """In the main thread: what becomes of a connection."""
        if fs.cancelled() or fs.exception() is not None or fs.result() is not False:
            super().finish_request(conn, fs)
            return
        self.nr_conns -= 1
        conn.close()

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """SIGTERM: not ready from this moment on."""
        self._replaced = self._replaced or master.is_reloading()
        self._drain()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """Ctrl-C, which a terminal sends to all processes, and the SIGQUIT that follows: the same stop. The
        second Ctrl-C waits for nothing.
        """
        self._interrupts += sig == signal.SIGINT
        self.handle_exit(sig, frame)

    def is_parent_alive(self) -> bool:
        """Whether there still is a master; without one this is the end as well."""
        there = bool(super().is_parent_alive())
        if not there:
            self.alive = False
            self._drain()
        return there

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """A worker that stops goes on accepting, to refuse: nobody else would, and clients would wait in
        silence for its end. One that is replaced leaves that to its successor.
        """
        super().set_accept_enabled(enabled or not (self.alive or self._replaced))

    def notify(self) -> None:
        """The main thread's every second or less."""
        super().notify()
        self._readings.end_late(self.cfg.threads)
        if (app := self._app()) is None:
            return
        if self.alive and app.extensions["registry"].is_lost():
            log.critical("a device has failed for good: this worker ends, and another one takes its place")
            self.alive = False
        if self.alive:
            return
        self._drain()  # a stop may come while the end of a reload is waited for
        inside = app.extensions["completions"].inside()
        if inside == 0:
            super().set_accept_enabled(False)
        elif app.extensions["drain"].has_begun() and not self._told:
            self._told = True
            seconds = -app.extensions["drain"].overdue()
            log.info("%d requests still run, for %.0f s at most; Ctrl-C again ends them now", inside, seconds)
        if app.extensions["drain"].overdue() > LAST_WORDS:
            self._readings.cut()

    def _drain(self) -> None:
        if (app := self._app()) is None:
            return
        settings = app.extensions["settings"]
        replaced = self._replaced and not master.is_stopping()
        seconds = settings.request_timeout if replaced else settings.drain_timeout
        if self._interrupts > 1:
            seconds = 0
        # gunicorn reads it when it begins to wait for what runs.
        self.cfg.set("graceful_timeout", int(seconds + 2 * LAST_WORDS) + 1)
        if not replaced:
            app.extensions["drain"].begin(seconds)

    def _app(self) -> Any:
        return getattr(self, "wsgi", None)  # there is none before it was loaded

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is no HTTP, and what the application failed to, as the application would."""
        name = f"req_{secrets.token_hex(12)}"
        request_id.set(name)
        # A header of the answer that cannot be is of a kind below InvalidHeader, and not the client's fault.
        kinds = () if type(exc).__name__.startswith("InvalidResponse") else REFUSALS
        found = next(((status, text) for kind, status, text in kinds if isinstance(exc, kind)), None)
        if found is None:
            log.error("unexpected error", exc_info=exc)
        app: Any = self.wsgi
        status, text = found or (500, f"The server failed; its log has the details under {name}.")
        phrase = HTTPStatus(status).phrase
        problem = ApiError(text, code=re.sub(r"\W", "_", phrase.lower()))
        problem.type = "invalid_request_error" if found else "server_error"
        body = wire.encode(wire.error(problem))
        head = {
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": len(body),
            "x-request-id": name,
        }
        lines = [
            f"HTTP/1.1 {status} {phrase}",
            *(f"{field}: {value}" for field, value in head.items()),
            "",
            body,
        ]
        access.report_unread(status, len(body), app.extensions["metrics"])
        try:
            write_nonblock(client, "\r\n".join(lines).encode())
        except OSError:
            return  # the client has left
