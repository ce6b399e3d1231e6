"""Clients that go away: their generations stop, and nothing is left of them."""

import contextlib
import json
import pathlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
from werkzeug.serving import make_server

from app import create_app
from app.settings import Settings
from tests.conftest import Server, reset, running, wait_until

LONG = {"messages": [{"role": "user", "content": "hello"}], "temperature": 1.5, "max_tokens": 15000}
"""More than the tests have time for."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, endless: pathlib.Path) -> Iterator[Server]:
    """A server with few turns and a model that does not stop by itself."""
    flags = ("--model", str(endless), "--max-concurrent", "4", "--max-queue", "60")
    with running(tmp_path_factory.mktemp("small"), *flags) as server:
        server.post("/v1/chat/completions", LONG | {"max_tokens": 2})  # loads the model
        yield server


def open_stream(url: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which the request has been sent and nothing was read."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    data = json.dumps({"stream": True} | body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def read_token(connection: socket.socket) -> None:
    """Read until a chunk with text has come."""
    seen = b""
    while b'"delta":{"content"' not in seen:
        block = connection.recv(4096)
        assert block, seen
        seen += block


def is_idle(server: Server) -> bool:
    details = server.details()
    return (details["running"], details["waiting"]) == (0, 0)


def answer(server: Server) -> Any:
    return server.post("/v1/chat/completions", LONG | {"temperature": 0, "max_tokens": 20}).json()["choices"]


def test_50_clients_vanish_after_the_first_token(small: Server) -> None:
    usual = answer(small)
    process = psutil.Process(small.worker())
    wait_until(lambda: is_idle(small))
    files = process.num_fds()

    def vanish() -> None:
        connection = open_stream(small.url, LONG)
        read_token(connection)
        reset(connection)

    clients = [threading.Thread(target=vanish) for _ in range(50)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    wait_until(lambda: is_idle(small))
    wait_until(lambda: process.num_fds() <= files + 2)
    assert answer(small) == usual
    assert small.log.count("client disconnected") == 50


def test_no_thread_is_left_over(endless: pathlib.Path) -> None:
    """In this process, where every thread is seen, behind a server that ends its request threads."""
    settings = Settings(model=str(endless), max_concurrent=4, max_queue=60, request_timeout=60)
    app = create_app(settings)
    web = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{web.port}"
    try:
        requests.post(f"{url}/v1/chat/completions", json=LONG | {"max_tokens": 2}, timeout=60)
        wait_until(lambda: not generating())
        before = passing()
        streams = [open_stream(url, LONG) for _ in range(50)]
        wait_until(lambda: len(generating()) > 40)
        read_token(streams[0])
        for stream in streams:
            reset(stream)
        wait_until(lambda: passing() <= before, 60)
    finally:
        web.shutdown()
        web.server_close()
        app.extensions["registry"].close()


def passing() -> set[threading.Thread]:
    """All threads but the few that stay to prepare prompts."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("prepare_")}


def generating() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "generate"]


def test_resets_before_anything_is_read_lose_no_place(small: Server) -> None:
    for _ in range(200):
        reset(open_stream(small.url, LONG))
    wait_until(lambda: is_idle(small), 60)
    assert answer(small)


def test_clients_that_leave_the_queue_never_start(small: Server) -> None:
    before = small.log.count("client disconnected")
    with contextlib.ExitStack() as streams:
        for _ in range(4):
            streams.enter_context(open_stream(small.url, LONG))
        wait_until(lambda: small.details()["running"] == 4)
        waiting = [
            streams.enter_context(open_stream(small.url, LONG)) for _ in range(40)
        ]  # ten rounds of four
        wait_until(lambda: small.details()["waiting"] >= 30)
        for connection in waiting:
            reset(connection)
        wait_until(lambda: small.details()["waiting"] == 0, 20)
    wait_until(lambda: is_idle(small))
    assert small.log.count("client disconnected") >= before + 30


def test_a_client_that_waits_for_a_whole_answer_and_leaves_stops_it(small: Server) -> None:
    host, port = small.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    data = json.dumps(LONG).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    wait_until(lambda: small.details()["running"] == 1)
    connection.close()
    wait_until(lambda: is_idle(small), 10)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_shuts_its_sending_half_down_counts_as_gone(small: Server, stream: bool) -> None:
    with open_stream(small.url, LONG | {"stream": stream}) as connection:
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # until its end, which may not keep one waiting
            pass
    wait_until(lambda: is_idle(small))


def test_more_than_run_and_wait_are_refused_at_once(small: Server) -> None:
    inside = [open_stream(small.url, LONG) for _ in range(64)]
    wait_until(lambda: sum(small.details()[key] for key in ("running", "waiting")) == 64, 30)
    refused = small.post("/v1/chat/completions", LONG | {"max_tokens": 1})
    for connection in inside:
        reset(connection)
    wait_until(lambda: is_idle(small), 60)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"]
    assert refused.json()["error"]["code"] == "overloaded"
