"""POST /v1/chat/completions: what may come in, and the ChatRequest that it becomes."""

import logging
from dataclasses import replace
from typing import Any

from marshmallow import ValidationError, fields, post_load, pre_load

from app.engine.types import ChatRequest, ImagePart, Message, Template
from app.schemas.content import MAX_MESSAGES, MessageSchema
from app.schemas.fields import Flag, Integer, Items, Mapping, Text, checked, one_of
from app.schemas.sampling import (
    MAX_TOP_LOGPROBS,
    NO_MEANING,
    SamplingSchema,
    check_min_tokens,
    wishes,
)
from app.schemas.structured import ResponseFormatSchema, StructuredOutputsSchema, grammar
from app.schemas.tools import MAX_TOOLS, ToolChoice, ToolSchema, check_answers, tools

log = logging.getLogger(__name__)

NOT_YET: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "mm_processor_kwargs": ({},),
    "return_media_info": (False,),
}
"""Fields of the contract that this version refuses, with the values that ask for nothing."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
MAX_VARIABLES = 64
OWN_VARIABLES = {
    "conversation", "messages", "chat_template", "tools", "documents", "add_generation_prompt",
    "continue_final_message", "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask",
    "processor_kwargs", "tokenizer_kwargs", "sanitize_control_tokens", "load_audio_from_video", "padding",
    "truncation", "max_length",
}  # fmt: skip
"""Arguments of transformers' apply_chat_template that are no variables of a template."""


class Variables(Mapping):
    """Variables for the chat template."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> dict[str, Any]:
        given: dict[str, Any] = super()._deserialize(value, attr, data, **options)
        if len(given) > MAX_VARIABLES:
            raise ValidationError(f"has {len(given)} entries; the most is {MAX_VARIABLES}")
        for name in given:
            if not name.isidentifier() or name in OWN_VARIABLES:
                raise ValidationError(f"names {name[:50]!r}, which is no variable of a template")
        return given


class ChatSchema(SamplingSchema):
    """The body of a chat completion."""

    messages = Items(fields.Nested(MessageSchema), least=1, most=MAX_MESSAGES, required=True)
    max_tokens = Integer(low=1, high=10**9, allow_none=True)
    max_completion_tokens = Integer(low=1, high=10**9, allow_none=True)
    logprobs = Flag(allow_none=True)
    top_logprobs = Integer(low=0, high=MAX_TOP_LOGPROBS, allow_none=True)
    enable_thinking = Flag(allow_none=True)
    reasoning_effort = Text(validate=one_of(*EFFORTS), allow_none=True)
    max_thinking_tokens = Integer(low=0, high=10**9, allow_none=True)
    chat_template_kwargs = Variables(allow_none=True)
    add_generation_prompt = Flag(allow_none=True)
    continue_final_message = Flag(allow_none=True)
    tools = Items(fields.Nested(ToolSchema), most=MAX_TOOLS, allow_none=True)
    tool_choice = ToolChoice(allow_none=True)
    parallel_tool_calls = Flag(allow_none=True)
    response_format = fields.Nested(ResponseFormatSchema, allow_none=True)
    structured_outputs = fields.Nested(StructuredOutputsSchema, allow_none=True)
    store = Flag(**NO_MEANING)
    metadata = Mapping(**NO_MEANING)
    service_tier = Text(validate=one_of("auto", "default", "flex", "scale", "priority", "fast"), **NO_MEANING)
    verbosity = Text(validate=one_of("low", "medium", "high"), **NO_MEANING)
    prediction = Mapping(**NO_MEANING)
    prompt_cache_key = Text(**NO_MEANING)
    prompt_cache_options = Mapping(**NO_MEANING)
    prompt_cache_retention = Text(validate=one_of("in_memory", "24h"), **NO_MEANING)
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
        most = short if long is None else long
        check_min_tokens(given.get("min_tokens", 0), most)
        check_answers(given["messages"])
        return ChatRequest(
            **wishes(given),
            messages=tuple(_placed(message, index) for index, message in enumerate(given["messages"])),
            max_tokens=most,
            max_tokens_param="max_tokens" if long is None else "max_completion_tokens",
            top_logprobs=_top_logprobs(given),
            template=_template(given),
            max_thinking_tokens=given.get("max_thinking_tokens"),
            tools=tools(given),
            grammar=grammar(given),
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


def _top_logprobs(given: dict[str, Any]) -> int | None:
    if given.get("logprobs"):
        return int(given.get("top_logprobs", 0))
    if given.get("top_logprobs"):
        raise ValidationError({"top_logprobs": ["needs logprobs to be true"]})
    return None


def _template(given: dict[str, Any]) -> Template:
    """How the conversation is to be rendered."""
    variables = dict(given.get("chat_template_kwargs", {}))
    effort = given.get("reasoning_effort")
    wanted = {
        "enable_thinking": given.get("enable_thinking"),
        "chat_template_kwargs": variables.pop("enable_thinking", None),
        "reasoning_effort": None if effort is None else effort != "none",
    }
    said = {name: value for name, value in wanted.items() if value is not None}
    if len(set(said.values())) > 1:
        raise ValidationError({next(iter(said)): [f"contradicts {list(said)[-1]}"]})
    thinking = next(iter(said.values()), None)
    if thinking not in (True, False, None):
        raise ValidationError({"chat_template_kwargs": {"enable_thinking": ["must be true or false"]}})
    if effort is not None:
        variables.setdefault("reasoning_effort", effort)
    going_on = given.get("continue_final_message", False)
    if going_on and given["messages"][-1].role != "assistant":
        raise ValidationError({"continue_final_message": ["needs the last message to be the assistant's"]})
    if going_on and given.get("add_generation_prompt"):
        raise ValidationError({"add_generation_prompt": ["contradicts continue_final_message"]})
    return Template(
        thinking,
        tuple(sorted(variables.items())),
        add_generation_prompt=given.get("add_generation_prompt", not going_on),
        continue_final_message=going_on,
    )


def _like(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) in (int, float) else (type(value),)
