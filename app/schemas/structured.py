"""Structured output: OpenAI's response_format, and vLLM's structured_outputs for what it cannot say."""

import json
from collections.abc import Iterator
from typing import Any

from marshmallow import ValidationError, fields, post_load

from app.engine.types import Grammar
from app.schemas.fields import Body, Flag, Items, Mapping, Matching, Problem, SchemaOf, Text, one_of

MAX_SCHEMA = 128 * 1024
"""Bytes of a JSON schema, or of all choices."""
MAX_DEPTH = 64
"""Objects and lists of a schema within each other."""
MAX_CHOICES = 5000
MAX_REGEX = 10_000
MAX_GRAMMAR = 64 * 1024
FORMATS = ("text", "json_object", "json_schema")
KINDS = ("json", "regex", "choice", "grammar")
NUMBERS = {
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
    "minItems", "maxItems", "minProperties", "maxProperties",
}  # fmt: skip
NAMED = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
"""Keywords whose value has schemas under names of the client's own."""
VALUES = {"const", "default", "enum", "example", "examples"}
"""Keywords whose value is no schema."""


class JsonSchemaField(Mapping):
    """A JSON schema, as an object, that is neither too large nor too deep."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> dict[str, Any]:
        schema: dict[str, Any] = super()._deserialize(value, attr, data, **options)
        for depth, node in _nodes(schema):
            if depth > MAX_DEPTH:
                raise _unusable(f"is nested more than {MAX_DEPTH} deep")
            if name := _odd_number(node):
                raise _unusable(f"has a {name} that is no number")
        try:
            size = len(json.dumps(schema, ensure_ascii=False).encode())
        except UnicodeEncodeError:
            raise ValidationError("has half of a surrogate pair in it, which is no character") from None
        if size > MAX_SCHEMA:
            raise _unusable(f"has {size} bytes; the most is {MAX_SCHEMA}")
        return schema


class JsonSchemaText(JsonSchemaField):
    """The same, also as a text."""

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Either form, for the document."""
        return {"anyOf": [{"type": "object"}, {"type": "string", "maxLength": MAX_SCHEMA}]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> dict[str, Any]:
        if isinstance(value, str):
            if len(value) > MAX_SCHEMA:
                raise ValidationError(f"has {len(value)} characters; the most is {MAX_SCHEMA}")
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise _unusable("is a text that is no JSON") from None
            if not isinstance(value, dict):
                raise _unusable("is a text that is no JSON object")
        return super()._deserialize(value, attr, data, **options)


class NamedSchema(Body):
    """{"name": …, "schema": {…}, "strict": true}"""

    name = Matching("[a-zA-Z0-9_-]+", "must be of letters, digits, _ and -", required=True, most=64)
    description = Text(allow_none=True)
    schema = JsonSchemaField(allow_none=True)
    strict = Flag(allow_none=True)


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


def _unusable(text: str) -> ValidationError:
    return ValidationError([Problem(text, "invalid_schema")])


def _nodes(schema: Any) -> Iterator[tuple[int, Any]]:
    """Every object and list in a schema with its depth; None in place of those that are no schemas."""
    todo: list[tuple[int, Any, str]] = [(1, schema, "schema")]
    while todo:
        depth, node, kind = todo.pop()
        yield depth, node if kind == "schema" else None
        inside = node.items() if isinstance(node, dict) else enumerate(node)
        for name, value in inside:
            if isinstance(value, dict | list):
                below = "data" if kind == "data" else "schema"
                if kind == "schema" and isinstance(node, dict):
                    below = "names" if name in NAMED else "data" if name in VALUES else "schema"
                todo.append((depth + 1, value, below))


def _odd_number(node: Any) -> str | None:
    """A keyword of a schema that needs a number and has something else."""
    if not isinstance(node, dict):
        return None
    odd = (name for name in NUMBERS & node.keys() if type(node[name]) not in (int, float))
    return next(odd, None)
