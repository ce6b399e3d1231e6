"""The catalogue as OpenAI lists models."""

from flask import Blueprint, Response, current_app

from app.errors import ModelNotFound
from app.routes.describe import describe
from app.routes.hooks import json_response
from app.schemas import answers
from app.services import wire

bp = Blueprint("models", __name__)
EXAMPLE = {
    "id": "demo",
    "object": "model",
    "created": 1763700000,
    "owned_by": "vlserve",
    "loaded": True,
    "modalities": ["text", "image", "video"],
    "context_length": 4096,
    "engine": "transformers",
}


@bp.get("/v1/models")
@describe(answer=answers.ModelListSchema, example={"object": "list", "data": [EXAMPLE]})
def list_models() -> Response:
    """Every model of the catalogue."""
    return json_response({"object": "list", "data": wire.models(current_app.extensions["registry"])})


@bp.get("/v1/models/<path:name>")
@describe(answer=answers.ModelSchema, example=EXAMPLE, errors=(ModelNotFound,))
def one_model(name: str) -> Response:
    """One model, by id or alias."""
    return json_response(wire.model(current_app.extensions["registry"], name))
