"""Tools in a request's body: what may be called, what must be, and the calls of earlier turns."""

from typing import Any

import pytest

from app.engine.types import Function, ToolCall, Tools
from app.errors import InvalidRequest
from app.schemas import chat
from tests.unit.conftest import HELLO

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "?", "parameters": PARAMETERS}}
ADD = {"type": "function", "function": {"name": "add", "strict": True}}
CALLING: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    ],
}
TWO_CALLS = CALLING | {"tool_calls": [*CALLING["tool_calls"], CALLING["tool_calls"][0] | {"id": "call_2"}]}
ANSWER = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


def changed(tool: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return tool | {"function": tool["function"] | fields}


def with_messages(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*HELLO["messages"], *messages]}


def test_functions_arrive() -> None:
    made = chat.load(HELLO | {"tools": [WEATHER, ADD], "parallel_tool_calls": False}).tools
    functions = (Function("weather", PARAMETERS, "?"), Function("add", strict=True))
    assert made == Tools(functions, "auto", parallel=False)


@pytest.mark.parametrize("choice", ["none", "auto", "required", None])
def test_the_choice_is_a_word(choice: Any) -> None:
    made = chat.load(HELLO | {"tools": [WEATHER], "tool_choice": choice}).tools
    assert made is not None
    assert made.choice == (choice or "auto")


def test_the_choice_is_a_function() -> None:
    named = {"type": "function", "function": {"name": "add"}}
    made = chat.load(HELLO | {"tools": [WEATHER, ADD], "tool_choice": named}).tools
    assert made is not None
    assert (made.choice, made.named, made.parallel) == ("required", "add", False)


@pytest.mark.parametrize(
    "given", [{"tools": []}, {"tools": None}, {"tool_choice": "none"}, {"tools": [], "tool_choice": "auto"}]
)
def test_no_tools_are_no_tools(given: dict[str, Any]) -> None:
    assert chat.load(HELLO | given) == chat.load(HELLO)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [3]}, "tools[0]"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [changed(ADD, name="a b")]}, "tools[0].function.name"),
        ({"tools": [changed(ADD, name="x" * 65)]}, "tools[0].function.name"),
        ({"tools": [ADD, ADD]}, "tools[1].function.name"),
        ({"tools": [changed(ADD, parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [changed(ADD, parameters={"type": "string"})]}, "tools[0].function.parameters"),
        ({"tools": [changed(ADD, strict="yes")]}, "tools[0].function.strict"),
        ({"tools": [ADD] * 129}, "tools"),
        ({"tools": [ADD], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": 3}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        (
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [ADD], "tool_choice": "required", "structured_outputs": {"choice": ["a"]}},
            "structured_outputs",
        ),
        ({"tools": [ADD], "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"tools": [ADD], "ignore_eos": True}, "ignore_eos"),
        ({"tools": [WEATHER], "tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(given: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat.load(HELLO | given)
    assert caught.value.param == place


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "add"}}])
def test_a_format_of_the_content_may_come_beside_calls(choice: Any) -> None:
    given = {"tools": [ADD], "tool_choice": choice, "response_format": {"type": "json_object"}}
    made = chat.load(HELLO | given)
    assert made.tools is not None
    assert made.grammar is not None


def test_calls_and_their_answers_arrive() -> None:
    calling, answer = chat.load(with_messages(CALLING, ANSWER)).messages[1:]
    assert calling.tool_calls == (ToolCall("call_1", "weather", '{"city": "Ulm"}'),)
    assert (calling.parts, answer.tool_call_id) == ((), "call_1")


def call(**fields: Any) -> dict[str, Any]:
    return CALLING | {"tool_calls": [CALLING["tool_calls"][0] | fields]}


@pytest.mark.parametrize(
    ("given", "arrives"), [('{"city": "U', '{"city": "U'), ("3", "3"), ("[" * 9999, "[" * 9999), ("", "{}")]
)
def test_broken_arguments_of_an_earlier_call_are_taken_as_they_are(given: str, arrives: str) -> None:
    calling = call(function={"name": "weather", "arguments": given})
    (made,) = chat.load(with_messages(calling, ANSWER)).messages[1].tool_calls
    assert made.arguments == arrives


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ((ANSWER,), "messages[1].tool_call_id"),
        ((CALLING, ANSWER | {"tool_call_id": "call_2"}), "messages[2].tool_call_id"),
        ((CALLING, {"role": "tool", "content": "rain"}), "messages[2].tool_call_id"),
        ((ANSWER, CALLING), "messages[1].tool_call_id"),
        ((CALLING,), "messages[1].tool_calls"),
        ((CALLING, *HELLO["messages"], ANSWER), "messages[1].tool_calls"),
        ((CALLING, CALLING, ANSWER), "messages[1].tool_calls"),
        ((CALLING, ANSWER, *HELLO["messages"], ANSWER), "messages[4].tool_call_id"),
        ((TWO_CALLS, ANSWER, *HELLO["messages"]), "messages[1].tool_calls"),
        ((CALLING | {"role": "user", "content": "x"},), "messages[1].tool_calls"),
        ((call(type="custom"),), "messages[1].tool_calls[0].type"),
        ((call(id=None),), "messages[1].tool_calls[0].id"),
        ((call(function={"name": "a"}),), "messages[1].tool_calls[0].function.arguments"),
        ((call(function={"name": "a", "arguments": {}}),), "messages[1].tool_calls[0].function.arguments"),
    ],
)
def test_wrong_calls_and_answers_are_refused_at_their_place(
    messages: tuple[dict[str, Any], ...], place: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat.load(with_messages(*messages))
    assert caught.value.param == place
