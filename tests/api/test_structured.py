"""Structured output with the demo model, through the official client."""

import concurrent.futures
import json
import re
import time
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest

from tests.conftest import Server, asks, scene


class Shape(pydantic.BaseModel):
    colour: Literal["red", "green", "blue"]
    shape: Literal["circle", "square", "triangle"]
    count: int = pydantic.Field(ge=0, le=9)


def ask(server: Server, **options: Any) -> Any:
    given = {"model": "demo", "messages": asks("What is in this picture?", scene()), "max_tokens": 300}
    client: Any = server.client
    return client.chat.completions.create(**given | options)


def as_format(schema: Any, strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": strict}}


def test_the_client_parses_into_a_class(server: Server) -> None:
    client: Any = server.client
    parsed = client.chat.completions.parse(
        model="demo", messages=asks("What is in this picture?", scene()), response_format=Shape
    )
    choice = parsed.choices[0]
    assert isinstance(choice.message.parsed, Shape)
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize("temperature", [0, 2])
def test_a_streamed_answer_is_valid(server: Server, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {
            "words": {"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 3}
        },
        "required": ["words"],
        "additionalProperties": False,
    }
    chunks = list(
        ask(server, response_format=as_format(schema), temperature=temperature, seed=1, stream=True)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(text), schema)


def test_json_object_is_an_object_or_cut(server: Server) -> None:
    choice = ask(server, response_format={"type": "json_object"}, temperature=1, seed=4).choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    else:
        assert choice.finish_reason == "length"
        assert choice.message.content.startswith("{")


def test_structured_outputs(server: Server) -> None:
    def said(**kind: Any) -> str:
        choice = ask(server, extra_body={"structured_outputs": kind}, temperature=2, seed=3).choices[0]
        assert choice.finish_reason == "stop"
        return str(choice.message.content)

    assert said(choice=["red", "blue"]) in ("red", "blue")
    assert re.fullmatch(r"\d{3}-[A-C]", said(regex=r"\d{3}-[A-C]"))
    assert said(grammar='start: "x" ("y" | "z")') in ("xy", "xz")
    assert said(grammar='root ::= "x" [yz]') in ("xy", "xz")
    assert json.loads(said(json={"enum": [1, None]})) in (1, None)


def test_what_a_stop_string_or_token_ends_is_whole_or_does_not_say_so(server: Server) -> None:
    asked: dict[str, Any] = {"structured_outputs": {"regex": "[a-z]{3};[a-z]{3}"}}
    cut = ask(server, extra_body=asked, stop=[";"], temperature=2, seed=1).choices[0]
    assert (len(cut.message.content), cut.finish_reason) == (3, "length")
    letters = server.post("/v1/tokenize", {"prompt": "a"}).json()["tokens"]
    for seed in range(4):
        asked = {"structured_outputs": {"regex": "[a-c]{3}"}, "stop_token_ids": letters}
        choice = ask(server, extra_body=asked, temperature=2, seed=seed).choices[0]
        assert choice.finish_reason == "stop"
        assert re.fullmatch("[a-c]{3}", choice.message.content)


def test_a_least_number_of_tokens_is_held_as_far_as_the_grammar_goes_on(server: Server) -> None:
    for regex, least in (("a{1,40}", 5), ("a{1,3}", 1)):
        asked = {"structured_outputs": {"regex": regex}, "min_tokens": 5}
        answer = ask(server, extra_body=asked, temperature=1, seed=1)
        assert answer.choices[0].finish_reason == "stop"
        assert re.fullmatch(regex, answer.choices[0].message.content)
        assert answer.usage.completion_tokens >= least


def test_the_model_still_sees(server: Server) -> None:
    colours = {}
    for colour in ("red", "blue"):
        choice = ask(
            server,
            messages=asks("What colour is it?", scene(colour=colour)),
            extra_body={"structured_outputs": {"choice": ["A red circle.", "A blue circle."]}},
        ).choices[0]
        colours[colour] = choice.message.content
    assert colours == {"red": "A red circle.", "blue": "A blue circle."}


def test_n_choices_are_all_valid(server: Server) -> None:
    answer = ask(
        server, n=3, temperature=1.5, seed=2, extra_body={"structured_outputs": {"regex": "[a-z]{4}"}}
    )
    assert all(re.fullmatch("[a-z]{4}", choice.message.content) for choice in answer.choices)


def test_thinking_comes_first(server: Server) -> None:
    choice = ask(
        server,
        extra_body={"structured_outputs": {"choice": ["yes", "no"]}, "enable_thinking": True},
        max_tokens=400,
    ).choices[0]
    assert choice.message.reasoning_content
    assert choice.message.content in ("yes", "no")


WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "北京"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER, "strict": True}},
    {"type": "function", "function": {"name": "now"}},
]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("seed", [1, 2])
def test_calls_that_must_be_match_their_schema(server: Server, choice: Any, seed: int) -> None:
    answer = ask(
        server,
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=1.5,
        seed=seed,
    ).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert not answer.message.content
    (call,) = answer.message.tool_calls
    if call.function.name == "get_weather":
        jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    else:
        assert choice == "required"
        assert json.loads(call.function.arguments) == {}


BOMBS = {
    "unsupported": as_format({"type": "object", "not": {}}),
    "remote": as_format({"$ref": "http://127.0.0.1:9/x"}),
    "many patterns": as_format(
        {"type": "object", "patternProperties": {f"^k{n}_[a-z]*$": {} for n in range(500)}}
    ),
    "patterns that meet": as_format(
        {"type": "string", "allOf": [{"pattern": f"a{{{n},}}b{{0,{n}}}c"} for n in range(1, 500)]}
    ),
    "deep": as_format(json.loads('{"not":' * 400 + "{}" + "}" * 400)),
    "huge": as_format({"enum": [f"value {n}" for n in range(50_000)]}),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_used_is_a_400_and_others_go_on(server: Server, name: str, stream: bool) -> None:
    usual = ask(server, temperature=0).choices[0].message.content
    with concurrent.futures.ThreadPoolExecutor() as pool:
        other = pool.submit(ask, server, temperature=0)
        before = time.monotonic()
        with pytest.raises(openai.BadRequestError) as caught:
            ask(server, response_format=BOMBS[name], stream=stream)
        assert time.monotonic() - before < 10
        assert other.result(60).choices[0].message.content == usual
    assert caught.value.param == "response_format.json_schema.schema"
    assert "WORKER TIMEOUT" not in server.log
