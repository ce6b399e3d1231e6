"""The objects on the wire are OpenAI's, in ASCII and on one line."""

import json
import math
from typing import Any

import pytest
from openai.types import CompletionUsage, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from app.engine.catalog import Catalog
from app.engine.registry import ModelRegistry
from app.engine.types import FinishReason
from app.errors import ContextLengthExceeded
from app.services import wire
from app.services.wire import ChatWire, Usage
from tests.unit.conftest import SPECS, ScriptedEngine

WIRE = ChatWire(id="chatcmpl-1", created=1234, model="demo")
USAGE = Usage(prompt_tokens=7, completion_tokens=5, image_tokens=4)


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
    body = WIRE.completion("hello", reason, USAGE)
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
    first, middle, last = chunk(WIRE.role()), chunk(WIRE.delta("hel")), chunk(WIRE.finish("length"))
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
    assert "usage" not in WIRE.role() | WIRE.delta("a") | WIRE.finish("stop")


def test_with_usage_every_chunk_has_it_and_only_the_last_has_numbers() -> None:
    speaking = ChatWire(id="chatcmpl-1", created=1234, model="demo", include_usage=True)
    for body in (speaking.role(), speaking.delta("a"), speaking.finish("stop")):
        assert body["usage"] is None
        chunk(body)
    last = chunk(speaking.usage(USAGE))
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 12


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
