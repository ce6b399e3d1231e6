"""POST /v1/chat/completions: what may come in, and the ChatRequest that it becomes."""

import logging
from dataclasses import replace
from typing import Any

from marshmallow import ValidationError, fields, post_load, pre_load

from app.engine.types import ChatRequest, ImagePart, Message
from app.schemas.content import MAX_MESSAGES, MessageSchema
from app.schemas.fields import Body, Flag, Integer, Items, Mapping, Number, Text, checked

log = logging.getLogger(__name__)

MAX_STOPS = 16
MAX_STOP_LENGTH = 500

NOT_YET: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "modalities": (["text"],),
    "audio": (),
    "top_k": (),
    "min_p": (0,),
    "repetition_penalty": (),
    "stop_token_ids": ([],),
    "min_tokens": (0,),
    "enable_thinking": (),
    "reasoning_effort": (),
    "max_thinking_tokens": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "mm_processor_kwargs": ({},),
    "return_media_info": (False,),
}
"""Fields of the contract that this version refuses, with the values that ask for nothing."""
NO_MEANING: dict[str, Any] = {"metadata": {"description": "no meaning here"}, "allow_none": True}
"""For OpenAI's fields that mean nothing here; their values are checked all the same."""


class StreamOptionsSchema(Body):
    """{"include_usage": true}"""

    include_usage = Flag(allow_none=True)


class Stop(fields.Field[tuple[str, ...]]):
    """A string or a list of strings."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> tuple[str, ...]:
        text = Text(least=1, most=MAX_STOP_LENGTH)
        if isinstance(value, str):
            return (text.deserialize(value),)
        if not isinstance(value, list):
            raise ValidationError("must be a string or a list of strings")
        return tuple(str(stop) for stop in Items(text, most=MAX_STOPS).deserialize(value))


class ChatSchema(Body):
    """The body of a chat completion."""

    model = Text(most=1000, least=1, allow_none=True)
    messages = Items(fields.Nested(MessageSchema), least=1, most=MAX_MESSAGES, required=True)
    max_tokens = Integer(low=1, high=10**9, allow_none=True)
    max_completion_tokens = Integer(low=1, high=10**9, allow_none=True)
    temperature = Number(low=0, high=2, allow_none=True)
    top_p = Number(above=0, high=1, allow_none=True)
    seed = Integer(low=-(2**63), high=2**63 - 1, allow_none=True)
    stop = Stop(allow_none=True)
    ignore_eos = Flag(allow_none=True)
    stream = Flag(allow_none=True)
    stream_options = fields.Nested(StreamOptionsSchema, allow_none=True)
    user = Text(**NO_MEANING)
    store = Flag(**NO_MEANING)
    metadata = Mapping(**NO_MEANING)
    service_tier = Text(**NO_MEANING)
    parallel_tool_calls = Flag(**NO_MEANING)
    verbosity = Text(**NO_MEANING)
    prediction = Mapping(**NO_MEANING)
    prompt_cache_key = Text(**NO_MEANING)
    prompt_cache_retention = Text(**NO_MEANING)
    safety_identifier = Text(**NO_MEANING)
    web_search_options = Mapping(**NO_MEANING)

    @pre_load
    def refuse_what_is_not_there_yet(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, dict):
            raise ValidationError("must be a JSON object")
        for name, neutral in NOT_YET.items():
            value = data.get(name)
            if value is not None and not any(
                value == same and type(value) in _like(same) for same in neutral
            ):
                raise ValidationError({name: ["is not supported by this version"]})
        known = self.fields.keys() | NOT_YET.keys()
        if unknown := sorted(str(name)[:50] for name in data if name not in known):
            log.debug("unknown fields ignored: %s", ", ".join(unknown[:20]))
        return data

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> ChatRequest:
        given = {name: value for name, value in data.items() if value is not None}
        long, short = given.get("max_completion_tokens"), given.get("max_tokens")
        if long is not None and short is not None and long != short:
            raise ValidationError({"max_tokens": ["differs from max_completion_tokens; send one of them"]})
        options = given.get("stream_options", {})
        if "stream_options" in given and not given.get("stream"):
            raise ValidationError({"stream_options": ["is for streams only: set stream to true"]})
        return ChatRequest(
            messages=tuple(_placed(message, index) for index, message in enumerate(given["messages"])),
            model=given.get("model"),
            max_tokens=short if long is None else long,
            max_tokens_param="max_tokens" if long is None else "max_completion_tokens",
            temperature=given.get("temperature"),
            top_p=given.get("top_p"),
            seed=given.get("seed"),
            stop=given.get("stop", ()),
            ignore_eos=given.get("ignore_eos", False),
            stream=given.get("stream", False),
            include_usage=bool(options.get("include_usage")),
        )


def load(body: Any) -> ChatRequest:
    """The request of a parsed body; raises InvalidRequest."""
    request: ChatRequest = checked(ChatSchema(), body)
    return request


def _placed(message: Message, index: int) -> Message:
    parts = tuple(
        replace(part, param=f"messages[{index}].{part.param}") if isinstance(part, ImagePart) else part
        for part in message.parts
    )
    return replace(message, parts=parts)


def _like(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) in (int, float) else (type(value),)
