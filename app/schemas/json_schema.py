"""JSON schemas that come in: what each keyword takes, how large and deep, and what cannot be promised."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from marshmallow import ValidationError

from app.schemas.fields import Mapping, Problem, SchemaOf

MAX_SCHEMA = 128 * 1024
"""Bytes of a JSON schema, or of all choices."""
MAX_DEPTH = 64
"""Objects and lists of a schema within each other."""
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose value has schemas under names of the client's own."""
VALUES = ("const", "default", "enum", "example", "examples")
"""Keywords whose value is no schema."""
HELD = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
"""Keywords whose numbers an answer is held to."""
EXACT = 2**53
"""Whole numbers beyond this are rounded in a grammar, which has them as doubles."""
TYPES = ("null", "boolean", "object", "array", "number", "string", "integer")


def _is_anything(value: Any) -> bool:
    return True


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and (type(value) is int or value.is_integer())


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _are_named_schemas(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _are_types(value: Any) -> bool:
    names = value if isinstance(value, list) and value else [value]
    return all(isinstance(name, str) and name in TYPES for name in names)


RULES: tuple[tuple[Callable[[Any], bool], str, tuple[str, ...]], ...] = (
    (_are_types, f"type or list of types ({', '.join(TYPES)})", ("type",)),
    (_is_number, "number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    (lambda value: _is_number(value) and value > 0, "number over 0", ("multipleOf",)),
    (
        _is_count,
        "whole number of 0 or more",
        (
            "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains",
            "maxContains",
        ),
    ),
    (_are_named_schemas, "object of schemas", NAMED),
    (_are_schemas, "list of schemas", ("allOf", "anyOf", "oneOf", "prefixItems")),
    (
        lambda value: _is_schema(value) or isinstance(value, list),  # a list until draft 2019
        "schema",
        ("items",),
    ),
    (
        _is_schema,
        "schema",
        (
            "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains",
            "propertyNames", "unevaluatedItems", "unevaluatedProperties",
        ),
    ),
    (_are_texts, "list of strings", ("required",)),
    (lambda value: isinstance(value, list), "list", ("enum",)),
    (lambda value: isinstance(value, str), "string", ("pattern", "format", "$ref")),
)  # fmt: skip
KEYWORDS = {name: (is_right, what) for is_right, what, names in RULES for name in names}


class JsonSchemaField(Mapping):
    """A JSON schema, as an object, that is neither too large nor too deep, and whose keywords have values of
    their kind.
    """

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> dict[str, Any]:
        schema: dict[str, Any] = super()._deserialize(value, attr, data, **options)
        for depth, node in _nodes(schema):
            if depth > MAX_DEPTH:
                raise _unusable(f"is nested more than {MAX_DEPTH} deep")
            for name in node if isinstance(node, dict) else ():
                is_right, what = KEYWORDS.get(name, (_is_anything, ""))
                if not is_right(node[name]):
                    raise _unusable(f"has a {name} that is no {what}")
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


def check_promise(schema: dict[str, Any], field: str) -> None:
    """Raise ValidationError, at this field, for a strict schema that an answer could break while it keeps to
    the grammar: a whole number is too large for it; or a key that the schema leaves open may come twice and
    counts once when it is parsed. One such key beside those that are required is certain to be another one;
    more are not.
    """
    for _, node in _nodes(schema):
        if not isinstance(node, dict):
            continue
        for name in HELD:
            if name in node and _has_large_number(node[name]):
                text = f"has a {name} beyond ±{EXACT}, which cannot be held to exactly"
                raise ValidationError({field: [Problem(text, "invalid_schema")]})
        certain = len(set(node.get("required", ()))) + 1
        is_open = node.get("additionalProperties", True) is not False or node.get("patternProperties")
        if is_open and node.get("minProperties", 0) > certain:
            text = (
                f"asks for {node['minProperties']} properties or more where {certain - 1} are required, which"
                f" cannot be promised: keys that are not named may come twice; name all, or ask for {certain}"
            )
            raise ValidationError({field: [Problem(text, "invalid_schema")]})


def _has_large_number(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_large_number, value.values() if isinstance(value, dict) else value))
    return type(value) is int and abs(value) > EXACT


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
