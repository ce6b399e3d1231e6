"""What a message may hold: a string, or a list of parts of text, pictures and videos."""

from dataclasses import replace
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load

from app.engine.media_types import ImagePart, VideoPart
from app.engine.types import Message, Part, TextPart
from app.schemas.fields import Body, Items, SchemaOf, Text, always, check_length, one_of
from app.schemas.media import MediaPartSchema, media_options
from app.schemas.tools import MAX_TOOLS, ToolCallSchema

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_PARTS = 1024
MAX_MESSAGES = 4096
MAX_FRAMES = 10_000
LOW_DETAIL = 512 * 512
"""Pixels of a picture with detail low, as OpenAI has it."""
SOURCE = "data:, http:, https: or file: URL, or a path"
MOST = 10**9
"""Characters of one: of a data: URL --max-body-mb and --max-media-mb are the limits."""
NEEDS = {role: ("content",) for role in ROLES if role != "assistant"} | {"tool": ("content", "tool_call_id")}
"""What a message of a role cannot do without; an assistant's content may be null or absent."""


class TextPartSchema(Body):
    """{"type": "text", "text": …}"""

    type = always("text")
    text = Text(required=True)


class ImageUrlSchema(Body):
    """{"url": …, "detail": "auto" | "low" | "high" | "original"}"""

    url = Text(
        required=True, least=1, most=MOST, metadata={"description": f"a picture, or a video: {SOURCE}"}
    )
    detail = Text(
        validate=one_of("auto", "low", "high", "original"),
        allow_none=True,
        metadata={"description": "low: 512 × 512 pixels at most; the others: as the model resizes"},
    )


class VideoUrlSchema(Body):
    """{"url": …}"""

    url = Text(required=True, least=1, most=MOST, metadata={"description": f"a video: {SOURCE}"})


class Url(fields.Nested):
    """An object with the URL, or in a common short form the URL alone."""

    def __init__(self, schema: type[Body]) -> None:
        super().__init__(schema, required=True)

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Either form, for the document."""
        return {"anyOf": [of(self.schema), of(self.schema.fields["url"])]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, *more: Any, **options: Any) -> Any:
        whole = {"url": value} if isinstance(value, str) else value
        return super()._deserialize(whole, attr, data, *more, **options)


class ImageUrlPartSchema(MediaPartSchema):
    """{"type": "image_url", "image_url": {"url": …}}, OpenAI's form of a picture."""

    type = always("image_url")
    image_url = Url(ImageUrlSchema)


class ImagePartSchema(MediaPartSchema):
    """{"type": "image", "image": URL}, Qwen's form of a picture."""

    type = always("image")
    image = Text(
        required=True, least=1, most=MOST, metadata={"description": f"a picture, or a video: {SOURCE}"}
    )


class VideoUrlPartSchema(MediaPartSchema):
    """{"type": "video_url", "video_url": {"url": …}}, the common form of a video."""

    type = always("video_url")
    video_url = Url(VideoUrlSchema)


class Frames(fields.Field[Any]):
    """The URL of a video, or a list of pictures' URLs, its frames."""

    text = Text(least=1, most=MOST)
    several = Items(Text(least=1, most=MOST), least=1, most=MAX_FRAMES)

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Either form, for the document."""
        return {"anyOf": [of(self.text), of(self.several)]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        if isinstance(value, list):
            found: Any = self.several.deserialize(value)
            return tuple(found)
        return self.text.deserialize(value)


class VideoPartSchema(MediaPartSchema):
    """{"type": "video", "video": URL or a list of URLs of frames}, Qwen's form of a video."""

    type = always("video")
    video = Frames(required=True, metadata={"description": f"a video, or a list of its frames: {SOURCE}"})


class RefusalPartSchema(Body):
    """{"type": "refusal", "refusal": …}, what OpenAI's models say when they will not; a text here."""

    type = always("refusal")
    refusal = Text(required=True)


PARTS: dict[str, Schema] = {
    "text": TextPartSchema(),
    "refusal": RefusalPartSchema(),
    "image_url": ImageUrlPartSchema(),
    "image": ImagePartSchema(),
    "video_url": VideoUrlPartSchema(),
    "video": VideoPartSchema(),
}


class Content(fields.Field[tuple[Part, ...]]):
    """A string or a non-empty list of parts, as a tuple of parts whose `param` is relative to the message."""

    text = Text()

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Either form, for the document."""
        parts = {"anyOf": [of(part) for part in PARTS.values()], "discriminator": {"propertyName": "type"}}
        several = {"type": "array", "minItems": 1, "maxItems": MAX_PARTS, "items": parts}
        return {"anyOf": [of(self.text), several]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> tuple[Part, ...]:
        if isinstance(value, str):
            return (TextPart(self.text.deserialize(value)),)
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
    """One message; content may be null or absent for an assistant only, who then calls or refuses."""

    role = Text(required=True, validate=one_of(*ROLES))
    content = Content(
        allow_none=True, metadata={"description": "a text, or parts of text, pictures and videos"}
    )
    name = Text(most=256, allow_none=True, metadata={"description": "no meaning here"})
    refusal = Text(allow_none=True, metadata={"description": "what an assistant said who would not"})
    tool_call_id = Text(
        least=1, most=256, allow_none=True, metadata={"description": "the call that a tool's message answers"}
    )
    tool_calls = Items(
        fields.Nested(ToolCallSchema),
        most=MAX_TOOLS,
        allow_none=True,
        metadata={"description": "what an assistant's message called"},
    )

    @classmethod
    def json_schema(cls, of: SchemaOf) -> dict[str, Any]:
        """What the fields alone do not say, for the document."""
        there, no_calls = {"not": {"type": "null"}}, {"tool_calls": {"maxItems": 0}}
        needs = [
            {
                "if": {"required": ["role"], "properties": {"role": {"const": role}}},
                "then": {
                    "required": list(names),
                    "properties": dict.fromkeys(names, there) | no_calls,
                },
            }
            for role, names in NEEDS.items()
        ]
        says = [{"required": [name], "properties": {name: there}} for name in ("content", "refusal")]
        says.append(
            {"required": ["tool_calls"], "properties": {"tool_calls": {"type": "array", "minItems": 1}}}
        )
        assistant = {"required": ["role"], "properties": {"role": {"const": "assistant"}}}
        return {"allOf": [*needs, {"if": assistant, "then": {"anyOf": says}}]}

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Message:
        role, calls = data["role"], data.get("tool_calls") or ()
        for name in NEEDS.get(role, ()):
            if data.get(name) is None:
                raise ValidationError({name: ["is missing"]})
        if calls and role != "assistant":
            raise ValidationError({"tool_calls": ["is for assistants only"]})
        content = data.get("content")
        if content is None and data.get("refusal") is not None:
            content = (TextPart(data["refusal"]),)
        if content is None and not calls:
            raise ValidationError({"content": ["is missing, and there are no tool_calls"]})
        return Message(
            "system" if role == "developer" else role,
            content or (),
            tuple(calls),
            data["tool_call_id"] if role == "tool" else None,
        )


def _part(part: Any, place: str) -> Part:
    if not isinstance(part, dict):
        raise ValidationError("must be an object with a type")
    kind = part.get("type")
    schema = PARTS.get(kind) if isinstance(kind, str) else None
    if schema is None:
        raise ValidationError({"type": [f"must be one of {', '.join(PARTS)}"]})
    loaded = schema.load(part)
    if kind in ("text", "refusal"):
        return TextPart(loaded[kind])
    return _media(str(kind), loaded, place)


def _media(kind: str, loaded: dict[str, Any], place: str) -> Part:
    options = media_options(loaded.get("mm_processor_kwargs"))
    if kind in ("image_url", "video_url"):
        source, param = loaded[kind]["url"], f"{place}.{kind}.url"
        if loaded[kind].get("detail") == "low":
            options = replace(options, most_pixels=LOW_DETAIL)
    else:
        source, param = loaded[kind], f"{place}.{kind}"
    return (ImagePart if kind.startswith("image") else VideoPart)(source, param, None, options)
