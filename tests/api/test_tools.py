"""Tools through the official client: what the model is told of them, and calls of earlier turns."""

import json
from typing import Any

import jsonschema
import pytest

from tests.conftest import Server, asks

QUESTION: Any = asks("What is the weather in Ulm?")
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
HELLO: Any = asks("Hello!")
CALLED: Any = [
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Ulm"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "It rains."},
]


def prompt(server: Server, messages: Any, **options: Any) -> str:
    """What the model reads."""
    tokens = server.post("/v1/tokenize", {"messages": messages} | options).json()["tokens"]
    text: str = server.post("/v1/detokenize", {"tokens": tokens}).json()["prompt"]
    return text


def test_the_model_is_told_of_the_tools_unless_it_may_call_none(server: Server) -> None:
    told = prompt(server, QUESTION, tools=[WEATHER])
    assert '"name": "get_weather"' in told
    assert "Tells the weather of a city." in told
    assert prompt(server, QUESTION, tools=[WEATHER], tool_choice="none") == prompt(server, QUESTION)


def test_calls_and_their_answers_are_part_of_the_conversation(server: Server) -> None:
    told = prompt(server, QUESTION + CALLED, tools=[WEATHER])
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ulm"}}\n</tool_call>' in told
    assert "<tool_response>\nIt rains.\n</tool_response>" in told


def test_an_answer_may_make_no_call(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model="demo", messages=HELLO, tools=[WEATHER], max_tokens=30
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_an_answer_to_a_tools_answer(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model="demo", messages=QUESTION + CALLED, tools=[WEATHER], max_tokens=30
    )
    assert answer.choices[0].message.content


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": QUESTION + CALLED[1:]}, "messages[1].tool_call_id"),
    ],
)
def test_what_cannot_be_called_is_refused(server: Server, options: dict[str, Any], param: str) -> None:
    answer = server.post("/v1/chat/completions", {"messages": QUESTION} | options)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def arguments_of(call: Any) -> Any:
    assert call.id.startswith("call_")
    return json.loads(call.function.arguments)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["any", "named"]
)
def test_a_call_that_must_be_made_fits_its_schema(server: Server, choice: Any) -> None:
    options: Any = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False, "seed": 1}
    for temperature in (0, 1.5):
        answer = server.client.chat.completions.create(
            model="demo", messages=QUESTION, temperature=temperature, max_tokens=400, **options
        )
        (choice_made,) = answer.choices
        if choice_made.finish_reason == "length":  # a string may go on for as long as the model likes
            continue
        assert choice_made.finish_reason == "tool_calls"
        (call,) = choice_made.message.tool_calls
        jsonschema.validate(arguments_of(call), WEATHER["function"]["parameters"])
        assert call.function.name == "get_weather"
        assert choice_made.message.content is None


NUMBER: Any = {
    "type": "function",
    "function": {
        "name": "pick",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"number": {"enum": [1, 2, 3]}},
            "required": ["number"],
            "additionalProperties": False,
        },
    },
}


def test_a_streamed_call_is_the_same_and_comes_in_pieces(server: Server) -> None:
    options: Any = {"tools": [NUMBER], "tool_choice": "required", "parallel_tool_calls": False}
    whole = server.client.chat.completions.create(
        model="demo", messages=QUESTION, temperature=0, max_tokens=100, **options
    )
    assert whole.choices[0].finish_reason == "tool_calls"
    pieces, names, reason = "", [], None
    for chunk in server.client.chat.completions.create(
        model="demo", messages=QUESTION, temperature=0, max_tokens=100, stream=True, **options
    ):
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or []:
                names += [call.function.name] if call.function.name else []
                pieces += call.function.arguments or ""
    calls: Any = whole.choices[0].message.tool_calls
    assert (names, reason) == (["pick"], "tool_calls")
    assert json.loads(pieces) == arguments_of(calls[0])
    assert json.loads(pieces)["number"] in (1, 2, 3)


def test_a_call_that_the_limit_cut_ends_with_length(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model="demo", messages=QUESTION, tools=[NUMBER], tool_choice="required", max_tokens=6
    )
    assert answer.choices[0].finish_reason == "length"


def test_a_thought_comes_before_a_call_that_must_be_made(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        tools=[NUMBER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
        extra_body={"enable_thinking": True, "max_thinking_tokens": 20},
    )
    message: Any = answer.choices[0].message
    assert message.reasoning_content
    assert answer.choices[0].finish_reason == "tool_calls"
    assert arguments_of(message.tool_calls[0])["number"] in (1, 2, 3)


def test_a_strict_function_is_held_to_its_schema_where_calls_are_free(server: Server) -> None:
    tokens = server.post("/v1/tokenize", {"prompt": "<tool_call>{"}).json()["tokens"]
    assert len(tokens) == 2
    for seed in range(3):
        answer = server.client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            tools=[NUMBER],
            parallel_tool_calls=False,
            temperature=1,
            seed=seed,
            max_tokens=300,
            logit_bias={str(token): 60 for token in tokens},  # what it would hardly write by itself
        )
        calls: Any = answer.choices[0].message.tool_calls
        assert answer.choices[0].finish_reason == "tool_calls"
        jsonschema.validate(arguments_of(calls[0]), NUMBER["function"]["parameters"])


def test_a_format_leaves_calls_possible(server: Server) -> None:
    def answer(**options: Any) -> Any:
        return server.client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            tools=[NUMBER],
            parallel_tool_calls=False,
            response_format={"type": "json_object"},
            max_tokens=200,
            **options,
        ).choices[0]

    first = server.post("/v1/tokenize", {"prompt": "<tool_call>"}).json()["tokens"]
    forced, calling, telling = (
        answer(tool_choice="required"),
        answer(logit_bias={str(token): 100 for token in first}),
        answer(logit_bias={str(token): -100 for token in first}),
    )
    for made in (forced, calling):
        assert (made.finish_reason, made.message.content) == ("tool_calls", None)
        jsonschema.validate(arguments_of(made.message.tool_calls[0]), NUMBER["function"]["parameters"])
    assert telling.message.tool_calls is None
    assert telling.message.content.startswith("{")


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_strict_schema_that_cannot_be_held_to_is_refused_by_its_place(server: Server, choice: str) -> None:
    bad = {"name": "bad", "strict": True, "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    given = {"tools": [WEATHER, {"type": "function", "function": bad}], "tool_choice": choice}
    answer = server.post("/v1/chat/completions", {"messages": QUESTION} | given)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools[1].function.parameters")


def test_a_forced_call_that_was_cut_shows_no_markup(server: Server) -> None:
    for limit in (1, 6, 12):
        answer = server.client.chat.completions.create(
            model="demo", messages=QUESTION, tools=[NUMBER], tool_choice="required", max_tokens=limit
        )
        assert not answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "length"
