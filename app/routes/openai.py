"""OpenAI's endpoints that generate, and those that tell about tokens."""

from flask import Blueprint, Response, current_app, request

from app.errors import Draining, ModelLoadFailed, ModelNotFound, OutOfMemory, RequestTimeout
from app.routes.describe import GENERATION, describe
from app.routes.hooks import client_left, json_body, json_response
from app.routes.sse import stream
from app.schemas import answers, chat, text
from app.services import wire
from app.services.completion import Completions

bp = Blueprint("openai", __name__)
TOKENS = (ModelNotFound, RequestTimeout, ModelLoadFailed, OutOfMemory, Draining)
"""What can go wrong where a model's tokenizer is asked."""


@bp.post("/v1/chat/completions")
@describe(
    body=chat.ChatSchema,
    example={"messages": [{"role": "user", "content": "Hello! What can you do?"}]},
    answer=answers.ChatCompletionSchema,
    events=answers.ChatChunkSchema,
    errors=GENERATION,
)
def chat_completions() -> Response:
    """A chat completion, whole or streamed."""
    asked = chat.load(json_body())
    completion = _completions().start(asked, client_left(request))
    return stream(completion) if asked.stream else json_response(completion.collect())


@bp.post("/v1/completions")
@describe(
    body=text.CompletionSchema,
    example={"prompt": "A large red circle at the", "max_tokens": 8},
    answer=answers.TextCompletionSchema,
    events=answers.TextChunkSchema,
    errors=GENERATION,
)
def completions() -> Response:
    """Text completions, whole or streamed."""
    asked = text.load(json_body())
    completion = _completions().start(asked, client_left(request))
    return stream(completion) if asked.stream else json_response(completion.collect())


@bp.post("/v1/tokenize")
@describe(body=text.TokenizeSchema, example={"prompt": "Hello!"}, answer=answers.TokensSchema, errors=TOKENS)
def tokenize() -> Response:
    """The tokens of a text, or of messages as the model's template renders them."""
    asked = text.load_tokenize(json_body())
    tokens = _completions().tokenize(asked.source, client_left(request))
    return json_response(
        wire.tokens(tokens.ids, tokens.context_length, tokens.bytes if asked.strings else None)
    )


@bp.post("/v1/detokenize")
@describe(
    body=text.DetokenizeSchema, example={"tokens": [5, 6]}, answer=answers.DetokenizedSchema, errors=TOKENS
)
def detokenize() -> Response:
    """The text of tokens."""
    model, ids = text.load_detokenize(json_body())
    return json_response({"prompt": _completions().detokenize(model, ids, client_left(request))})


def _completions() -> Completions:
    found: Completions = current_app.extensions["completions"]
    return found
