"""The catalogue as OpenAI lists models."""

from flask import Blueprint, Response, current_app

from app.routes.hooks import json_response
from app.services import wire

bp = Blueprint("models", __name__)


@bp.get("/v1/models")
def list_models() -> Response:
    """Every model of the catalogue."""
    return json_response({"object": "list", "data": wire.models(current_app.extensions["registry"])})


@bp.get("/v1/models/<path:name>")
def one_model(name: str) -> Response:
    """One model, by id or alias."""
    return json_response(wire.model(current_app.extensions["registry"], name))
