"""Structured output: OpenAI's response_format, and vLLM's structured_outputs for what it cannot say."""

import json
from typing import Any

from marshmallow import ValidationError, fields, post_load

from app.engine.types import Grammar
from app.schemas.fields import Body, Flag, Items, Matching, Problem, Text, one_of
from app.schemas.json_schema import MAX_SCHEMA, JsonSchemaField, JsonSchemaText, check_promise

MAX_CHOICES = 5000
MAX_REGEX = 10_000
MAX_GRAMMAR = 64 * 1024
FORMATS = ("text", "json_object", "json_schema")
KINDS = ("json", "regex", "choice", "grammar")


class NamedSchema(Body):
    """{"name": …, "schema": {…}, "strict": true}"""

    name = Matching("[a-zA-Z0-9_-]+", "must be of letters, digits, _ and -", required=True, most=64)
    description = Text(allow_none=True)
    schema = JsonSchemaField(allow_none=True)
    strict = Flag(allow_none=True)

    @post_load
    def check(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if data.get("strict") and data.get("schema"):
            check_promise(data["schema"], "schema")
        return data


class ResponseFormatSchema(Body):
    """{"type": "text" | "json_object" | "json_schema", "json_schema": {…}}"""

    type = Text(required=True, validate=one_of(*FORMATS))
    json_schema = fields.Nested(NamedSchema, allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Grammar | None:
        if data["type"] == "text":
            return None
        if data["type"] == "json_object":
            return Grammar("json", '{"type": "object"}', "response_format")
        named = data.get("json_schema")
        if named is None:
            raise ValidationError({"json_schema": [Problem("is missing")]})
        schema = named.get("schema")
        return Grammar(
            "json",
            json.dumps({"type": "object"} if schema is None else schema, ensure_ascii=False),
            "response_format.json_schema.schema",
            lenient=not named.get("strict"),
        )


class StructuredOutputsSchema(Body):
    """One of {"json": {…}}, {"regex": …}, {"choice": […]}, {"grammar": …}."""

    json = JsonSchemaText(allow_none=True)
    regex = Text(least=1, most=MAX_REGEX, allow_none=True)
    choice = Items(Text(most=MAX_REGEX), least=1, most=MAX_CHOICES, allow_none=True)
    grammar = Text(least=1, most=MAX_GRAMMAR, allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Grammar:
        given = {name: value for name, value in data.items() if value is not None}
        if len(given) != 1:
            raise ValidationError([Problem(f"must have one of {', '.join(KINDS)}, not {len(given)} of them")])
        name, value = next(iter(given.items()))
        param = f"structured_outputs.{name}"
        if name == "choice":
            if not any(value):
                raise ValidationError({"choice": [Problem("has only the empty text in it")]})
            if (size := sum(len(one.encode()) for one in value)) > MAX_SCHEMA:
                raise ValidationError({"choice": [Problem(f"has {size} bytes; the most is {MAX_SCHEMA}")]})
        if name == "json":
            check_promise(value, "json")
            return Grammar("json", json.dumps(value, ensure_ascii=False), param)
        if name == "choice":
            return Grammar("choice", json.dumps(value, ensure_ascii=False), param)
        return Grammar("regex" if name == "regex" else "lark", value, param)


def grammar(given: dict[str, Any]) -> Grammar | None:
    """What a request's fields hold its answer to; raises ValidationError where they contradict each other."""
    asked: Grammar | None = given.get("response_format")
    other: Grammar | None = given.get("structured_outputs")
    if asked is not None and other is not None:
        problem = Problem("contradicts response_format; send one of them")
        raise ValidationError({"structured_outputs": [problem]})
    if (asked or other) is not None and given.get("ignore_eos"):
        problem = Problem("contradicts structured output, which ends when it is complete")
        raise ValidationError({"ignore_eos": [problem]})
    return asked or other
