"""OpenAI's endpoints that generate, and those that tell about tokens."""

from flask import Blueprint, Response, current_app, request

from app.errors import Draining, ModelLoadFailed, ModelNotFound, OutOfMemory, Overloaded, RequestTimeout
from app.routes.describe import GENERATION, describe
from app.routes.hooks import client_left, json_body, json_response
from app.routes.sse import stream
from app.schemas import answers, chat, text
from app.services import wire
from app.services.completion import Completions

bp = Blueprint("openai", __name__)
TOKENS = (ModelNotFound, RequestTimeout, ModelLoadFailed, OutOfMemory, Overloaded, Draining)
"""What can go wrong where a model's tokenizer is asked."""
USAGE = {
    "prompt_tokens": 6,
    "completion_tokens": 8,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 0, "video_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
CHAT = {
    "id": "chatcmpl-65c8700f6c5241399eb4b46fcfc75e30",
    "object": "chat.completion",
    "created": 1795311478,
    "model": "demo",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "A large red circle at the top.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
"""An answer, as an example; and one of /v1/completions."""
TEXT = {
    "id": "cmpl-aa2b76cf7d7f473cb22de4fec85ad733",
    "object": "text_completion",
    "created": 1795311480,
    "model": "demo",
    "choices": [{"index": 0, "text": " top left.", "logprobs": None, "finish_reason": "stop"}],
    "usage": USAGE,
}
TOKENIZED = {"count": 2, "max_model_len": 4096, "tokens": [779, 0], "token_strs": None}


@bp.post("/v1/chat/completions")
@describe(
    body=chat.ChatSchema,
    example={"messages": [{"role": "user", "content": "Hello! What can you do?"}]},
    answered=CHAT,
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
    answered=TEXT,
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
@describe(
    body=text.TokenizeSchema,
    example={"prompt": "Hello!"},
    answered=TOKENIZED,
    answer=answers.TokensSchema,
    errors=TOKENS,
)
def tokenize() -> Response:
    """The tokens of a text, or of messages as the model's template renders them."""
    asked = text.load_tokenize(json_body())
    tokens = _completions().tokenize(asked.source, client_left(request))
    return json_response(
        wire.tokens(tokens.ids, tokens.context_length, tokens.bytes if asked.strings else None)
    )


@bp.post("/v1/detokenize")
@describe(
    body=text.DetokenizeSchema,
    example={"tokens": [779, 0]},
    answered={"prompt": "Hello!"},
    answer=answers.DetokenizedSchema,
    errors=TOKENS,
)
def detokenize() -> Response:
    """The text of tokens."""
    model, ids = text.load_detokenize(json_body())
    return json_response({"prompt": _completions().detokenize(model, ids, client_left(request))})


def _completions() -> Completions:
    found: Completions = current_app.extensions["completions"]
    return found
