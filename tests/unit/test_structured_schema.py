"""response_format and structured_outputs: what they become, and what is refused."""

import json
from typing import Any

import pytest

from app.engine.types import Grammar
from app.errors import InvalidRequest
from app.schemas import chat, json_schema
from tests.unit.conftest import HELLO

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


def grammar(**fields: Any) -> Grammar | None:
    return chat.load(HELLO | fields).grammar


def problem(**fields: Any) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        grammar(**fields)
    return caught.value.param, caught.value.message


def as_format(**named: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", **named}}


@pytest.mark.parametrize("nothing", [None, {"type": "text"}])
def test_text_is_no_grammar(nothing: Any) -> None:
    assert grammar(response_format=nothing, structured_outputs=None) is None


def test_an_object_is_any_object() -> None:
    for given in ({"type": "json_object"}, as_format(), as_format(schema=None)):
        made = grammar(response_format=given)
        assert made is not None
        assert json.loads(made.source) == {"type": "object"}


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    made = grammar(response_format=as_format(schema=SCHEMA, description="x"))
    place = "response_format.json_schema.schema"
    assert made == Grammar("json", json.dumps(SCHEMA), place, lenient=True)
    strict = grammar(response_format=as_format(schema=SCHEMA, strict=True))
    assert strict == Grammar("json", json.dumps(SCHEMA), place)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"json": SCHEMA}, Grammar("json", json.dumps(SCHEMA), "structured_outputs.json")),
        ({"json": json.dumps(SCHEMA)}, Grammar("json", json.dumps(SCHEMA), "structured_outputs.json")),
        ({"regex": "a+", "json": None}, Grammar("regex", "a+", "structured_outputs.regex")),
        ({"choice": ["a", "é"]}, Grammar("choice", '["a", "é"]', "structured_outputs.choice")),
        ({"grammar": "start: A"}, Grammar("lark", "start: A", "structured_outputs.grammar")),
    ],
)
def test_structured_outputs(given: Any, made: Grammar) -> None:
    assert grammar(structured_outputs=given) == made


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"not": value}
    return value


PLACE = "response_format.json_schema.schema"
BIG = {"enum": ["x" * 100] * 2000}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "json"}, "response_format", "object"),
    ({"response_format": {}}, "response_format.type", "missing"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
        "missing",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
        "response_format.json_schema.name",
        "letters",
    ),
    ({"response_format": as_format(schema=[])}, PLACE, "object"),
    ({"response_format": as_format(schema=nested(65))}, PLACE, "64"),
    ({"response_format": as_format(schema=nested(30_000))}, PLACE, "64"),
    ({"response_format": as_format(schema=BIG)}, PLACE, "131072"),
    ({"response_format": as_format(schema={"const": "\ud800"})}, PLACE, "surrogate"),
    ({"response_format": as_format(schema={"minimum": "5"})}, PLACE, "minimum"),
    ({"response_format": as_format(schema={"items": [{"maxLength": True}]})}, PLACE, "maxLength"),
    ({"response_format": as_format(strict="yes")}, "response_format.json_schema.strict", "true or false"),
    ({"structured_outputs": {}}, "structured_outputs", "one of"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "2 of them"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "empty"),
    ({"structured_outputs": {"regex": "a" * 10_001}}, "structured_outputs.regex", "10000"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "empty"),
    ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice", "empty"),
    ({"structured_outputs": {"choice": ["a", 5]}}, "structured_outputs.choice[1]", "string"),
    ({"structured_outputs": {"choice": ["a"] * 5001}}, "structured_outputs.choice", "5000"),
    ({"structured_outputs": {"choice": ["é" * 9000] * 20}}, "structured_outputs.choice", "131072"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "no JSON"),
    ({"structured_outputs": {"json": "5"}}, "structured_outputs.json", "object"),
    ({"structured_outputs": {"json": "[" * 100_000}}, "structured_outputs.json", "no JSON"),
    ({"structured_outputs": {"json": "x" * 200_000}}, "structured_outputs.json", "131072"),
    ({"structured_outputs": {"grammar": "x" * 70_000}}, "structured_outputs.grammar", "65536"),
    (
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        "structured_outputs",
        "response_format",
    ),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos", "contradicts"),
]


@pytest.mark.parametrize(("fields", "param", "text"), WRONG)
def test_what_cannot_be_is_a_400_that_names_the_field(fields: Any, param: str, text: str) -> None:
    place, message = problem(**fields)
    assert place == param
    assert text in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"minimum": {"type": "string"}, "maxLength": True}},
        {"const": {"minimum": "x"}, "default": {"maxItems": []}, "enum": [{"minLength": None}]},
        nested(64),
    ],
)
def test_names_and_values_are_no_keywords(schema: Any) -> None:
    assert grammar(response_format=as_format(schema=schema)) is not None
    assert json_schema.MAX_DEPTH == 64


@pytest.mark.parametrize(
    ("keyword", "value", "text"),
    [
        ("type", "strin", "type"),
        ("type", ["string", 3], "type"),
        ("type", [], "type"),
        ("properties", {"b": 3}, "object of schemas"),
        ("properties", ["b"], "object of schemas"),
        ("$defs", {"x": None}, "object of schemas"),
        ("required", "a", "list of strings"),
        ("required", [1], "list of strings"),
        ("enum", "red", "list"),
        ("items", "string", "schema"),
        ("additionalProperties", None, "schema"),
        ("anyOf", {}, "list of schemas"),
        ("anyOf", [], "list of schemas"),
        ("pattern", 3, "string"),
        ("$ref", {}, "string"),
        ("minLength", -1, "0 or more"),
        ("maxItems", 1.5, "0 or more"),
        ("maxItems", float("inf"), "0 or more"),
        ("multipleOf", 0, "over 0"),
    ],
)
def test_a_keyword_of_the_wrong_kind_is_named_wherever_it_is(keyword: str, value: Any, text: str) -> None:
    wrong = {"type": "object", "properties": {"a": {"type": "array", "items": {keyword: value}}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": wrong}}
    for given, place in (
        ({"response_format": as_format(schema=wrong)}, PLACE),
        ({"structured_outputs": {"json": wrong}}, "structured_outputs.json"),
        ({"tools": [tool]}, "tools[0].function.parameters"),
    ):
        param, message = problem(**given)
        assert param == place
        assert f"a {keyword} that is no" in message
        assert text in message


MORE_THAN_CERTAIN: list[dict[str, Any]] = [
    {"type": "object", "minProperties": 2},
    {"type": "object", "minProperties": 3, "required": ["a", "a"]},
    {"type": "object", "minProperties": 2, "patternProperties": {"^x": {}}, "additionalProperties": False},
    {"anyOf": [{"type": "null"}, {"items": {"minProperties": 2, "additionalProperties": {}}}]},
]
CERTAIN: list[dict[str, Any]] = [
    {"type": "object", "minProperties": 1},
    {"type": "object", "minProperties": 3, "required": ["a", "b"]},
    {"minProperties": 2, "properties": {"a": {}, "b": {}}, "additionalProperties": False},
    {"const": {"minProperties": 5}},
]


@pytest.mark.parametrize("schema", MORE_THAN_CERTAIN)
def test_more_open_keys_than_are_certain_cannot_be_promised(schema: dict[str, Any]) -> None:
    function = {"name": "f", "strict": True, "parameters": {"properties": {"a": schema}}}
    for given, place in (
        ({"response_format": as_format(schema=schema, strict=True)}, PLACE),
        ({"structured_outputs": {"json": schema}}, "structured_outputs.json"),
        ({"tools": [{"type": "function", "function": function}]}, "tools[0].function.parameters"),
    ):
        param, message = problem(**given)
        assert param == place
        assert "come twice" in message
    assert grammar(response_format=as_format(schema=schema)) is not None


@pytest.mark.parametrize("schema", CERTAIN)
def test_so_many_keys_as_are_certain_can_be_promised(schema: dict[str, Any]) -> None:
    assert grammar(structured_outputs={"json": schema}) is not None


@pytest.mark.parametrize(
    "node",
    [
        {"const": 2**53 + 1},
        {"enum": [1, -(2**60)]},
        {"type": "integer", "minimum": 10**18},
        {"const": {"a": [2**54]}},
    ],
)
def test_a_whole_number_that_a_grammar_would_round_is_refused(node: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"id": node}, "required": ["id"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
    with pytest.raises(InvalidRequest, match="cannot be held to exactly") as caught:
        chat.load({"messages": [{"role": "user", "content": "hi"}], "response_format": form})
    assert caught.value.code == "invalid_schema"
