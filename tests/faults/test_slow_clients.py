"""Clients that drip their requests, or do not read their answers: they end, and others do not notice."""

import json
import pathlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import Server, png, running, scene, wait_until

IMPATIENT = """
import socket, sys
from app.routes import slow
slow.HEAD_SECONDS, slow.HURRIED_SECONDS, slow.BODY_SECONDS, slow.SEND_SECONDS = 3.0, 1.0, 3.0, 2.0
class Readings(slow.Readings):
    def head(self, connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        super().head(connection)
slow.Readings = Readings
from app.__main__ import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""
"""The server with less patience and small buffers, so that a test need not wait for minutes and megabytes."""
HELLO: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hello"}],
    "temperature": 1.5,
    "ignore_eos": True,
    "max_tokens": 300,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], pathlib.Path]) -> Iterator[Server]:
    """4 streams, 4 places in the queue, and so 24 threads."""
    flags = ("--model", str(tiny("qwen2")), "--max-concurrent", "4", "--max-queue", "4")
    folder = tmp_path_factory.mktemp("slow")
    with running(folder, *flags, command=(sys.executable, "-c", IMPATIENT)) as started:
        started.post("/v1/chat/completions", HELLO | {"max_tokens": 2})
        yield started


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    connection.settimeout(30)
    return connection


def head(length: int) -> bytes:
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json")
    return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode()


def quick(server: Server) -> float:
    """Seconds that /health takes."""
    began = time.monotonic()
    assert server.get("/health").ok
    return time.monotonic() - began


def test_streams_that_nobody_reads_give_their_places_back(server: Server) -> None:
    body = json.dumps(HELLO | {"stream": True}).encode()
    connections = [connect(server) for _ in range(8)]
    for connection in connections:
        connection.sendall(head(len(body)) + body)
    wait_until(lambda: server.log.count("a client has stopped to read its answer") == 8, 60)
    wait_until(lambda: "vlserve_active_generations 0.0" in server.get("/metrics").text)
    assert server.post("/v1/chat/completions", HELLO | {"max_tokens": 2}).ok
    assert "Traceback" not in server.log
    for connection in connections:
        connection.close()


def test_headers_that_drip_in_end(server: Server) -> None:
    connection = connect(server)
    began = time.monotonic()
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ")
    try:
        while time.monotonic() - began < 20:
            connection.sendall(b"a")
            time.sleep(0.2)
    except OSError:
        pass
    assert 2 < time.monotonic() - began < 15
    connection.close()


@pytest.mark.parametrize("begun", [b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ", head(16_000_000) + b"{"])
def test_more_dripping_clients_than_threads_do_not_keep_others_out(server: Server, begun: bytes) -> None:
    connections = [connect(server) for _ in range(60)]
    for connection in connections:
        connection.sendall(begun)
    assert quick(server) < 15
    for connection in connections:
        connection.close()
    wait_until(lambda: quick(server) < 1)


def test_a_body_that_drips_in_is_a_408(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(head(1000) + b'{"messages": ')
        answer = b""
        while b'"code":"request_timeout"' not in answer:  # head and body may come apart
            block = connection.recv(4096)
            assert block, answer
            answer += block
    assert b"408" in answer.partition(b"\r\n")[0], answer


def test_an_upload_that_has_come_may_be_answered_late(tmp_path: pathlib.Path) -> None:
    """The first one waits for the model to be loaded."""
    impatient = IMPATIENT.replace("slow.Readings = Readings", "slow.BODY_SECONDS = 0.3")
    with running(tmp_path, command=(sys.executable, "-c", impatient)) as server:
        answer = requests.post(
            f"{server.url}/v1/media/describe",
            data={"prompt": "What is in this picture?"},
            files={"file": png(scene())},
            timeout=90,
        )
        assert "red circle" in answer.text


def test_clients_that_keep_their_end_open_do_not_stop_the_others(server: Server) -> None:
    process = psutil.Process(server.worker())
    files = process.num_fds()
    connections = [connect(server) for _ in range(10)]
    for connection in connections:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert b"200" in connection.recv(4096)
    assert quick(server) < 2  # gunicorn's own way takes two seconds for each of them
    wait_until(lambda: process.num_fds() <= files + 2)
    for connection in connections:
        connection.close()
