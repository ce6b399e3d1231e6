"""OpenAI's endpoints."""

from flask import Blueprint, Response, current_app, request

from app.routes.hooks import client_left, json_body, json_response
from app.routes.sse import stream
from app.schemas import chat

bp = Blueprint("openai", __name__)


@bp.post("/v1/chat/completions")
def chat_completions() -> Response:
    """A chat completion, whole or streamed."""
    asked = chat.load(json_body())
    completion = current_app.extensions["completions"].start(asked, client_left(request))
    return stream(completion) if asked.stream else json_response(completion.collect())
