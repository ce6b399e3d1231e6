"""Thoughts: asked for in every way that clients know, told apart from the answer, limited."""

from typing import Any

import pytest

from tests.conftest import Server, asks, scene

QUESTION = asks("How many objects are there?", scene(colour="red", shape="circle"))


def complete(server: Server, messages: Any = QUESTION, **options: Any) -> Any:
    own = {"enable_thinking", "max_thinking_tokens", "chat_template_kwargs", "continue_final_message"}
    extra = {name: options.pop(name) for name in list(options) if name in own}
    return server.client.chat.completions.create(model="demo", messages=messages, extra_body=extra, **options)


@pytest.mark.parametrize(
    "wish",
    [
        {"enable_thinking": True},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"reasoning_effort": "medium"},
    ],
)
def test_a_thought_is_asked_for_in_three_ways(server: Server, wish: dict[str, Any]) -> None:
    answer = complete(server, **wish)
    message = answer.choices[0].message
    assert message.reasoning_content
    assert "think>" not in message.reasoning_content + message.content
    assert message.content.strip() == message.content != ""
    details = answer.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens


@pytest.mark.parametrize("wish", [{}, {"enable_thinking": False}, {"reasoning_effort": "none"}])
def test_without_a_thought_there_is_only_the_answer(server: Server, wish: dict[str, Any]) -> None:
    answer = complete(server, **wish)
    assert getattr(answer.choices[0].message, "reasoning_content", None) is None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_a_streamed_thought_comes_first_and_apart(server: Server) -> None:
    whole = complete(server, enable_thinking=True)
    kinds, thought, text = "", "", ""
    for chunk in complete(server, enable_thinking=True, stream=True):
        for choice in chunk.choices:
            reasoning = getattr(choice.delta, "reasoning_content", None) or ""
            content = choice.delta.content or ""
            kinds += "r" * bool(reasoning) + "c" * bool(content)
            thought, text = thought + reasoning, text + content
    message = whole.choices[0].message
    assert (thought, text) == (message.reasoning_content, message.content)
    assert "cr" not in kinds
    assert kinds.count("r") > 1


def test_a_thought_ends_after_so_many_tokens_and_the_answer_begins(server: Server) -> None:
    free = complete(server, enable_thinking=True)
    assert free.usage.completion_tokens_details.reasoning_tokens > 4
    for most in (0, 2):
        answer = complete(server, enable_thinking=True, max_thinking_tokens=most)
        assert answer.usage.completion_tokens_details.reasoning_tokens == most + 1  # and the one that ends it
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"


def test_a_thought_that_the_limit_cut_is_no_answer(server: Server) -> None:
    answer = complete(server, enable_thinking=True, max_tokens=3)
    message = answer.choices[0].message
    assert (answer.choices[0].finish_reason, message.content) == ("length", "")
    assert message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3


def test_stop_strings_are_for_the_answer(server: Server) -> None:
    thought = complete(server, enable_thinking=True).choices[0].message.reasoning_content
    word = next(word for word in thought.split() if len(word) > 2)
    answer = complete(server, enable_thinking=True, stop=[word])
    assert answer.choices[0].message.reasoning_content == thought


def test_the_last_message_is_gone_on_with(server: Server) -> None:
    messages = asks("What is in this picture?", scene(colour="red", shape="circle"))
    whole = complete(server, messages).choices[0].message.content
    begun, rest = whole[: len(whole) // 2], whole[len(whole) // 2 :]
    begun, rest = begun + rest.partition(" ")[0], " " + rest.partition(" ")[2]
    answer = complete(
        server, [*messages, {"role": "assistant", "content": begun}], continue_final_message=True
    )
    assert answer.choices[0].message.content == rest


def test_a_template_of_the_clients_own_is_refused(server: Server) -> None:
    body = {"messages": QUESTION, "chat_template_kwargs": {"chat_template": "{{ 1 }}"}}
    answer = server.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chat_template_kwargs")


def test_a_thought_that_the_client_has_begun_is_gone_on_with(server: Server) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "<think>\nThe user asks what"}]
    answer = complete(server, begun, continue_final_message=True, max_thinking_tokens=5, max_tokens=60)
    message, usage = answer.choices[0].message, answer.usage
    assert message.reasoning_content
    assert "think>" not in message.content
    assert 0 < usage.completion_tokens_details.reasoning_tokens <= 6
