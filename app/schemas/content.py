"""What a message may hold: a string, or a list of parts of text and pictures."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load

from app.engine.types import ImagePart, Message, Part, TextPart
from app.schemas.fields import Body, Items, Text, check_length, one_of
from app.schemas.tools import MAX_TOOLS, ToolCallSchema

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_PARTS = 1024
MAX_MESSAGES = 4096


class TextPartSchema(Body):
    """{"type": "text", "text": …}"""

    type = Text(required=True)
    text = Text(required=True)


class ImageUrlSchema(Body):
    """{"url": …, "detail": "auto" | "low" | "high" | "original"}; detail has no meaning here"""

    url = Text(required=True, least=1)
    detail = Text(validate=one_of("auto", "low", "high", "original"), allow_none=True)


class ImageUrlPartSchema(Body):
    """{"type": "image_url", "image_url": {"url": …}}, OpenAI's form of a picture."""

    type = Text(required=True)
    image_url = fields.Nested(ImageUrlSchema, required=True)


class ImagePartSchema(Body):
    """{"type": "image", "image": URL}, Qwen's form of a picture."""

    type = Text(required=True)
    image = Text(required=True, least=1)


class RefusalPartSchema(Body):
    """{"type": "refusal", "refusal": …}, what OpenAI's models say when they will not; a text here."""

    type = Text(required=True)
    refusal = Text(required=True)


PARTS: dict[str, Schema] = {
    "text": TextPartSchema(),
    "refusal": RefusalPartSchema(),
    "image_url": ImageUrlPartSchema(),
    "image": ImagePartSchema(),
}


class Content(fields.Field[tuple[Part, ...]]):
    """A string or a non-empty list of parts, as a tuple of parts whose `param` is relative to the message."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> tuple[Part, ...]:
        if isinstance(value, str):
            return (TextPart(Text().deserialize(value)),)
        if not isinstance(value, list):
            raise ValidationError("must be a string or a list of parts")
        check_length(value, 1, MAX_PARTS)
        parts: list[Part] = []
        problems: dict[int, Any] = {}
        for index, part in enumerate(value):
            try:
                parts.append(_part(part, f"content[{index}]"))
            except ValidationError as error:
                problems[index] = error.messages
                break
        if problems:
            raise ValidationError(problems)
        return tuple(parts)


class MessageSchema(Body):
    """One message; content may be null or absent for an assistant only."""

    role = Text(required=True, validate=one_of(*ROLES))
    content = Content(allow_none=True)
    name = Text(most=256, allow_none=True)
    tool_call_id = Text(most=256, allow_none=True)
    tool_calls = Items(fields.Nested(ToolCallSchema), most=MAX_TOOLS, allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Message:
        role, parts, calls = data["role"], data.get("content"), data.get("tool_calls") or ()
        if parts is None:
            if role != "assistant":
                raise ValidationError({"content": ["is missing"]})
            parts = ()
        if calls and role != "assistant":
            raise ValidationError({"tool_calls": ["is for assistants only"]})
        if role != "tool":
            return Message("system" if role == "developer" else role, parts, tuple(calls))
        if not data.get("tool_call_id"):
            raise ValidationError({"tool_call_id": ["is missing"]})
        return Message(role, parts, tool_call_id=data["tool_call_id"])


def _part(part: Any, place: str) -> Part:
    if not isinstance(part, dict):
        raise ValidationError("must be an object with a type")
    kind = part.get("type")
    if kind in ("video_url", "video"):
        raise ValidationError({"type": [f"{kind} is not supported yet"]})
    schema = PARTS.get(kind) if isinstance(kind, str) else None
    if schema is None:
        raise ValidationError({"type": [f"must be one of {', '.join(PARTS)}"]})
    if kind == "image_url" and isinstance(part.get("image_url"), str):
        part = part | {"image_url": {"url": part["image_url"]}}  # a common short form
    loaded = schema.load(part)
    if kind in ("text", "refusal"):
        return TextPart(loaded[kind])
    if kind == "image":
        return ImagePart(loaded["image"], f"{place}.image")
    return ImagePart(loaded["image_url"]["url"], f"{place}.image_url.url")
