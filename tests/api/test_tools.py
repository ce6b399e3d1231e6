"""Tools through the official client: what the model is told of them, and calls of earlier turns."""

from typing import Any

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
