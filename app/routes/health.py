"""Health for people and load balancers: it answers at once, whatever loads or runs."""

from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, current_app

from app.routes import keys, origins
from app.routes.describe import describe
from app.routes.hooks import json_response
from app.schemas import answers
from app.settings import VERSION

bp = Blueprint("health", __name__)
EXAMPLE = {
    "status": "healthy",
    "model": "demo",
    "model_dir": "models/demo/weights",
    "max_concurrent": 32,
    "api_auth_enabled": False,
    "version": VERSION,
    "timestamp": "2026-11-21T09:15:02+00:00",
    "details": {"model_state": "loaded", "running": 3, "waiting": 0},
}


@bp.get("/health")
@bp.get("/health/live")
@describe(answer=answers.HealthSchema, example=EXAMPLE)
def live() -> Response:
    """The process answers; to those with a key it tells what it serves and how busy it is."""
    return json_response({"status": "healthy"} | (_told() if _may_know() else {}))


def _told() -> dict[str, Any]:
    """What is served and how busy it is."""
    settings = current_app.extensions["settings"]
    registry = current_app.extensions["registry"]
    spec = registry.catalog.resolve(None)
    state, phase, share = registry.status(spec.id)
    running, waiting = current_app.extensions["completions"].busy()
    details: dict[str, Any] = {"model_state": state, "running": running, "waiting": waiting}
    if state == "loading":
        details |= {"phase": phase, "progress": round(share, 3)}
    elif reason := phase if state == "failed" else registry.fault():
        details["reason"] = reason
    return {
        "model": spec.id,
        "model_dir": spec.source,
        "max_concurrent": settings.streams(spec.engine),
        "api_auth_enabled": current_app.extensions["keys"].required,
        "version": VERSION,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "details": details,
    }


@bp.get("/health/ready")
@describe(answer=answers.ReadySchema, example={"status": "healthy"}, others={503: answers.ReadySchema})
def ready() -> Response:
    """503 while the default model loads and after that failed, until it has loaded, which is tried again
    while somebody looks here; a model that nobody has asked for yet does not count against it. Also 503 while
    the device of any loaded model fails, and from the moment the server is told to stop.
    """
    registry = current_app.extensions["registry"]
    stops = current_app.extensions["drain"].has_begun()
    if not stops:
        registry.retry(registry.catalog.default)
    state, phase, share = registry.status(registry.catalog.default)
    status, more = "healthy", {}
    if stops:
        status = "draining"
    elif state == "loading":
        status, more = "loading", {"phase": phase, "progress": round(share, 3)}
    elif reason := phase if state == "failed" else registry.fault():
        status, more = "unhealthy", {"reason": reason}
    told = _told() | more if _may_know() else {}
    return json_response({"status": status} | told, 200 if status == "healthy" else 503)


def _may_know() -> bool:
    """Whether the caller gets more than the status: who has a key, or on a server without keys, whoever calls
    it by a name of this machine.
    """
    return keys.is_known() and not origins.is_foreign()
