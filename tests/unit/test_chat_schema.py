"""The body of a chat completion, and the request that it becomes."""

import logging
from typing import Any

import pytest

from app.engine.media_types import ImagePart
from app.engine.types import ChatRequest, Message, Template, TextPart
from app.errors import InvalidRequest
from app.schemas import chat
from tests.unit.conftest import HELLO

MESSAGES = (Message("user", (TextPart("hello"),)),)


def problem(body: Any) -> tuple[str, str]:
    """The place and text of a body's first problem."""
    with pytest.raises(InvalidRequest) as caught:
        chat.load(body)
    return caught.value.param or "", caught.value.message


def test_a_body_of_messages_alone_leaves_all_choices_open() -> None:
    assert chat.load(HELLO) == ChatRequest(messages=MESSAGES)


def test_all_fields_arrive() -> None:
    body = HELLO | {
        "model": "demo",
        "max_completion_tokens": 12,
        "temperature": 0.5,
        "top_p": 1,
        "seed": -3,
        "stop": ["a", "\n"],
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    }
    assert chat.load(body) == ChatRequest(
        messages=MESSAGES,
        model="demo",
        max_tokens=12,
        max_tokens_param="max_completion_tokens",
        temperature=0.5,
        top_p=1.0,
        seed=-3,
        stop=("a", "\n"),
        stream=True,
        include_usage=True,
    )


@pytest.mark.parametrize(
    "name",
    sorted(
        {"model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream"}
        | {
            "stream_options",
            "n",
            "logprobs",
            "top_logprobs",
            "logit_bias",
            "top_k",
            "min_p",
            "stop_token_ids",
        }
        | {"presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens", "enable_thinking"}
        | {"reasoning_effort", "max_thinking_tokens", "chat_template_kwargs", "add_generation_prompt"}
        | {"continue_final_message", *chat.NOT_YET}
    ),
)
def test_null_is_as_good_as_absent(name: str) -> None:
    assert chat.load(HELLO | {name: None}) == chat.load(HELLO)


@pytest.mark.parametrize(
    ("given", "tokens", "param"),
    [
        ({"max_tokens": 3}, 3, "max_tokens"),
        ({"max_completion_tokens": 4}, 4, "max_completion_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": None}, 3, "max_tokens"),
        ({}, None, "max_tokens"),
    ],
)
def test_the_token_limit_has_two_names(given: dict[str, Any], tokens: int | None, param: str) -> None:
    request = chat.load(HELLO | given)
    assert (request.max_tokens, request.max_tokens_param) == (tokens, param)


@pytest.mark.parametrize(
    ("given", "stop"),
    [("END", ("END",)), ([], ()), (["a"] * 16, ("a",) * 16), (" ", (" ",)), ("x" * 500, ("x" * 500,))],
)
def test_stop_is_a_string_or_a_list(given: Any, stop: tuple[str, ...]) -> None:
    assert chat.load(HELLO | {"stop": given}).stop == stop


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [None]}, "messages[0]"),
        ({"messages": [3]}, "messages[0]"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"model": "x" * 1001}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"max_tokens": 4, "max_completion_tokens": 4}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a", "b", None]}, "stop[2]"),
        ({"stop": ["x" * 501]}, "stop[0]"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 3}, "top_logprobs"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"logit_bias": []}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"5": None}}, "logit_bias"),
        ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"enable_thinking": "yes"}, "enable_thinking"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"service_tier": "first class"}, "service_tier"),
        ({"verbosity": "chatty"}, "verbosity"),
        ({"prompt_cache_retention": "for ever"}, "prompt_cache_retention"),
        ({"reasoning_effort": "none", "enable_thinking": True}, "enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": True}, "enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": 3}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ({"max_thinking_tokens": -1}, "max_thinking_tokens"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": 1}},
            "stream_options.include_obfuscation",
        ),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(given: dict[str, Any], place: str) -> None:
    found, text = problem(HELLO | given)
    assert found == place
    assert text


@pytest.mark.parametrize("body", [[], "hello", 3, None, True])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    assert problem(body) == ("", "The body must be a JSON object.")


def test_a_body_without_messages_is_refused() -> None:
    assert problem({}) == ("messages", "messages is missing.")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in sorted(chat.NOT_YET.items()) for value in values]
)
def test_a_value_that_asks_for_nothing_is_taken(name: str, value: Any) -> None:
    assert chat.load(HELLO | {name: value}) == chat.load(HELLO)


ASKING: dict[str, list[Any]] = {
    "functions": [[{"name": "f"}]],
    "function_call": [{"name": "f"}],
    "modalities": [["text", "audio"]],
    "audio": [{"voice": "alloy", "format": "wav"}],
    "moderation": [{"model": "omni-moderation-latest"}],
    "chat_template": ["{{ messages }}"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, all_ in ASKING.items() for value in all_]
)
def test_what_this_version_cannot_do_is_refused_rather_than_ignored(name: str, value: Any) -> None:
    assert problem(HELLO | {name: value}) == (name, f"{name} is not supported by this version.")


NO_MEANING: dict[str, tuple[Any, Any]] = {
    "user": ("me", 5),
    "store": (True, "yes"),
    "metadata": ({"a": "b"}, []),
    "service_tier": ("auto", 5),
    "verbosity": ("low", 1),
    "prediction": ({"type": "content", "content": "x"}, 3),
    "prompt_cache_key": ("k", 1),
    "prompt_cache_options": ({"mode": "explicit"}, "explicit"),
    "prompt_cache_retention": ("24h", 24),
    "safety_identifier": ("s", 1),
    "web_search_options": ({}, True),
}


@pytest.mark.parametrize("name", NO_MEANING)
def test_fields_without_meaning_change_nothing_but_must_be_possible(name: str) -> None:
    fits, wrong = NO_MEANING[name]
    assert chat.load(HELLO | {name: fits}) == chat.load(HELLO | {name: None}) == chat.load(HELLO)
    place, text = problem(HELLO | {name: wrong})
    assert place == name
    assert "expected" in text


def test_every_wish_reaches_the_request() -> None:
    body = HELLO | {
        "top_k": -1,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "logit_bias": {"5": -100, "7": 0.5},
        "n": 128,
        "stop_token_ids": [7],
        "min_tokens": 3,
        "ignore_eos": True,
        "logprobs": True,
        "max_thinking_tokens": 9,
    }
    assert chat.load(body) == ChatRequest(
        messages=chat.load(HELLO).messages,
        top_k=0,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        logit_bias=((5, -100.0), (7, 0.5)),
        n=128,
        stop_token_ids=(7,),
        min_tokens=3,
        ignore_eos=True,
        top_logprobs=0,
        max_thinking_tokens=9,
    )


@pytest.mark.parametrize(
    ("given", "template"),
    [
        ({}, Template()),
        ({"enable_thinking": False}, Template(False)),
        ({"chat_template_kwargs": {"enable_thinking": True, "x": 1}}, Template(True, (("x", 1),))),
        ({"reasoning_effort": "none"}, Template(False, (("reasoning_effort", "none"),))),
        ({"reasoning_effort": "low"}, Template(True, (("reasoning_effort", "low"),))),
        ({"add_generation_prompt": False}, Template(add_generation_prompt=False)),
    ],
)
def test_how_a_conversation_is_rendered_is_the_clients_choice(
    given: dict[str, Any], template: Template
) -> None:
    assert chat.load(HELLO | given).template == template


def test_the_last_message_can_be_gone_on_with() -> None:
    body = {"messages": [*HELLO["messages"], {"role": "assistant", "content": "Once"}]}
    going_on = body | {"continue_final_message": True}
    template = Template(add_generation_prompt=False, continue_final_message=True)
    assert chat.load(going_on).template == template
    assert problem(going_on | {"add_generation_prompt": True})[0] == "add_generation_prompt"


def test_unknown_fields_are_ignored_and_noted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert chat.load(HELLO | {"novelty": 1, "user": "me"}) == chat.load(HELLO)
    assert "novelty" in caplog.text
    assert "user" not in caplog.text


def test_a_picture_knows_its_place_in_the_request() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    body = {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "?"}, picture]},
        ]
    }
    part = chat.load(body).messages[1].parts[1]
    assert part == ImagePart("data:x", "messages[1].content[1].image_url.url")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({str(number): "x" for number in range(17)}, "17 entries"),
        ({"k" * 65: "x"}, "65 characters"),
        ({"k": "x" * 513}, "512"),
        ({"k": 3}, "no string"),
        ({"k": None}, "no string"),
        ([], "object"),
    ],
)
def test_metadata_is_a_few_texts(given: Any, text: str) -> None:
    chat.load(HELLO | {"metadata": {"k" * 64: "x" * 512, "": ""}})
    with pytest.raises(InvalidRequest, match=text) as caught:
        chat.load(HELLO | {"metadata": given})
    assert caught.value.param == "metadata"


def test_an_assistant_says_something_calls_or_refuses() -> None:
    def said(**fields: Any) -> Any:
        return (
            chat.load({"messages": [*HELLO["messages"], {"role": "assistant", **fields}]}).messages[-1].parts
        )

    assert said(content="") == (TextPart(""),)
    assert said(content=None, refusal="I will not.") == (TextPart("I will not."),)
    assert said(content="No.", refusal=None) == (TextPart("No."),)
    nothings: list[dict[str, Any]] = [{}, {"content": None}, {"tool_calls": []}, {"refusal": None}]
    for nothing in nothings:
        with pytest.raises(InvalidRequest) as caught:
            said(**nothing)
        assert caught.value.param == "messages[1].content"
