"""The routes of the simple API, and their errors as plain texts."""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from app.errors import ClientLeft, GenerationFailed, ModelLoadFailed, RequestTimeout
from app.settings import Settings
from tests.conftest import data_url, wait_until
from tests.unit.conftest import HELLO, House, ScriptedEngine, says

HI = {"message": "hi"}


@pytest.fixture
def engine() -> ScriptedEngine:
    """With room for any history."""
    made = ScriptedEngine(says("Hel", "lo", " you"))
    made.context_length = 10_000
    return made


def house_of(client: FlaskClient) -> House:
    house: House = client.application.extensions["house"]
    return house


def events(response: Any) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_chat_answers_and_remembers(client: FlaskClient) -> None:
    first = client.post("/chat", json=HI)
    assert (first.status_code, first.mimetype) == (200, "application/json")
    assert first.get_json() == {
        "message": "hi",
        "response": "Hello you",
        "status": "success",
        "session_id": "default",
        "finish_reason": "stop",
    }
    client.post("/chat", json={"message": "again", "max_tokens": 3, "temperature": 0})
    request = house_of(client).engine.requests[1]
    assert len(request.messages) == 3
    assert (request.max_tokens, request.sampling.temperature) == (3, 0.0)


def test_chat_streams(client: FlaskClient) -> None:
    response = client.post("/chat", json=HI | {"stream": True, "session_id": "s"})
    assert response.content_type == "text/event-stream; charset=utf-8"
    assert response.headers["X-Accel-Buffering"] == "no"
    first, *pieces, last = events(response)
    assert first == {"session_id": "s", "delta": ""}
    assert "".join(piece["delta"] for piece in pieces) == last["response"] == "Hello you"
    assert last == {
        "message": "hi",
        "response": "Hello you",
        "status": "success",
        "session_id": "s",
        "finish_reason": "stop",
    }
    assert client.get("/status?session_id=s").get_json()["conversation_length"] == 2


def test_a_stream_that_fails_says_so_in_an_event(client: FlaskClient) -> None:
    house_of(client).engine.script = [GenerationFailed('a "reason"\nof two lines')]
    response = client.post("/chat", json=HI | {"stream": True})
    assert response.status_code == 200
    assert "event: error\n" in response.text
    assert events(response)[-1] == {"error": 'a "reason"\nof two lines'}


def test_reset_forgets_one_session(client: FlaskClient) -> None:
    for name in ("default", "a", "b"):
        client.post("/chat", json=HI | {"session_id": name})
    assert client.post("/reset").get_json() == {
        "status": "success",
        "message": "The conversation was forgotten.",
        "session_id": "default",
    }
    assert client.post("/reset", json={"session_id": "a"}).get_json()["session_id"] == "a"
    assert client.post("/reset", json={}).status_code == 200  # there is nothing left to forget
    assert [row["session_id"] for row in client.get("/sessions").get_json()["sessions"]] == ["b"]


def test_status_before_and_after_a_model_is_loaded(client: FlaskClient) -> None:
    assert client.get("/status").get_json() == {
        "model_name": "scripted",
        "device": "auto",
        "conversation_length": 0,
        "memory_allocated": 0,
        "running": 0,
        "waiting": 0,
    }
    client.post("/chat", json=HI)
    assert client.get("/status").get_json() == {
        "model_name": "scripted",
        "device": "cpu",
        "conversation_length": 2,
        "memory_allocated": 1000,
        "running": 1,
        "waiting": 2,
    }
    assert client.get("/status?session_id=other").get_json()["conversation_length"] == 0


def test_sessions_are_listed_read_and_deleted(client: FlaskClient) -> None:
    assert client.get("/sessions").get_json() == {"sessions": []}
    url = data_url(Image.new("RGB", (8, 8)))
    client.post("/chat", json=HI | {"session_id": "a", "images": [url, url]})
    client.post("/chat", json={"message": "more", "session_id": "a"})
    [row] = client.get("/sessions").get_json()["sessions"]
    assert (row["session_id"], row["rounds"]) == ("a", 2)
    assert 0 <= row["updated"] - row["created"] < 60
    assert client.get("/sessions/a").get_json() == row | {
        "messages": [
            {"role": "user", "content": "hi", "images": 2},
            {"role": "assistant", "content": "Hello you"},
            {"role": "user", "content": "more", "images": 0},
            {"role": "assistant", "content": "Hello you"},
        ]
    }
    assert client.delete("/sessions/a").get_json() == {"status": "success", "session_id": "a"}
    for method in ("GET", "DELETE"):
        response = client.open("/sessions/a", method=method)
        assert (response.status_code, response.get_json()) == (404, {"error": "There is no session a."})


def test_all_sessions_can_be_deleted(client: FlaskClient) -> None:
    for name in ("a", "b", "c"):
        client.post("/chat", json=HI | {"session_id": name})
    assert client.delete("/sessions").get_json() == {"status": "success", "deleted": 3}
    assert client.get("/sessions").get_json() == {"sessions": []}


def test_each_key_has_its_own_sessions(make_app: Callable[..., Flask]) -> None:
    client = make_app(api_key=("sk-one", "sk-two")).test_client()
    one, two = ({"Authorization": f"Bearer sk-{name}"} for name in ("one", "two"))
    client.post("/chat", json=HI, headers=one)
    assert client.get("/sessions/default", headers=one).status_code == 200
    assert client.get("/status", headers=one).get_json()["conversation_length"] == 2
    assert client.get("/sessions", headers=two).get_json() == {"sessions": []}
    assert client.get("/sessions/default", headers=two).status_code == 404
    assert client.delete("/sessions/default", headers=two).status_code == 404
    assert client.delete("/sessions", headers=two).get_json()["deleted"] == 0
    client.post("/reset", headers=two)
    client.post("/chat", json={"message": "mine"}, headers=two)
    requests = client.application.extensions["house"].engine.requests
    assert len(requests[-1].messages) == 1
    assert client.get("/status", headers=one).get_json()["conversation_length"] == 2


def plain(response: Any, status: int) -> str:
    assert response.status_code == status
    body = response.get_json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    return str(body["error"])


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "text"),
    [
        ("POST", "/chat", {"json": {}}, 400, "message is missing."),
        ("POST", "/chat", {"json": []}, 400, "The body must be an object."),
        ("POST", "/chat", {"json": HI | {"temperature": 3}}, 400, "temperature is 3; it must be 0 to 2."),
        (
            "POST",
            "/chat",
            {"json": HI | {"images": ["x"]}},
            400,
            "The path names no file that may be read",
        ),
        ("POST", "/chat", {"data": "{", "content_type": "application/json"}, 400, "The body is not JSON"),
        ("POST", "/chat", {"data": "message=hi"}, 400, "The body must be JSON"),
        ("GET", "/chat", {}, 405, "The method is not allowed"),
        ("GET", "/reset", {}, 405, "The method is not allowed"),
        ("POST", "/reset", {"json": {"session_id": 3}}, 400, "session_id is a number"),
        ("POST", "/reset", {"data": "x", "content_type": "text/plain"}, 400, "The body must be JSON"),
        ("GET", "/status?session_id=a/b", {}, 400, "session_id must be"),
        ("PUT", "/sessions", {}, 405, "The method is not allowed"),
        ("GET", "/sessions/a%20b", {}, 404, "There is no session a b."),
    ],
)
def test_errors_are_plain_texts(
    client: FlaskClient, method: str, path: str, options: dict[str, Any], status: int, text: str
) -> None:
    assert plain(client.open(path, method=method, **options), status).startswith(text)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GenerationFailed("x"), 500),
        (ZeroDivisionError("secret"), 500),
        (RequestTimeout("x"), 500),
    ],
)
def test_failures_are_500s(client: FlaskClient, error: Exception, status: int) -> None:
    house_of(client).engine.script = [error]
    assert "secret" not in plain(client.post("/chat", json=HI), status)
    assert client.get("/status").get_json()["conversation_length"] == 0


def test_a_client_that_left_gets_nothing(client: FlaskClient) -> None:
    house_of(client).engine.script = [ClientLeft()]
    assert client.post("/chat", json=HI).status_code == 499


def test_what_cannot_be_done_now_keeps_its_status(make_app: Callable[..., Flask]) -> None:
    client = make_app(max_concurrent=1, max_queue=0, max_body_mb=0.1).test_client()

    def fail(*_: Any) -> Any:
        raise ModelLoadFailed("no weights")

    house_of(client).load = fail
    assert plain(client.post("/chat", json=HI), 503) == "no weights"
    ticket = house_of(client).admission.enter()
    response = client.post("/chat", json=HI)
    assert "Try again later" in plain(response, 429)
    assert response.headers["Retry-After"]
    plain(client.post("/reset"), 429)
    ticket.release()
    assert "0.1 MiB" in plain(client.post("/chat", json={"message": "x" * 200_000}), 413)


@pytest.mark.parametrize("path", ["/sessions/a%2fb", "/sessions/a/b", "/sessions/%0A", "/status/"])
def test_what_is_near_their_addresses_has_their_shape(client: FlaskClient, path: str) -> None:
    plain(client.get(path), 404)


def test_a_key_is_no_name_of_a_session(make_app: Callable[..., Flask]) -> None:
    client = make_app(api_key=("sk-mine", "sk-other")).test_client()
    mine = {"Authorization": "Bearer sk-mine"}
    for key in ("sk-mine", "sk-other"):
        for answer in (
            client.post("/chat", json={"message": "hi", "session_id": key}, headers=mine),
            client.post("/reset", json={"session_id": key}, headers=mine),
            client.get(f"/status?session_id={key}", headers=mine),
            client.get(f"/sessions/{key}", headers=mine),
            client.delete(f"/sessions/{key}", headers=mine),
        ):
            assert plain(answer, 400) == "session_id must not be a key."
    assert client.get("/sessions", headers=mine).get_json() == {"sessions": []}
    assert client.get("/sessions/sk-mine2", headers=mine).status_code == 404


def test_status_goes_on_without_the_conversations(
    client: FlaskClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    Path(settings.database).write_bytes(b"this is no database at all" * 100)
    found = client.get("/status")
    assert found.status_code == 200
    assert found.get_json()["conversation_length"] is None
    assert "file is not a database" in caplog.text
    plain(client.get("/sessions"), 503)


def test_status_does_not_wait_for_a_file_that_is_held(client: FlaskClient, settings: Settings) -> None:
    def length() -> Any:
        before = time.monotonic()
        found = client.get("/status").get_json()["conversation_length"]
        assert time.monotonic() - before < 2
        return found

    with contextlib.closing(sqlite3.connect(settings.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert length() is None
    assert length() == 0
    with house_of(client).conversations._lock:  # as by a round that waits to be written
        assert length() is None
    assert length() == 0


def test_a_turn_that_waits_for_another_one_is_counted(client: FlaskClient) -> None:
    house: House = client.application.extensions["house"]
    gate = threading.Event()
    house.engine.script = [gate, *says("done")]
    body = {"message": "hi"}
    with ThreadPoolExecutor(2) as pool:
        turns = [pool.submit(client.application.test_client().post, "/chat", json=body) for _ in range(2)]
        wait_until(lambda: house.admission.count() == 2 and house.admission.preparing() == 1)
        # One runs, and the engine says that two wait.
        assert client.get("/status").get_json()["waiting"] == 3
        assert client.get("/health").get_json()["details"]["waiting"] == 3
        assert house.metric("preparing_generations") == 1
        gate.set()
        assert [turn.result(20).status_code for turn in turns] == [200, 200]
    assert house.admission.preparing() == 0


def test_other_routes_keep_openais_shape(client: FlaskClient) -> None:
    for path in ("/chats", "/v1/chat", "/sessionsa", "/v1/status", "/resets"):
        assert isinstance(client.get(path).get_json()["error"], dict), path
    assert isinstance(client.post("/v1/chat/completions", json={}).get_json()["error"], dict)


def test_a_reset_waits_for_the_turn_that_runs(client: FlaskClient) -> None:
    gate = threading.Event()
    house_of(client).engine.script = [gate, *house_of(client).engine.script]
    app = client.application
    chatting = threading.Thread(target=lambda: app.test_client().post("/chat", json=HI))
    chatting.start()
    resetting = threading.Thread(target=lambda: app.test_client().post("/reset"))
    while not house_of(client).turns._queues._queues:
        chatting.join(0.01)
    resetting.start()
    resetting.join(0.3)
    assert resetting.is_alive()
    gate.set()
    for thread in (chatting, resetting):
        thread.join(20)
    assert client.get("/sessions").get_json() == {"sessions": []}


def test_the_simple_api_and_openais_share_one_way(client: FlaskClient) -> None:
    client.post("/chat", json=HI)
    client.post("/v1/chat/completions", json=HELLO | {"temperature": 0.7, "max_tokens": 512})
    simple, openai = house_of(client).engine.requests
    assert simple.sampling == openai.sampling
    assert simple.max_tokens == openai.max_tokens
