"""The objects on the wire are OpenAI's, in ASCII and on one line."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from openai.types import Completion, CompletionUsage, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from app.engine.catalog import Catalog
from app.engine.registry import ModelRegistry
from app.engine.types import FinishReason, Logprobs, PromptInfo
from app.errors import ContextLengthExceeded
from app.services import wire
from app.services.output import Delta, Scored
from app.services.tools import ToolDelta
from app.services.wire import ChatWire, Choice, Head, TextWire, Usage
from tests.unit.conftest import SPECS, ScriptedEngine

HEAD = Head("chatcmpl-1", "demo", created=1234, token_bytes=lambda token: chr(token).encode())
WIRE = ChatWire(HEAD)
USAGE = Usage(prompt_tokens=7, completion_tokens=5, image_tokens=4)


def chunks(speaking: ChatWire, reason: FinishReason = "stop") -> list[dict[str, Any]]:
    """The first, a middle and the last chunk of a choice."""
    first = speaking.begin(0)
    assert first is not None
    return [first, speaking.delta(0, Delta("hel")), speaking.finish(0, reason)]


def chunk(body: dict[str, Any]) -> ChatCompletionChunk:
    return ChatCompletionChunk.model_validate_json(wire.encode(body), strict=True)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "\u2028\u2029\x85",
        'a "quote" \\ and',
        "two\nlines\r\n",
        "\x00\x1b[31m",
        "你好 🙂",
        "\ud83d",
        "</script>",
    ],
)
def test_json_is_ascii_on_one_line_and_reads_back(text: str) -> None:
    line = wire.encode({"text": text})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"text": text}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_does_not_know_are_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        wire.encode(value)


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_completion_is_openais(reason: FinishReason) -> None:
    body = WIRE.whole([Choice(Delta("hello"), reason)], USAGE)
    made = ChatCompletion.model_validate_json(wire.encode(body), strict=True)
    assert (made.id, made.created, made.model, made.object) == ("chatcmpl-1", 1234, "demo", "chat.completion")
    (choice,) = made.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, reason, None)
    assert (choice.message.role, choice.message.content) == ("assistant", "hello")
    assert isinstance(made.usage, CompletionUsage)
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (7, 5, 12)
    assert made.usage.prompt_tokens_details is not None
    assert made.usage.prompt_tokens_details.cached_tokens == 0
    assert body["usage"]["prompt_tokens_details"]["image_tokens"] == 4


def test_chunks_are_openais() -> None:
    first, middle, last = map(chunk, chunks(WIRE, "length"))
    for made in (first, middle, last):
        assert (made.id, made.created, made.model) == ("chatcmpl-1", 1234, "demo")
        assert made.object == "chat.completion.chunk"
        assert [choice.index for choice in made.choices] == [0]
    deltas = [made.choices[0].delta for made in (first, middle, last)]
    assert [(delta.role, delta.content) for delta in deltas] == [
        ("assistant", ""),
        (None, "hel"),
        (None, None),
    ]
    assert [made.choices[0].finish_reason for made in (first, middle, last)] == [None, None, "length"]


def test_without_usage_chunks_do_not_speak_of_it() -> None:
    assert not [body for body in chunks(WIRE) if "usage" in body]


def test_with_usage_every_chunk_has_it_and_only_the_last_has_numbers() -> None:
    speaking = ChatWire(replace(HEAD, include_usage=True))
    for body in chunks(speaking):
        assert body["usage"] is None
        chunk(body)
    last = chunk(speaking.usage(USAGE))
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 12


SCORED = (
    Scored(72, 0, Logprobs(-0.5, ((72, -0.5), (74, -1.5)))),
    Scored(105, 1, Logprobs(-math.inf, ((255, -0.1),))),
)


def test_log_probabilities_are_openais_with_bytes_and_no_infinity() -> None:
    asking = ChatWire(replace(HEAD, top_logprobs=2))
    made = ChatCompletion.model_validate_json(
        wire.encode(asking.whole([Choice(Delta("Hi", scored=SCORED), "stop")], USAGE)), strict=True
    )
    assert made.choices[0].logprobs is not None
    first, second = made.choices[0].logprobs.content or []
    assert (first.token, first.bytes, first.logprob) == ("H", [72], -0.5)
    assert [(top.token, top.logprob) for top in first.top_logprobs] == [("H", -0.5), ("J", -1.5)]
    assert second.logprob == -9999.0
    assert second.top_logprobs[0].bytes == [0xC3, 0xBF]
    streamed = chunk(asking.delta(0, Delta("Hi", scored=SCORED))).choices[0].logprobs
    assert streamed is not None
    assert [one.token for one in streamed.content or []] == ["H", "i"]


def test_log_probabilities_that_nobody_asked_for_are_not_told() -> None:
    assert WIRE.whole([Choice(Delta("Hi", scored=SCORED), "stop")], USAGE)["choices"][0]["logprobs"] is None


def test_an_empty_answer_has_no_log_probabilities_in_its_list() -> None:
    head = replace(HEAD, top_logprobs=2)
    (choice,) = ChatWire(head).whole([Choice(Delta(), "stop")], USAGE)["choices"]
    assert choice["logprobs"] == {"content": [], "refusal": None}
    (choice,) = TextWire(head).whole([Choice(Delta(), "stop")], USAGE)["choices"]
    lists = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    assert choice["logprobs"] == {name: [] for name in lists}
    assert chunk(ChatWire(head).finish(0, "stop")).choices[0].logprobs is None


def test_a_part_of_a_character_is_told_by_its_bytes() -> None:
    asking = ChatWire(replace(HEAD, top_logprobs=0, token_bytes=lambda token: b"\xe4\xbd"))
    (entry,) = asking.delta(0, Delta("x", scored=SCORED[:1]))["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["bytes"]) == ("\ufffd", [0xE4, 0xBD])


def test_reasoning_has_a_field_of_its_own() -> None:
    (choice,) = WIRE.whole([Choice(Delta("4", "2 and 2"), "stop")], USAGE)["choices"]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("4", "2 and 2")
    assert WIRE.delta(0, Delta(reasoning="2 and"))["choices"][0]["delta"] == {"reasoning_content": "2 and"}
    plain = WIRE.whole([Choice(Delta("4"), "stop")], USAGE)["choices"][0]["message"]
    assert "reasoning_content" not in plain


def test_choices_are_numbered() -> None:
    body = WIRE.whole([Choice(Delta(text), "stop") for text in "abc"], USAGE)
    assert [(one["index"], one["message"]["content"]) for one in body["choices"]] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]
    assert WIRE.delta(2, Delta("x"))["choices"][0]["index"] == 2


def test_a_text_completion_is_openais() -> None:
    body = TextWire(HEAD).whole([Choice(Delta("Hi"), "length")], USAGE)
    made = Completion.model_validate_json(wire.encode(body), strict=True)
    assert (made.object, made.choices[0].text) == ("text_completion", "Hi")
    assert (made.choices[0].finish_reason, made.choices[0].logprobs) == ("length", None)


def test_an_echo_comes_before_the_answer_with_its_own_log_probabilities() -> None:
    info = PromptInfo((79, 107), logprobs=(None, Logprobs(-2.0, ((107, -2.0),))))
    echoing = TextWire(replace(HEAD, top_logprobs=1), lambda: [info], ["Ok"])
    (choice,) = echoing.whole([Choice(Delta("Hi", scored=SCORED), "stop")], USAGE)["choices"]
    assert choice["text"] == "OkHi"
    found = choice["logprobs"]
    assert found["tokens"] == ["O", "k", "H", "i"]
    assert found["text_offset"] == [0, 1, 2, 3]
    assert found["token_logprobs"] == [None, -2.0, -0.5, -9999.0]
    assert found["top_logprobs"] == [None, {"k": -2.0}, {"H": -0.5, "J": -1.5}, {"ÿ": -0.1, "i": -9999.0}]
    chunks = [echoing.delta(0, Delta("H")), echoing.delta(0, Delta("i")), echoing.finish(0, "stop")]
    assert [one["choices"][0]["text"] for one in chunks] == ["OkH", "i", ""]


def test_what_a_tokenizer_puts_before_a_text_has_no_place_in_its_echo() -> None:
    names = {1: b"<bos>", 79: b"O", 107: b"k"}
    info = PromptInfo((1, 79, 107), logprobs=(None, Logprobs(-1.0), Logprobs(-2.0)))
    head = replace(HEAD, top_logprobs=0, token_bytes=lambda token: names.get(token, b"x"))
    for text, offsets in (("Ok", [0, 0, 1, 2]), ("<bos>Ok", [0, 5, 6, 7])):
        echoing = TextWire(head, lambda: [info], [text])
        (choice,) = echoing.whole([Choice(Delta("H", scored=SCORED[:1]), "stop")], USAGE)["choices"]
        assert choice["logprobs"]["text_offset"] == offsets


def test_the_chosen_token_of_a_completion_is_always_among_the_likeliest() -> None:
    scored = (Scored(72, 0, Logprobs(-3.0)), Scored(105, 1, Logprobs(-4.0)))
    (choice,) = TextWire(replace(HEAD, top_logprobs=0)).whole(
        [Choice(Delta("Hi", scored=scored), "stop")], USAGE
    )["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"H": -3.0}, {"i": -4.0}]


def test_parts_of_characters_in_a_completion_have_names_of_their_own() -> None:
    parts = {1: b" \xf0\x9f", 2: b"\x98", 3: b"\x99", 4: "é".encode()}
    head = replace(HEAD, top_logprobs=3, token_bytes=lambda token: parts[token])
    scored = (Scored(1, 0, Logprobs(-3.0, ((2, -0.5), (3, -1.0), (4, -2.0)))),)
    (choice,) = TextWire(head).whole([Choice(Delta("?", scored=scored), "stop")], USAGE)["choices"]
    found = choice["logprobs"]
    assert found["tokens"] == ["bytes: \\xf0\\x9f"]
    assert found["top_logprobs"] == [
        {"bytes:\\x98": -0.5, "bytes:\\x99": -1.0, "é": -2.0, "bytes: \\xf0\\x9f": -3.0}
    ]


def test_an_error_is_openais() -> None:
    body = wire.error(ContextLengthExceeded('too "long"', param="messages"))
    made = ErrorObject.model_validate(body["error"], strict=True)
    assert (made.message, made.type) == ('too "long"', "invalid_request_error")
    assert (made.param, made.code) == ("messages", "context_length_exceeded")


def test_a_model_is_openais_and_tells_what_is_loaded() -> None:
    catalog = Catalog(SPECS, "scripted", created=99)
    registry = ModelRegistry(catalog, lambda spec, _: ScriptedEngine(spec=spec))
    absent = wire.model(registry, "second")
    made = Model.model_validate(absent)
    assert (made.id, made.object, made.created, made.owned_by) == ("second", "model", 99, "vlserve")
    assert absent["loaded"] is False
    assert (absent["modalities"], absent["context_length"]) == (["text"], 77)
    registry.get("second").release()
    loaded = wire.model(registry, "second")
    assert [row["id"] for row in wire.models(registry)] == [spec.id for spec in SPECS]
    assert loaded["loaded"] is True
    assert (loaded["modalities"], loaded["context_length"]) == (["text", "image"], 100)


CALLS = (
    ToolDelta(0, id="call_1", name="add"),
    ToolDelta(0, '{"a"'),
    ToolDelta(0, ": 1}"),
    ToolDelta(1, id="call_2", name="look"),
    ToolDelta(1, "{}"),
)


def test_tool_calls_are_openais() -> None:
    body = WIRE.whole([Choice(Delta(calls=CALLS), "tool_calls")], USAGE)
    (choice,) = ChatCompletion.model_validate_json(wire.encode(body), strict=True).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    found = [
        (call.id, call.type, call.function.name, call.function.arguments)
        for call in choice.message.tool_calls or []
        if call.type == "function"
    ]
    assert found == [("call_1", "function", "add", '{"a": 1}'), ("call_2", "function", "look", "{}")]


def test_streamed_tool_calls_add_up() -> None:
    calls = [
        call
        for delta in CALLS
        for call in chunk(WIRE.delta(0, Delta(calls=(delta,)))).choices[0].delta.tool_calls or []
    ]
    assert [call.index for call in calls] == [0, 0, 0, 1, 1]
    assert [call.id for call in calls] == ["call_1", None, None, "call_2", None]
    assert "".join(call.function.arguments or "" for call in calls[:3] if call.function) == '{"a": 1}'


def test_a_chunk_has_one_entry_for_each_call() -> None:
    calls = WIRE.delta(0, Delta(calls=CALLS))["choices"][0]["delta"]["tool_calls"]
    assert calls == [
        {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": "add", "arguments": '{"a": 1}'},
        },
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    ]
    more = WIRE.delta(0, Delta(calls=CALLS[1:3]))["choices"][0]["delta"]["tool_calls"]
    assert more == [{"index": 0, "function": {"arguments": '{"a": 1}'}}]


def test_text_beside_calls_stays() -> None:
    (choice,) = WIRE.whole([Choice(Delta("I look.", calls=CALLS), "tool_calls")], USAGE)["choices"]
    assert choice["message"]["content"] == "I look."
    assert len(choice["message"]["tool_calls"]) == 2
