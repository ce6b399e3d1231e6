"""A server that is told to stop or to reload, and a worker that dies, while streams run."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.conftest import Server, running, wait_until

HELLO: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hello"}],
    "temperature": 1.5,
    "ignore_eos": True,
    "stream": True,
}
STREAMS = 32
LONG = 15000
"""Tokens, for which even a tiny model needs a long time."""


class Stream(threading.Thread):
    """A client that reads its stream to the end, whatever that is."""

    def __init__(self, server: Server, tokens: int, seed: int = 1) -> None:
        super().__init__()
        self.url = f"{server.url}/v1/chat/completions"
        self.body = HELLO | {"max_tokens": tokens, "seed": seed}
        self.text = ""
        self.problem: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with requests.post(self.url, json=self.body, stream=True, timeout=90) as answer:
                for block in answer.iter_content(None):
                    self.text += block.decode()
        except Exception as problem:
            self.problem = problem

    def has_begun(self) -> bool:
        return self.text.count("data:") > 2

    def is_complete(self) -> bool:
        return self.ended() and '"finish_reason":"length"' in self.text and "event: error" not in self.text

    def ended(self) -> bool:
        """With the protocol's own end, not by a cut."""
        return self.problem is None and self.text.endswith("data: [DONE]\n\n")

    def end(self) -> str:
        """How it ended, for a failing test."""
        return f"{self.problem!r} {self.text[-300:]}"


def open_streams(server: Server, count: int, tokens: int) -> list[Stream]:
    streams = [Stream(server, tokens, seed) for seed in range(count)]
    wait_until(lambda: all(stream.has_begun() for stream in streams), 60)
    return streams


def join(streams: list[Stream]) -> None:
    for stream in streams:
        stream.join(90)
        assert not stream.is_alive()


def ready(session: requests.Session, server: Server) -> requests.Response:
    return session.get(f"{server.url}/health/ready", timeout=10)


@pytest.fixture
def start(
    tmp_path: pathlib.Path, endless: pathlib.Path
) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """A server, its model loaded."""

    @contextlib.contextmanager
    def started(*flags: str) -> Iterator[Server]:
        with running(tmp_path, "--model", str(endless), *flags) as server:
            server.post("/v1/chat/completions", HELLO | {"stream": False, "max_tokens": 2})
            yield server

    return started


def test_a_stop_lets_32_streams_finish_and_refuses_others(start: Any) -> None:
    with start("--drain-timeout", "90") as server, requests.Session() as kept:
        assert ready(kept, server).ok
        streams = open_streams(server, STREAMS, 200)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Handling signal: term" in server.log)
        old = ready(kept, server)
        new = [requests.get(f"{server.url}/health/ready", timeout=10) for _ in range(2)]
        refused = server.post("/v1/chat/completions", HELLO | {"max_tokens": 2})
        assert not all(stream.ended() for stream in streams), "the streams were too short for this test"
        join(streams)
        assert [stream.end() for stream in streams if not stream.is_complete()] == []
        for answer in (old, *new):
            assert (answer.status_code, answer.json()["status"]) == (503, "draining")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.headers["Connection"] == "close"
        assert server.process.wait(15) == 0
        assert "Traceback" not in server.log


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_what_the_drain_is_too_short_for_ends_with_an_error_event(start: Any, how: int) -> None:
    """And clients that read nothing do not hold up the end."""
    with start("--drain-timeout", "2") as server, contextlib.ExitStack() as others:
        for _ in range(4):
            others.enter_context(unread(server, LONG))
        streams = open_streams(server, 4, LONG)
        whole = threading.Thread(
            target=lambda: answers.append(
                server.post("/v1/chat/completions", HELLO | {"stream": False, "max_tokens": LONG})
            )
        )
        answers: list[requests.Response] = []
        whole.start()
        wait_until(lambda: server.details()["running"] == 9)
        server.process.send_signal(how)
        join(streams)
        whole.join(30)
        assert server.process.wait(30) == 0
        for stream in streams:
            assert stream.ended(), (stream.problem, stream.text[-300:])
            error, finish, _ = stream.text.strip().split("\n\n")[-3:]
            assert error.startswith("event: error\ndata: ")
            assert json.loads(error.partition("data: ")[2])["error"]["code"] == "draining"
            assert '"finish_reason":"error"' in finish
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "draining")


def test_a_second_ctrl_c_waits_for_nothing(start: Any) -> None:
    with start("--drain-timeout", "3000") as server:
        streams = open_streams(server, 2, LONG)

        def interrupt() -> None:  # as a terminal does, which sends it to all processes
            for process in (server.worker(), server.process.pid):
                os.kill(process, signal.SIGINT)

        interrupt()
        wait_until(lambda: "2 requests still run, for 3000 s at most; Ctrl-C again ends" in server.log)
        assert not any(stream.ended() for stream in streams)
        interrupt()
        join(streams)
        assert all('"code":"draining"' in stream.text and stream.ended() for stream in streams)
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log


def unread(server: Server, tokens: int) -> socket.socket:
    """A connection with a small window, on which a stream has been asked for and nothing is read."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    body = json.dumps(HELLO | {"max_tokens": tokens, "logprobs": True, "top_logprobs": 20}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, endless: pathlib.Path) -> Iterator[Server]:
    """A server that outlives what its workers meet."""
    # The time for a drain does not count when it reloads.
    flags = ("--model", str(endless), "--drain-timeout", "1")
    with running(tmp_path_factory.mktemp("lasting"), *flags) as server:
        server.post("/v1/chat/completions", HELLO | {"stream": False, "max_tokens": 2})
        yield server


def test_a_reload_loses_none_of_32_streams_and_serves_meanwhile(lasting: Server) -> None:
    first = lasting.worker()
    streams = open_streams(lasting, STREAMS, 200)
    lasting.process.send_signal(signal.SIGHUP)
    wait_until(lambda: lasting.worker() != first)
    short = HELLO | {"max_tokens": 3}
    answers = [lasting.post("/v1/chat/completions", short) for _ in range(5)]
    join(streams)
    assert [stream.end() for stream in streams if not stream.is_complete()] == []
    assert [answer.status_code for answer in answers] == [200] * 5
    wait_until(lambda: not is_there(first), 30)
    assert lasting.post("/v1/chat/completions", short).ok
    assert lasting.process.poll() is None


def test_a_reload_of_what_cannot_be_is_refused(tmp_path: pathlib.Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one-key\n")
    with running(tmp_path, "--api-keys-file", str(keys)) as server:
        first = server.worker()
        keys.write_text('not "a" key\n')
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in server.log)
        known = {"Authorization": "Bearer one-key"}
        assert requests.get(f"{server.url}/v1/models", headers=known, timeout=10).ok
        keys.write_text("another-key\n")
        server.process.send_signal(signal.SIGHUP)
        known = {"Authorization": "Bearer another-key"}
        wait_until(lambda: server.worker() != first)
        wait_until(lambda: requests.get(f"{server.url}/v1/models", headers=known, timeout=10).ok)


def test_a_reload_that_waits_for_a_stream_hears_the_next_signal(
    tmp_path: pathlib.Path, endless: pathlib.Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one-key\n")
    known = {"Authorization": "Bearer one-key"}
    flags = ("--model", str(endless), "--drain-timeout", "300", "--api-keys-file", str(keys))
    with running(tmp_path, *flags) as server:
        url, body = f"{server.url}/v1/chat/completions", HELLO | {"max_tokens": LONG}
        with requests.post(url, json=body, headers=known, stream=True, timeout=90) as answer:
            blocks = answer.iter_content(None)
            next(blocks)
            keys.write_text("another-key\n")
            server.process.send_signal(signal.SIGHUP)
            known = {"Authorization": "Bearer another-key"}
            wait_until(lambda: requests.get(f"{server.url}/v1/models", headers=known, timeout=10).ok)
            keys.write_text('not "a" key\n')
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "not reloaded" in server.log, 30)
            keys.write_text("a-third-key\n")
            server.process.send_signal(signal.SIGHUP)
            known = {"Authorization": "Bearer a-third-key"}
            wait_until(lambda: requests.get(f"{server.url}/v1/models", headers=known, timeout=10).ok)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "requests still run" in server.log, 30)
            assert next(blocks)
        assert server.process.wait(30) == 0


def test_a_worker_that_dies_is_replaced_and_its_clients_know(lasting: Server) -> None:
    first = lasting.worker()
    streams = open_streams(lasting, 4, LONG)
    os.kill(first, signal.SIGKILL)
    for stream in streams:
        stream.join(30)
        assert stream.problem is not None
    wait_until(lambda: lasting.worker() != first)
    assert lasting.post("/v1/chat/completions", HELLO | {"max_tokens": 2}).ok


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
