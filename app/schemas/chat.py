"""POST /v1/chat/completions: what may come in, and the ChatRequest that it becomes."""

import logging
import re
from dataclasses import replace
from typing import Any

from marshmallow import ValidationError, fields, post_load, pre_load

from app.engine.media_types import MediaOptions, MediaPart
from app.engine.types import ChatRequest, Message, Template
from app.schemas.content import MAX_MESSAGES, MessageSchema
from app.schemas.fields import Flag, Integer, Items, Mapping, Problem, SchemaOf, Text, checked, one_of
from app.schemas.media import MediaOptionsSchema, media_options, merged
from app.schemas.sampling import (
    MAX_TOP_LOGPROBS,
    NO_MEANING,
    SamplingSchema,
    about,
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
    "chat_template": (),
}
"""Fields of the contract that this version refuses, with the values that ask for nothing."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
MAX_VARIABLES = 64
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
"""Pairs, and characters of each half."""
VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
OWN_VARIABLES = {
    "conversation", "messages", "chat_template", "tools", "documents", "add_generation_prompt",
    "continue_final_message", "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask",
    "processor_kwargs", "tokenizer_kwargs", "sanitize_control_tokens", "load_audio_from_video", "padding",
    "truncation", "max_length",
}  # fmt: skip
"""Arguments of transformers' apply_chat_template that are no variables of a template."""


class Variables(Mapping):
    """Variables for the chat template."""

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Their names, for the document."""
        names = {"pattern": f"^{VARIABLE}$", "not": {"enum": sorted(OWN_VARIABLES)}}
        known = {"enable_thinking": {"type": ["boolean", "null"]}}
        return {"maxProperties": MAX_VARIABLES, "propertyNames": names, "properties": known}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> dict[str, Any]:
        given: dict[str, Any] = super()._deserialize(value, attr, data, **options)
        if len(given) > MAX_VARIABLES:
            raise ValidationError(f"has {len(given)} entries; the most is {MAX_VARIABLES}")
        for name in given:
            if not re.fullmatch(VARIABLE, name) or name in OWN_VARIABLES:
                raise ValidationError(f"names {name[:50]!r}, which is no variable of a template")
        if not isinstance(given.get("enable_thinking"), bool | None):
            raise ValidationError({"enable_thinking": ["must be true or false"]})
        return given


class Metadata(Mapping):
    """OpenAI's metadata: a few texts with names."""

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Its bounds, for the document."""
        values = {"type": "string", "maxLength": MAX_METADATA_VALUE}
        names = {"maxLength": MAX_METADATA_KEY}
        return {"maxProperties": MAX_METADATA, "propertyNames": names, "additionalProperties": values}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> dict[str, Any]:
        given: dict[str, Any] = super()._deserialize(value, attr, data, **options)
        if len(given) > MAX_METADATA:
            raise ValidationError(f"has {len(given)} entries; the most is {MAX_METADATA}")
        for name, text in given.items():
            if len(name) > MAX_METADATA_KEY:
                raise ValidationError(f"has a key of {len(name)} characters; the most is {MAX_METADATA_KEY}")
            if not isinstance(text, str) or len(text) > MAX_METADATA_VALUE:
                problem = f"has a value that is no string of up to {MAX_METADATA_VALUE} characters: {name!r}"
                raise ValidationError(problem)
        return given


class ChatSchema(SamplingSchema):
    """The body of a chat completion."""

    messages = Items(
        fields.Nested(MessageSchema),
        least=1,
        most=MAX_MESSAGES,
        required=True,
        metadata={"description": "the conversation, oldest first"},
    )
    max_tokens = Integer(low=1, high=10**9, **about("at most so many; more than fits the context is a 400"))
    max_completion_tokens = Integer(
        low=1, high=10**9, **about("the same as max_tokens, of which one may be sent")
    )
    logprobs = Flag(**about("tell the log probabilities of the answer's tokens"))
    top_logprobs = Integer(
        low=0, high=MAX_TOP_LOGPROBS, **about("and of so many of the likeliest; needs logprobs")
    )
    enable_thinking = Flag(**about("whether the model is to think first; else as it likes"))
    reasoning_effort = Text(
        validate=one_of(*EFFORTS), **about("none is enable_thinking false, all others true")
    )
    max_thinking_tokens = Integer(low=0, high=10**9, **about("after so many the thought is closed"))
    chat_template_kwargs = Variables(**about("variables for the model's chat template"))
    add_generation_prompt = Flag(**about("false leaves the beginning of its turn to the model"))
    continue_final_message = Flag(**about("go on with the last message, which is the assistant's"))
    tools = Items(fields.Nested(ToolSchema), most=MAX_TOOLS, **about("the functions that the model may call"))
    tool_choice = ToolChoice(**about("which of them it must call"))
    parallel_tool_calls = Flag(**about("false ends the answer after its first call"))
    response_format = fields.Nested(ResponseFormatSchema, **about("JSON, or JSON of a schema"))
    structured_outputs = fields.Nested(
        StructuredOutputsSchema, **about("what response_format cannot say: a pattern, choices, a grammar")
    )
    mm_processor_kwargs = fields.Nested(
        MediaOptionsSchema, **about("how pictures and videos are resized, and which frames are taken")
    )
    return_media_info = Flag(**about("tell in the usage what was made of each picture and video"))
    store = Flag(**NO_MEANING)
    metadata = Metadata(**NO_MEANING)
    service_tier = Text(validate=one_of("auto", "default", "flex", "scale", "priority", "fast"), **NO_MEANING)
    verbosity = Text(validate=one_of("low", "medium", "high"), **NO_MEANING)
    prediction = Mapping(**NO_MEANING)
    prompt_cache_key = Text(**NO_MEANING)
    prompt_cache_options = Mapping(**NO_MEANING)
    prompt_cache_retention = Text(validate=one_of("in_memory", "24h"), **NO_MEANING)
    safety_identifier = Text(**NO_MEANING)
    web_search_options = Mapping(**NO_MEANING)

    @classmethod
    def json_schema(cls, of: SchemaOf) -> dict[str, Any]:
        """What the fields alone do not say, for the document."""
        text = "not supported by this version"
        not_yet = {name: {"enum": [None, *same], "description": text} for name, same in NOT_YET.items()}
        return {"properties": not_yet}

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
        if long is not None and short is not None:
            problem = Problem("is the same as max_completion_tokens; send one of them")
            raise ValidationError({"max_tokens": [problem]})
        most = short if long is None else long
        check_min_tokens(given.get("min_tokens", 0), most)
        check_answers(given["messages"])
        _check_one_form(given)
        return ChatRequest(
            **wishes(given),
            messages=tuple(
                _placed(message, index, media_options(given.get("mm_processor_kwargs")))
                for index, message in enumerate(given["messages"])
            ),
            media_info=given.get("return_media_info", False),
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


def _placed(message: Message, index: int, options: MediaOptions) -> Message:
    parts = tuple(
        replace(part, param=f"messages[{index}].{part.param}", options=merged(part.options, options))
        if isinstance(part, MediaPart)
        else part
        for part in message.parts
    )
    return replace(message, parts=parts)


def _top_logprobs(given: dict[str, Any]) -> int | None:
    if given.get("logprobs"):
        return int(given.get("top_logprobs", 0))
    if "top_logprobs" in given:
        raise ValidationError({"top_logprobs": [Problem("needs logprobs to be true")]})
    return None


def _check_one_form(given: dict[str, Any]) -> None:
    """Raise ValidationError for an answer that must be a call and something else."""
    must_call = given.get("tools") and given.get("tool_choice", "auto") not in ("auto", "none")
    if must_call and given.get("structured_outputs"):
        problem = "cannot be held to where tool_choice asks for a call"
        raise ValidationError({"structured_outputs": [Problem(problem)]})
    if must_call and given.get("continue_final_message"):
        problem = "is a text to go on with, where tool_choice asks for a call"
        raise ValidationError({"continue_final_message": [Problem(problem)]})
    choice, functions = given.get("tool_choice", "auto"), [one["function"] for one in given.get("tools", ())]
    held = must_call or (choice == "auto" and any(function.strict for function in functions))
    if held and given.get("ignore_eos"):
        problem = "contradicts calls that are held to a schema, which end when they are complete"
        raise ValidationError({"ignore_eos": [Problem(problem)]})


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
        raise ValidationError({next(iter(said)): [Problem(f"contradicts {list(said)[-1]}")]})
    thinking = next(iter(said.values()), None)
    if thinking is False and "max_thinking_tokens" in given:
        problem = f"is for thinking, which {next(iter(said))} turns off"
        raise ValidationError({"max_thinking_tokens": [Problem(problem)]})
    if effort is not None:
        variables.setdefault("reasoning_effort", effort)
    going_on = given.get("continue_final_message", False)
    if going_on and given["messages"][-1].role != "assistant":
        problem = Problem("needs the last message to be the assistant's")
        raise ValidationError({"continue_final_message": [problem]})
    if going_on and given.get("add_generation_prompt"):
        raise ValidationError({"add_generation_prompt": [Problem("contradicts continue_final_message")]})
    return Template(
        thinking,
        tuple(sorted(variables.items())),
        add_generation_prompt=given.get("add_generation_prompt", not going_on),
        continue_final_message=going_on,
    )


def _like(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) in (int, float) else (type(value),)
