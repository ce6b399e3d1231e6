"""One line in the log and one count in the metrics for each request, when its answer is through."""

import contextlib
import logging
import time
from typing import Any

from flask import Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from app import telemetry
from app.metrics import Metrics
from app.routes.describe import template

log = logging.getLogger(__name__)

QUIET = ("/health", "/metrics")
"""What machines ask every few seconds is logged at DEBUG only."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


def report(response: Response, started: float) -> None:
    """Log and count the request that this answers, a stream at its end; `started` is of time.monotonic."""
    seen = {
        "method": request.method,
        "path": telemetry.redacted(request.path)[:200],
        "route": _route(),
        "status": response.status_code,
    }
    more = telemetry.facts.get()
    metrics = current_app.extensions["metrics"]

    def tell() -> None:
        _tell({**seen, "bytes": _sent(response), **(more or {})}, started, metrics)

    if response.is_streamed:
        response.call_on_close(tell)
    else:
        tell()


def report_unread(status: int, sent: int, metrics: Metrics) -> None:
    """Log and count what was no HTTP, of which neither method nor path is known, or may be told."""
    seen = {"method": "-", "path": "-", "route": "none", "status": status, "bytes": sent}
    _tell(seen, time.monotonic(), metrics)


def _route() -> str:
    """The rule that the address fits, also where the method does not."""
    rule, error = request.url_rule, request.routing_exception
    if rule is None and isinstance(error, MethodNotAllowed) and error.valid_methods:
        adapter = current_app.create_url_adapter(request)
        if adapter is not None:
            with contextlib.suppress(HTTPException):  # it would lead elsewhere
                rule, _ = adapter.match(method=next(iter(error.valid_methods)), return_rule=True)
    return "none" if rule is None else template(rule)


def _tell(facts: dict[str, Any], started: float, metrics: Metrics) -> None:
    seconds = time.monotonic() - started
    # A client can invent methods, and each would be a series for ever.
    method = facts["method"] if facts["method"] in METHODS else "other"
    metrics.requests.labels(facts["route"], method, facts["status"]).inc()
    metrics.request_seconds.labels(facts["route"]).observe(seconds)
    facts = {**facts, "milliseconds": round(1000 * seconds)}
    level = logging.DEBUG if facts["route"].startswith(QUIET) else logging.INFO
    log.log(level, "%s", _line(facts), extra={"facts": facts})


def _sent(response: Response) -> int | None:
    """Bytes of the answer's body: declared, counted while they were streamed, or there."""
    if (declared := response.headers.get("Content-Length", type=int)) is not None:
        return declared
    if response.is_streamed:
        return getattr(response.response, "sent", None)
    return response.calculate_content_length()


def _line(facts: dict[str, Any]) -> str:
    """POST /v1/chat/completions 200 in 812 ms, 3456 bytes, 25 + 102 tokens, stop"""
    line = f"{facts['method']} {facts['path']} {facts['status']} in {facts['milliseconds']} ms"
    if facts["bytes"] is not None:
        line += f", {facts['bytes']} bytes"
    if "completion_tokens" in facts:
        line += f", {facts['prompt_tokens']} + {facts['completion_tokens']} tokens"
    words = {"cancelled": "client disconnected", "error": "failed"}
    for finish in facts.get("finish_reasons", ["cancelled"] if facts["status"] == 499 else []):
        line += f", {words.get(finish, finish)}"
    return line
