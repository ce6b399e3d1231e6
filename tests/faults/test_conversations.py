"""Conversations under faults: two posts at once, a killed server, clients that leave, turns that fail."""

import json
import os
import pathlib
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import Server, reset, running, wait_until

LONG = {"message": "hello", "temperature": 1.5, "max_tokens": 150}
FOREVER = LONG | {"max_tokens": 15000}
SHORT = {"message": "hello", "temperature": 0, "max_tokens": 4}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, endless: pathlib.Path) -> Iterator[Server]:
    """A server with few turns and a model that does not stop by itself."""
    flags = ("--model", str(endless), "--max-concurrent", "4", "--max-queue", "60")
    with running(tmp_path_factory.mktemp("talk"), *flags) as server:
        assert server.post("/chat", SHORT | {"session_id": "warm"}).ok  # loads the model
        yield server


def connect(server: Server, body: dict[str, Any]) -> socket.socket:
    """A connection on which a post to /chat has been sent and nothing was read."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    data = json.dumps(body).encode()
    head = "POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def read_until(connection: socket.socket, marker: bytes) -> None:
    seen = b""
    while marker not in seen:
        block = connection.recv(65536)
        assert block, seen
        seen += block


def is_idle(server: Server) -> bool:
    status = server.get("/status").json()
    return (status["running"], status["waiting"]) == (0, 0)


def said(server: Server, session: str) -> list[str]:
    """A session's messages, without answers."""
    body = server.get(f"/sessions/{session}").json()
    return [one["content"] for one in body.get("messages", []) if one["role"] == "user"]


def at_once(*works: Callable[[], Any]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()


def test_posts_at_once_are_all_answered_and_kept_in_order(small: Server) -> None:
    answers: list[dict[str, Any]] = []

    def post(number: int) -> None:
        body = SHORT | {"message": f"message {number}", "session_id": "crowd", "max_tokens": 20}
        response = small.post("/chat", body)
        assert response.status_code == 200, response.text
        answers.append(response.json())

    at_once(*(lambda number=number: post(number) for number in range(8)))
    body = small.get("/sessions/crowd").json()
    assert body["rounds"] == len(answers) == 8
    assert sorted(said(small, "crowd")) == [f"message {number}" for number in range(8)]
    pairs = [body["messages"][index : index + 2] for index in range(0, 16, 2)]
    assert {(ask["content"], answer["content"]) for ask, answer in pairs} == {
        (answer["message"], answer["response"]) for answer in answers
    }
    assert [one["role"] for one in body["messages"]] == ["user", "assistant"] * 8


def test_the_second_of_two_posts_knows_the_first(small: Server) -> None:
    """Its prompt has the first round in it, although it was sent before that was answered."""
    first = connect(small, LONG | {"session_id": "two", "stream": True})
    with first:
        read_until(first, b'"delta":""')
        with connect(small, SHORT | {"session_id": "two", "message": "second"}) as second:
            read_until(first, b"[DONE]")
            read_until(second, b'"status":"success"')
    assert said(small, "two") == ["hello", "second"]
    counts = [list(map(int, found)) for found in re.findall(r"(\d+) \+ (\d+) tokens, ", small.log)]
    (prompt, answered), (last, _) = counts[-2:]
    assert last > prompt + answered / 2


def test_a_client_that_leaves_mid_turn_leaves_no_round(small: Server) -> None:
    assert small.post("/chat", SHORT | {"session_id": "left"}).ok
    for stream in (True, False):
        connection = connect(small, FOREVER | {"session_id": "left", "stream": stream})
        wait_until(lambda: small.get("/status").json()["running"] == 1)
        if stream:
            connection.recv(100)
        reset(connection)
        wait_until(lambda: is_idle(small))
    assert small.post("/chat", SHORT | {"session_id": "left", "message": "after"}).ok
    assert said(small, "left") == ["hello", "after"]


def test_clients_that_leave_the_line_let_the_others_in(small: Server) -> None:
    before = small.log.count("POST /chat 499")
    first = connect(small, FOREVER | {"session_id": "line", "stream": True})
    read_until(first, b'"delta":""')
    waiting = [connect(small, SHORT | {"session_id": "line", "message": f"left {n}"}) for n in range(10)]
    last = connect(small, SHORT | {"session_id": "line", "message": "last"})
    for connection in waiting:
        reset(connection)
    wait_until(lambda: small.log.count("POST /chat 499") >= before + 10)
    reset(first)
    with last:
        read_until(last, b'"status":"success"')
    assert said(small, "line")[-1] == "last"
    wait_until(lambda: is_idle(small))


def test_a_reset_in_the_middle_comes_after_the_turn(small: Server) -> None:
    with connect(small, LONG | {"session_id": "middle", "stream": True}) as connection:
        read_until(connection, b'"delta":""')
        assert small.post("/reset", {"session_id": "middle"}).ok
        read_until(connection, b'"status":"success"')
    assert small.get("/sessions/middle").status_code == 404


def test_a_kill_between_and_within_turns_loses_no_round(
    tmp_path: pathlib.Path, endless: pathlib.Path
) -> None:
    flags = ("--model", str(endless))
    answers = []
    for number in range(2):
        with running(tmp_path, *flags) as server:
            assert server.get("/status").json()["conversation_length"] == 2 * number
            answers.append(server.post("/chat", SHORT | {"message": f"message {number}"}).json()["response"])
            in_the_middle = connect(server, FOREVER | {"message": "cut", "stream": True})
            read_until(in_the_middle, b'"delta":""')
            for process in (
                *psutil.Process(server.process.pid).children(),
                psutil.Process(server.process.pid),
            ):
                os.kill(process.pid, signal.SIGKILL)
            server.process.wait(20)
            in_the_middle.close()
    with running(tmp_path, *flags) as server:
        messages = server.get("/sessions/default").json()["messages"]
    assert [one["content"] for one in messages] == [
        text for number, answer in enumerate(answers) for text in (f"message {number}", answer)
    ]


def test_a_worker_that_dies_leaves_the_history_to_the_next(
    tmp_path: pathlib.Path, tiny: Callable[[str], pathlib.Path]
) -> None:
    with running(tmp_path, "--model", str(tiny("qwen2"))) as server:
        assert server.post("/chat", SHORT).ok
        os.kill(server.worker(), signal.SIGKILL)
        wait_until(lambda: server.log.count("Booting worker") == 2)

        def kept() -> bool:
            try:
                return said(server, "default") == ["hello"]
            except requests.ConnectionError:
                return False

        wait_until(kept)
        assert server.post("/chat", SHORT | {"message": "second"}).ok
        assert said(server, "default") == ["hello", "second"]


def test_a_turn_that_fails_leaves_the_history_as_it_was(faulty: Server) -> None:
    assert faulty.post("/chat", SHORT).ok
    for tokens, status in ((77, 500), (78, 500), (79, 503), (80, 500)):
        answer = faulty.post("/chat", SHORT | {"max_tokens": tokens})
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert isinstance(answer.json()["error"], str)
        assert "secret" not in answer.text
        stream = faulty.post("/chat", SHORT | {"max_tokens": tokens, "stream": True})
        last = stream.text.strip().split("\n\n")[-2:]
        assert last[0].startswith('event: error\ndata: {"error":"')
        assert last[1] == "data: [DONE]"
    assert faulty.post("/chat", SHORT | {"message": "after"}).ok
    assert said(faulty, "default") == ["hello", "after"]


def test_fifty_turns_that_leave_or_fail_hold_nothing(small: Server) -> None:
    process = psutil.Process(small.worker())
    wait_until(lambda: is_idle(small))
    files = process.num_fds()

    def turn(number: int) -> None:
        connection = connect(small, FOREVER | {"session_id": f"s{number % 5}", "stream": number % 2 == 0})
        connection.settimeout(0.02 * (number % 10))
        try:
            connection.recv(100)
        except (TimeoutError, BlockingIOError):
            pass
        finally:
            reset(connection)

    at_once(*(lambda number=number: turn(number) for number in range(50)))
    wait_until(lambda: is_idle(small))
    wait_until(lambda: process.num_fds() <= files + 2)
    for number in range(5):
        assert small.post("/chat", SHORT | {"session_id": f"s{number}"}).ok
        assert said(small, f"s{number}") == ["hello"]
