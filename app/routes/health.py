"""Health for people and load balancers: it answers at once, whatever loads or runs."""

from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, current_app

from app.routes.hooks import json_response
from app.settings import VERSION

bp = Blueprint("health", __name__)


@bp.get("/health")
@bp.get("/health/live")
def live() -> Response:
    """The process answers; with what it serves and how busy it is."""
    settings = current_app.extensions["settings"]
    registry = current_app.extensions["registry"]
    spec = registry.catalog.resolve(None)
    state, phase, share = registry.status(spec.id)
    busy = [engine.busy() for engine in registry.engines()]
    details: dict[str, Any] = {
        "model_state": state,
        "running": sum(running for running, _ in busy),
        "waiting": sum(waiting for _, waiting in busy),
    }
    if state == "loading":
        details |= {"phase": phase, "progress": round(share, 3)}
    elif state == "failed":
        details["reason"] = phase
    return json_response(
        {
            "status": "healthy",
            "model": spec.id,
            "model_dir": spec.source,
            "max_concurrent": settings.max_concurrent,
            "api_auth_enabled": False,
            "version": VERSION,
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "details": details,
        }
    )


@bp.get("/health/ready")
def ready() -> Response:
    """503 while the default model loads and after that failed, until it has loaded; a model that nobody has
    asked for yet does not count against it.
    """
    registry = current_app.extensions["registry"]
    state, phase, share = registry.status(registry.catalog.default)
    if state == "loading":
        return json_response({"status": "loading", "phase": phase, "progress": round(share, 3)}, 503)
    if state == "failed":
        return json_response({"status": "unhealthy", "reason": phase}, 503)
    return json_response({"status": "healthy"})
