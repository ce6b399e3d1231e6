"""The catalogue as OpenAI lists models."""

from flask import Blueprint, Response, current_app

from app.engine.registry import ModelRegistry
from app.routes.hooks import json_response
from app.services import wire

bp = Blueprint("models", __name__)


@bp.get("/v1/models")
def list_models() -> Response:
    """Every model of the catalogue."""
    registry = _registry()
    loaded = {engine.spec.id: engine for engine in registry.engines()}
    rows = [wire.model(spec, registry.catalog, loaded.get(spec.id)) for spec in registry.catalog]
    return json_response({"object": "list", "data": rows})


@bp.get("/v1/models/<path:name>")
def one_model(name: str) -> Response:
    """One model, by id or alias."""
    registry = _registry()
    spec = registry.catalog.resolve(name)
    loaded = {engine.spec.id: engine for engine in registry.engines()}
    return json_response(wire.model(spec, registry.catalog, loaded.get(spec.id)))


def _registry() -> ModelRegistry:
    registry: ModelRegistry = current_app.extensions["registry"]
    return registry
