"""Server-sent events: what stands on the wire, and who closes it."""

import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai.types.chat import ChatCompletionChunk

from app.errors import GenerationFailed
from app.routes.sse import PING_EVERY, EventStream, stream
from tests.unit.conftest import HELLO, Clock, House, asked, says


def read(body: bytes) -> list[tuple[str, Any]]:
    """The events of a stream as (name, data); comments are (":", text)."""
    assert body.endswith(b"\n\n")
    events: list[tuple[str, Any]] = []
    for block in body.decode("ascii").removesuffix("\n\n").split("\n\n"):
        name = "message"
        for line in block.split("\n"):
            if line.startswith(":"):
                events.append((":", line[1:].strip()))
            elif line.startswith("event: "):
                name = line.removeprefix("event: ")
            else:
                data = line.removeprefix("data: ")
                assert data != line
                events.append((name, data if data == "[DONE]" else json.loads(data)))
    return events


def test_chunks_come_one_an_event_and_end_with_done(house: House) -> None:
    events = read(b"".join(EventStream(house.completions.start(asked()))))
    assert events[-1] == ("message", "[DONE]")
    chunks = [ChatCompletionChunk.model_validate(data) for _, data in events[:-1]]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello you"


@pytest.mark.parametrize("text", ["\n\ndata: [DONE]\n\n", "\u2028", '"', "\r", "🙂"])
def test_no_text_can_end_an_event(house: House, text: str) -> None:
    house.engine.script = says("a", text, "b")
    events = read(b"".join(EventStream(house.completions.start(asked()))))
    contents = [data["choices"][0]["delta"].get("content", "") for _, data in events[:-1]]
    assert "".join(contents) == f"a{text}b"


def test_an_error_has_a_name_of_its_own_and_the_stream_still_ends_with_done(house: House) -> None:
    house.engine.script = [*says("a")[:1], GenerationFailed("it broke.")]
    events = read(b"".join(EventStream(house.completions.start(asked()))))
    assert [name for name, _ in events] == ["message", "message", "error", "message", "message"]
    assert events[2][1]["error"]["message"] == "it broke."
    assert events[3][1]["choices"][0]["finish_reason"] == "error"
    assert events[4][1] == "[DONE]"


@pytest.mark.parametrize("good", [0, 2])
def test_an_event_that_is_no_json_is_an_error_and_the_stream_still_ends_with_done(good: int) -> None:
    class Broken:
        closed = False

        def events(self) -> Iterator[dict[str, Any]]:
            yield from [{"fine": 1}] * good
            yield {"duration": math.inf}

        def close(self) -> None:
            self.closed = True

    made = Broken()
    body = EventStream(made)
    events = read(b"".join(body))
    assert [name for name, _ in events] == ["message"] * good + ["error", "message"]
    assert events[good][1]["error"]["type"] == "server_error"
    assert events[-1][1] == "[DONE]"
    body.close()
    assert made.closed


def test_a_silent_stream_sends_comments_and_no_empty_chunks(house: House, clock: Clock) -> None:
    quiet = [lambda: clock.advance(PING_EVERY / 2)] * 7
    house.engine.script = [*says("a")[:1], *quiet, *says("b")]
    events = read(b"".join(EventStream(house.completions.start(asked()))))
    assert [name for name, _ in events].count(":") == 3
    assert (":", "ping") in events


def test_a_stream_that_speaks_sends_no_comments(house: House, clock: Clock) -> None:
    pause = [lambda: clock.advance(PING_EVERY * 0.9)]
    house.engine.script = [*pause, *says("a")[:1], *pause, *says("b")[:1], *pause, *says("c")]
    assert ":" not in [name for name, _ in read(b"".join(EventStream(house.completions.start(asked()))))]


def test_a_client_that_left_ends_the_stream_without_another_word(house: House, clock: Clock) -> None:
    gone = threading.Event()
    house.engine.script = [*says("a")[:1], gone.set, lambda: clock.advance(1), *says("b")]
    body = b"".join(EventStream(house.completions.start(asked(), gone.is_set)))
    assert b"[DONE]" not in body
    assert b"error" not in body
    assert house.admission.count() == 0


def test_closing_an_unread_stream_frees_its_completion(house: House) -> None:
    response = stream(house.completions.start(asked()))
    assert house.admission.count() == 1
    response.close()
    assert house.admission.count() == 0
    assert house.engine.generations[0].cancelled


def test_closing_a_half_read_stream_frees_its_completion(house: House) -> None:
    body = EventStream(house.completions.start(asked()))
    next(iter(body))
    body.close()
    body.close()
    assert house.admission.count() == 0
    assert not house.leased()


def test_the_route_streams_when_asked(client: FlaskClient) -> None:
    response = client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in response.headers
    assert read(response.data)[-1] == ("message", "[DONE]")


def test_head_of_the_answer_comes_before_the_model_says_anything(client: FlaskClient, house: House) -> None:
    house = client.application.extensions["house"]
    gate = threading.Event()
    house.engine.script = [gate, *says("late")]
    response = client.post("/v1/chat/completions", json=HELLO | {"stream": True}, buffered=False)
    pieces = iter(response.response)
    assert b'"role":"assistant"' in bytes(next(pieces))  # type: ignore[arg-type]  # bytes on this side
    gate.set()
    assert b"late" in bytes(next(pieces))  # type: ignore[arg-type]
    response.close()
    assert house.admission.count() == 0
