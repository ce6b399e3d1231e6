"""POST /v1/completions, /v1/tokenize and /v1/detokenize: what may come in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marshmallow import ValidationError, fields, post_load, pre_load

from app.engine.types import ChatRequest, TextRequest
from app.schemas.chat import ChatSchema
from app.schemas.fields import Body, Flag, Integer, Items, Text, check_length, checked
from app.schemas.sampling import (
    MAX_CHOICES,
    MAX_TOKEN,
    MAX_TOP_LOGPROBS,
    SamplingSchema,
    check_min_tokens,
    wishes,
)

MAX_PROMPTS = 128
MAX_IDS = 10_000_000

Prompt = str | tuple[int, ...]


class Prompts(fields.Field[tuple[Prompt, ...]]):
    """A string, a list of strings, a list of token ids, or a list of such lists: as a tuple of prompts."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> tuple[Prompt, ...]:
        if isinstance(value, str):
            return (Text().deserialize(value),)
        if not isinstance(value, list):
            raise ValidationError("must be a string, token ids, or a list of either")
        if value and all(type(one) is int for one in value):
            return (_ids(value),)
        check_length(value, 1, MAX_PROMPTS)
        if all(isinstance(one, str) for one in value):
            return tuple(str(Text().deserialize(one)) for one in value)
        if all(isinstance(one, list) for one in value):
            return tuple(_ids(one) for one in value)
        raise ValidationError("must be a string, token ids, or a list of either, not a mixture")


class CompletionSchema(SamplingSchema):
    """The body of a text completion."""

    prompt = Prompts(required=True)
    max_tokens = Integer(low=0, high=10**9, allow_none=True)
    echo = Flag(allow_none=True)
    best_of = Integer(low=1, high=MAX_CHOICES, allow_none=True)
    logprobs = Integer(low=0, high=MAX_TOP_LOGPROBS, allow_none=True)

    @pre_load
    def refuse_what_is_not_supported(self, data: Any, **_: Any) -> Any:
        if isinstance(data, dict) and data.get("suffix"):
            raise ValidationError({"suffix": ["is not supported: no model here fills in the middle"]})
        return data

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> TextRequest:
        given = {name: value for name, value in data.items() if value is not None}
        n = given.get("n", 1)
        best_of = given.get("best_of", n)
        if best_of < n:
            raise ValidationError({"best_of": [f"is {best_of}, less than n, {n}"]})
        if best_of > n and given.get("stream"):
            raise ValidationError({"best_of": ["cannot be streamed: which are the best is known at the end"]})
        most = given.get("max_tokens", 16)  # OpenAI's default
        if not most and not given.get("echo"):
            raise ValidationError({"max_tokens": ["is 0, which leaves nothing to answer without echo"]})
        check_min_tokens(given.get("min_tokens", 0), most)
        return TextRequest(
            **wishes(given),
            prompts=given["prompt"],
            max_tokens=most,
            echo=given.get("echo", False),
            best_of=best_of,
            top_logprobs=given.get("logprobs"),
        )


class TokenizeSchema(Body):
    """A text (`prompt`), or messages and what else decides how they are rendered."""

    model = Text(most=1000, least=1, allow_none=True)
    prompt = Text(allow_none=True)
    return_token_strs = Flag(allow_none=True)


class DetokenizeSchema(Body):
    """{"tokens": [1, 2, 3]}"""

    model = Text(most=1000, least=1, allow_none=True)
    tokens = Items(Integer(low=0, high=MAX_TOKEN), most=MAX_IDS, required=True)


@dataclass(frozen=True)
class TokenizeRequest:
    """What is to be tokenized, and whether each token's text is wanted."""

    source: ChatRequest | TextRequest
    strings: bool


def load(body: Any) -> TextRequest:
    """The completion request of a parsed body; raises InvalidRequest."""
    request: TextRequest = checked(CompletionSchema(), body)
    return request


def load_tokenize(body: Any) -> TokenizeRequest:
    """The request of a parsed body, of /v1/tokenize; raises InvalidRequest."""
    given = checked(TokenizeSchema(), body)
    strings = bool(given.get("return_token_strs"))
    if given.get("prompt") is None:
        chat: ChatRequest = checked(ChatSchema(), body)
        return TokenizeRequest(chat, strings)
    return TokenizeRequest(TextRequest(prompts=(given["prompt"],), model=given.get("model")), strings)


def load_detokenize(body: Any) -> tuple[str | None, list[int]]:
    """Model and tokens of a parsed body, of /v1/detokenize; raises InvalidRequest."""
    given = checked(DetokenizeSchema(), body)
    return given.get("model"), given["tokens"]


def _ids(value: Sequence[Any]) -> tuple[int, ...]:
    found = Items(Integer(low=0, high=MAX_TOKEN), least=1, most=MAX_IDS).deserialize(value)
    return tuple(int(one) for one in found if one is not None)
