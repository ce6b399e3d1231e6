"""gunicorn's thread worker: a request's id ends with it, and what is no HTTP gets an answer as others do."""

import contextvars
import logging
import re
import secrets
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from app.errors import ApiError
from app.routes import access
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


class Worker(ThreadWorker):
    """The gthread worker."""

    def handle(self, conn: Any) -> Any:
        """A request from its first byte to its last; what its thread was told about it is forgotten then."""
        return contextvars.copy_context().run(super().handle, conn)

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
