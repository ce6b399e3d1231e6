"""The simple API on a real server: a conversation with a picture, over streams and restarts."""

import json
import pathlib
from typing import Any

import pytest
import requests

from tests.conftest import Server, data_url, running, scene


def say(server: Server, text: str, **more: Any) -> str:
    answer = server.post("/chat", {"message": text, "temperature": 0} | more)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["status"] == "success"
    assert body["message"] == text
    return str(body["response"])


def test_a_picture_is_remembered(server: Server) -> None:
    first = say(server, "What is in this picture?", session_id="picture", images=[data_url(scene())])
    assert "red circle" in first
    second = say(server, "What colour is the circle?", session_id="picture")
    assert "red" in second
    third = say(server, "How many objects are there?", session_id="picture")
    assert "one" in third
    assert server.get("/status?session_id=picture").json()["conversation_length"] == 6


def test_a_stream_gives_the_same_text(server: Server) -> None:
    whole = say(server, "Hello! What can you do?", session_id="whole")
    body = {"message": "Hello! What can you do?", "temperature": 0, "session_id": "streamed", "stream": True}
    with server.post("/chat", body, stream=True) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        lines = [line.decode() for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(event["delta"] for event in events[:-1]) == whole
    assert events[-1]["response"] == whole


def test_a_long_conversation_goes_on(server: Server) -> None:
    """The demo model has 4096 tokens: far fewer than these messages have together."""
    for number in range(8):
        say(server, f"{number} " + "a large red circle and " * 200, session_id="long", max_tokens=5)
    body = server.get("/sessions/long").json()
    assert body["rounds"] == 8
    assert [one["content"][0] for one in body["messages"] if one["role"] == "user"] == list("01234567")


def test_status_tells_what_is_loaded(server: Server) -> None:
    say(server, "hi", session_id="status")
    body = server.get("/status").json()
    assert body["model_name"] == "demo"
    assert body["device"] == "cpu"
    assert body["memory_allocated"] > 1e7
    assert {"running", "waiting", "conversation_length"} < set(body)


def test_a_session_survives_a_clean_restart(tmp_path: pathlib.Path) -> None:
    for number in (1, 2):
        with running(tmp_path) as server:
            assert server.get("/status").json()["conversation_length"] == 2 * (number - 1)
            say(server, f"message {number}", max_tokens=3)
            assert server.get("/sessions/default").json()["rounds"] == number
    assert sorted(file.name for file in tmp_path.iterdir()) == ["server.log", "vlserve.db"]


def test_a_database_that_cannot_be_is_told_and_nothing_else_suffers(tmp_path: pathlib.Path) -> None:
    (tmp_path / "vlserve.db").write_bytes(b"no database " * 1000)
    with running(tmp_path) as server:
        answer = server.post("/chat", {"message": "hi"})
        assert answer.status_code == 503
        assert isinstance(answer.json()["error"], str)
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert server.post("/v1/chat/completions", body).ok
        assert "file is not a database" in server.log


@pytest.mark.parametrize("path", ["/chat", "/reset"])
def test_curl_habits_are_answered(server: Server, path: str) -> None:
    url = server.url + path
    assert requests.post(url, data={"message": "hi"}, timeout=20).status_code == 400
    assert requests.post(url, timeout=20).status_code == (200 if path == "/reset" else 400)
    assert requests.get(url, timeout=20).status_code == 405
