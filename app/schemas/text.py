"""POST /v1/completions, /v1/tokenize and /v1/detokenize: what may come in."""

from dataclasses import dataclass
from typing import Any

from marshmallow import ValidationError, fields, post_load, pre_load

from app.engine.types import ChatRequest, TextRequest
from app.errors import InvalidRequest
from app.schemas.chat import ChatSchema
from app.schemas.fields import Body, Flag, Integer, Items, Problem, SchemaOf, Text, checked
from app.schemas.sampling import (
    MAX_CHOICES,
    MAX_TOKEN,
    MAX_TOP_LOGPROBS,
    MODEL,
    SamplingSchema,
    about,
    check_min_tokens,
    wishes,
)

MAX_PROMPTS = 128
CHAT_ONLY = ("structured_outputs", "response_format", "tools")
"""Fields of a chat completion that would hold an answer to something, and are not to be passed over."""
MAX_IDS = 10_000_000

Prompt = str | tuple[int, ...]


class Prompts(fields.Field[tuple[Prompt, ...]]):
    """A string, a list of strings, a list of token ids, or a list of such lists: as a tuple of prompts."""

    text = Text()
    ids = Items(Integer(low=0, high=MAX_TOKEN), least=1, most=MAX_IDS)
    texts = Items(text, least=1, most=MAX_PROMPTS)
    lists = Items(ids, least=1, most=MAX_PROMPTS)

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """The four forms, for the document."""
        return {"anyOf": [of(self.text), of(self.texts), of(self.ids), of(self.lists)]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> tuple[Prompt, ...]:
        if isinstance(value, str):
            return (self.text.deserialize(value),)
        if not isinstance(value, list):
            raise ValidationError("must be a string, token ids, or a list of either")
        found: Any
        if value and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
            found = self.ids.deserialize(value)
            return (tuple(found),)
        if all(isinstance(one, str) for one in value):
            found = self.texts.deserialize(value)
            return tuple(found)
        if all(isinstance(one, list) for one in value):
            found = self.lists.deserialize(value)
            return tuple(tuple(ids) for ids in found)
        raise ValidationError("must be a string, token ids, or a list of either, not a mixture")


class CompletionSchema(SamplingSchema):
    """The body of a text completion."""

    prompt = Prompts(required=True, metadata={"description": "a text, token ids, or a list of either"})
    max_tokens = Integer(low=0, high=10**9, **about("at most so many, else 16; 0 only with echo"))
    echo = Flag(**about("each choice begins with its prompt"))
    best_of = Integer(
        low=1,
        high=MAX_CHOICES,
        **about("so many are made, of which the n likeliest are given; not in a stream"),
    )
    logprobs = Integer(low=0, high=MAX_TOP_LOGPROBS, **about("tell so many of the likeliest tokens"))

    @classmethod
    def json_schema(cls, of: SchemaOf) -> dict[str, Any]:
        """What the fields alone do not say, for the document."""
        suffix = {"enum": [None, ""], "description": "not supported: no model here fills in the middle"}
        return {"properties": {"suffix": suffix}}

    @pre_load
    def refuse_what_is_not_supported(self, data: Any, **_: Any) -> Any:
        if isinstance(data, dict) and data.get("suffix") not in (None, ""):
            raise ValidationError({"suffix": ["is not supported: no model here fills in the middle"]})
        for name in CHAT_ONLY:
            if isinstance(data, dict) and data.get(name):
                raise ValidationError(
                    {name: [Problem("is for chat completions only", "unsupported_parameter")]}
                )
        return data

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> TextRequest:
        given = {name: value for name, value in data.items() if value is not None}
        n = given.get("n", 1)
        best_of = given.get("best_of", n)
        if best_of < n:
            raise ValidationError({"best_of": [Problem(f"is {best_of}, less than n, {n}")]})
        if best_of > n and given.get("stream"):
            problem = Problem("cannot be streamed: which are the best is known at the end")
            raise ValidationError({"best_of": [problem]})
        most = given.get("max_tokens", 16)  # OpenAI's default
        if not most and not given.get("echo"):
            problem = Problem("is 0, which leaves nothing to answer without echo")
            raise ValidationError({"max_tokens": [problem]})
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

    model = Text(**MODEL)
    prompt = Text(**about("the text; without it messages are expected"))
    return_token_strs = Flag(**about("also the text of each token"))

    @classmethod
    def json_schema(cls, of: SchemaOf) -> dict[str, Any]:
        """Its two forms, for the document."""
        text = {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}}
        return {"anyOf": [text, of(ChatSchema())]}


class DetokenizeSchema(Body):
    """{"tokens": [1, 2, 3]}"""

    model = Text(**MODEL)
    tokens = Items(
        Integer(low=0, high=MAX_TOKEN),
        most=MAX_IDS,
        required=True,
        metadata={"description": "token ids"},
    )


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
    if given.get("prompt") is not None and body.get("messages") is not None:
        raise InvalidRequest(
            "prompt and messages are both there; send one of them.",
            param="messages",
            code="invalid_parameter_combination",
        )
    if given.get("prompt") is None:
        chat: ChatRequest = checked(ChatSchema(), body)
        return TokenizeRequest(chat, strings)
    return TokenizeRequest(TextRequest(prompts=(given["prompt"],), model=given.get("model")), strings)


def load_detokenize(body: Any) -> tuple[str | None, list[int]]:
    """Model and tokens of a parsed body, of /v1/detokenize; raises InvalidRequest."""
    given = checked(DetokenizeSchema(), body)
    return given.get("model"), given["tokens"]
