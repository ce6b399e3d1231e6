"""What holds for every route: request ids, JSON bodies, and every error in OpenAI's shape or a plain one."""

import json
import logging
import re
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from flask import Flask, Request, Response, current_app, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from app.errors import (
    ApiError,
    BodyTooLarge,
    ClientLeft,
    InvalidRequest,
    RequestTimeout,
    Unauthorized,
    UnsupportedMediaType,
)
from app.routes import access, keys, origins, slow
from app.services import wire
from app.telemetry import facts, redacted, request_id

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
DISCARD_BYTES = 256 * 1024 * 1024
DISCARD_SILENCE = 1.0
"""Seconds without a byte after which a client gets its 413 at once."""
DISCARD_SECONDS = 20.0
SIMPLE = re.compile(r"/(chat|reset|status|sessions(/.*)?)/?", re.DOTALL)
"""Addresses of the simple API (legacy.py), whose errors are plain texts."""
SIMPLE_STATUS = {408: 500, 415: 400}
"""What its clients get for statuses that they do not know; the others stay."""


def install(app: Flask) -> None:
    """Give an app the hooks and error handlers."""
    app.before_request(_begin)
    app.after_request(_end)  # registered first, it runs last
    origins.install(app, app.extensions["settings"])  # before keys: a preflight cannot have one
    keys.install(app, keys.Keys(app.extensions["settings"]))
    app.register_error_handler(ApiError, _api_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(ClientLeft, lambda _: Response(status=499))
    app.register_error_handler(Exception, _unexpected)


def json_response(body: Any, status: int = 200) -> Response:
    """A JSON answer by the one encoder."""
    return Response(wire.encode(body), status, mimetype="application/json")


def json_body() -> Any:
    """The request's body, parsed; raises InvalidRequest for what is no JSON."""
    data = _body()
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body's JSON is nested too deeply.", code="invalid_json") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", code="invalid_json") from None
    except ValueError:
        raise InvalidRequest(
            "The body has NaN, Infinity or a number of thousands of digits in it.", code="invalid_json"
        ) from None


def has_body() -> bool:
    """Whether the request has a body, of whatever kind."""
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _body() -> bytes:
    """The whole body, which must be declared as plain JSON; raises RequestEntityTooLarge over the limit."""
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMediaType("The body must be JSON, sent with Content-Type: application/json.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed.")
    try:
        data = request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception:  # a chunk that is none, a connection that broke
        check_in_time()
        raise InvalidRequest("The body could not be read to its end.", code="incomplete_body") from None
    check_in_time()
    if len(data) < (request.content_length or 0):
        raise InvalidRequest("The body is shorter than its Content-Length.", code="incomplete_body")
    if request.content_length is None and len(data) >= (request.max_content_length or len(data) + 1):
        raise RequestEntityTooLarge  # Werkzeug cuts a chunked body at the limit and says nothing
    return data


def check_in_time() -> None:
    """The body has been read, or no more of it comes: raise RequestTimeout if that took too long."""
    if not slow.body_in_time.get()():
        raise RequestTimeout("The body took too long to arrive.")


def client_left(source: Request) -> Callable[[], bool]:
    """Whether the client has closed its connection, where the server gives us the socket.

    A client that has shut down its sending half counts as gone too.
    """
    connection = source.environ.get("gunicorn.socket")

    def left() -> bool:
        if connection is None:
            return False
        try:
            return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
        except (BlockingIOError, InterruptedError, ValueError):  # ValueError: a TLS socket cannot peek
            return False
        except OSError:
            return True

    return left


def _begin() -> None:
    given = request.headers.get("x-request-id", "")
    usable = REQUEST_ID.fullmatch(given) and redacted(given) == given
    g.request_id = given if usable else f"req_{secrets.token_hex(12)}"
    g.start = time.monotonic()
    request_id.set(g.request_id)
    facts.set({})


def _end(response: Response) -> Response:
    response.headers["x-request-id"] = g.get("request_id", "")
    access.report(response, g.get("start", time.monotonic()))
    return response


def _api_error(error: ApiError) -> Response:
    error.message = redacted(error.message)  # what a client sent may be in it
    if SIMPLE.fullmatch(request.path):
        response = json_response(wire.plain_error(error), SIMPLE_STATUS.get(error.status, error.status))
    else:
        response = json_response(wire.error(error), error.status)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = current_app.extensions["keys"].challenge
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _http_error(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        _discard_body()
        limit = (request.max_content_length or 0) / 1024 / 1024
        whole = f"The body is larger than the limit of {limit:.3g} MiB."
        text = error.description if "description" in vars(error) else whole
        return _api_error(BodyTooLarge(text or whole))
    problem = ApiError(error.description or error.name, code=error.name.lower().replace(" ", "_"))
    problem.status = error.code or 500
    problem.type = "invalid_request_error" if problem.status < 500 else "server_error"
    if problem.status == 404:
        problem.message = f"There is nothing at {request.method} {request.path[:200]}."
    response = _api_error(problem)
    if allowed := getattr(error, "valid_methods", None):
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _unexpected(error: Exception) -> Response:
    log.exception("unexpected error", exc_info=error)
    return _api_error(ApiError(f"The server failed; its log has the details under {g.get('request_id')}."))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _discard_body() -> None:
    """Read what the client still sends, within bounds: closing now would reset the connection."""
    stream, connection = request.environ["wsgi.input"], request.environ.get("gunicorn.socket")
    deadline = time.monotonic() + DISCARD_SECONDS
    left = DISCARD_BYTES
    try:
        if connection is not None:
            connection.settimeout(DISCARD_SILENCE)
        while left > 0 and time.monotonic() < deadline:
            block = stream.read(min(left, 1 << 16))
            if not block:
                return
            left -= len(block)
    except OSError:
        return
    finally:
        if connection is not None:
            connection.settimeout(None)
