"""The keywords of JSON Schema: docs/call.md's table of what is enforced, held to the library."""

import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
from app.engine.types import Grammar
from app.errors import InvalidRequest
from tests.conftest import ROOT
from tests.unit.test_grammar import Model

assert tiny_models

NULL: dict[str, Any] = {"type": "null"}
ENFORCED: dict[str, dict[str, Any]] = {
    "type": {"type": ["boolean", "null"]},
    "enum": {"enum": [1, "a", {"b": 1}]},
    "const": {"const": [1, "a"]},
    "properties": {"type": "object", "properties": {"a": NULL, "b": NULL}, "additionalProperties": False},
    "required": {"type": "object", "required": ["z"], "additionalProperties": NULL, "maxProperties": 1},
    "additionalProperties": {"type": "object", "additionalProperties": False},
    "patternProperties": {
        "type": "object",
        "patternProperties": {"^x[ab]$": NULL},
        "additionalProperties": False,
    },
    "items": {"type": "array", "items": NULL, "maxItems": 3},
    "prefixItems": {"type": "array", "prefixItems": [NULL, {"const": 1}], "items": False, "minItems": 1},
    "additionalItems": {"type": "array", "items": [NULL], "additionalItems": False},
    "minItems": {"type": "array", "items": NULL, "minItems": 2, "maxItems": 3},
    "maxItems": {"type": "array", "items": NULL, "maxItems": 1},
    "minLength": {"type": "string", "minLength": 3, "maxLength": 5},
    "maxLength": {"type": "string", "maxLength": 2},
    "pattern": {"type": "string", "pattern": "^[ab]{2,3}$"},
    "minimum": {"type": "integer", "minimum": 3, "maximum": 12},
    "maximum": {"type": "integer", "minimum": -3, "maximum": 2},
    "exclusiveMinimum": {"type": "integer", "exclusiveMinimum": 3, "maximum": 12},
    "exclusiveMaximum": {"type": "integer", "minimum": 3, "exclusiveMaximum": 12},
    "multipleOf": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 70},
    "anyOf": {"anyOf": [NULL, {"const": 3}]},
    "allOf": {"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 4}]},
    "$ref": {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": NULL, "maxItems": 2}}},
    "$defs": {"$ref": "#/$defs/n", "$defs": {"n": NULL}},
    "definitions": {"$ref": "#/definitions/n", "definitions": {"n": NULL}},
    "$anchor": {"$ref": "#n", "$defs": {"n": {"$anchor": "n", "type": "boolean"}}},
}
NOT: dict[str, Any] = {
    "not": NULL, "if": NULL, "then": NULL, "else": NULL, "uniqueItems": True, "contains": NULL,
    "minContains": 1, "maxContains": 1, "propertyNames": {"pattern": "^a"}, "dependentRequired": {"a": ["b"]},
    "dependentSchemas": {"a": NULL}, "dependencies": {"a": ["b"]}, "unevaluatedItems": False,
    "unevaluatedProperties": False, "$dynamicRef": "#a",
}  # fmt: skip
FORMATS = ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
IN_PART: list[tuple[dict[str, Any], bool]] = [
    ({"oneOf": [NULL, {"type": "boolean"}]}, True),
    ({"oneOf": [{"type": "integer", "minimum": 1}, {"type": "integer", "maximum": 5}]}, False),
    ({"type": "object", "properties": {"a": NULL}, "required": ["a"], "minProperties": 2}, True),
    ({"properties": {"a": NULL, "b": NULL}, "minProperties": 1, "additionalProperties": False}, True),
    ({"type": "object", "properties": {"a": NULL}, "minProperties": 2}, False),
    ({"type": "object", "properties": {"a": NULL}, "maxProperties": 1}, False),
]


@pytest.fixture(scope="module")
def qwen(tiny: Callable[[str], pathlib.Path]) -> Iterator[Model]:
    made = Model(tiny("qwen3"))
    yield made
    made.grammars.close()


def row(name: str) -> set[str]:
    """The keywords and formats in a row of the table."""
    (text,) = re.findall(
        rf"^\| {name} \| (.*) \|$", (ROOT / "docs/call.md").read_text(encoding="utf-8"), re.M
    )
    return set(re.findall(r"`([^`]+)`", text))


def held_to(schema: dict[str, Any], lenient: bool = False) -> Grammar:
    return Grammar("json", json.dumps(schema), "there", lenient)


@pytest.mark.parametrize("keyword", ENFORCED)
def test_what_the_table_calls_enforced_is(qwen: Model, keyword: str) -> None:
    schema, ended = ENFORCED[keyword], 0
    for seed in range(6):
        text, reason = qwen.write(qwen.grammars.guide(held_to(schema)), seed=seed, most=200)
        if reason == "stop":
            jsonschema.Draft202012Validator(schema if keyword != "additionalItems" else {}).validate(
                json.loads(text)
            )
            ended += 1
    assert ended


@pytest.mark.parametrize("keyword", NOT)
def test_what_is_not_enforced_is_named_or_left_out(qwen: Model, keyword: str) -> None:
    schema = {"type": ["object", "array"], keyword: NOT[keyword]}
    with pytest.raises(InvalidRequest, match=re.escape(keyword)) as caught:
        qwen.grammars.guide(held_to(schema))
    assert caught.value.code == "invalid_schema"
    qwen.grammars.guide(held_to(schema, lenient=True))


@pytest.mark.parametrize("name", FORMATS)
def test_formats(qwen: Model, name: str) -> None:
    qwen.grammars.guide(held_to({"type": "string", "format": name}))


@pytest.mark.parametrize(("schema", "enforced"), IN_PART)
def test_what_is_enforced_in_part(qwen: Model, schema: dict[str, Any], enforced: bool) -> None:
    if enforced:
        qwen.grammars.guide(held_to(schema))
    else:
        with pytest.raises(InvalidRequest):
            qwen.grammars.guide(held_to(schema))


def test_the_table_has_every_keyword_that_is_tried() -> None:
    assert row("enforced") == {*ENFORCED, *FORMATS, "format"}
    assert row("not") == {*NOT}
    assert row("in part") >= {"oneOf", "minProperties", "maxProperties"}
