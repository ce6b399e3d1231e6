"""The worker: what is no HTTP gets an answer as others do, and a request's id ends with the request."""

import json
import pathlib
import re
import socket
from collections.abc import Iterator

import pytest
import requests

from tests.conftest import Server, asks, running, wait_until


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with JSON logs."""
    with running(tmp_path_factory.mktemp("worker"), "--log-format", "json") as started:
        yield started


def sent(server: Server, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to some bytes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while block := connection.recv(4096):
            found += block
    head, _, body = found.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def lines(server: Server) -> list[dict[str, object]]:
    """The lines of its log, each of which must be an object."""
    return [json.loads(line) for line in server.log.splitlines() if not line.startswith("vlserve: ")]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"secret-line\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header: secret-line\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: secret-line\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n", 431),
        (b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzipped\r\n\r\n", 501),
        (b"POST /chat HTTP/1.1\r\nHost: x\r\nExpect: secret-line\r\nContent-Length: 2\r\n\r\n{}", 417),
    ],
)
def test_what_is_no_http_gets_an_error_with_an_id_and_a_line(
    logged: Server, data: bytes, status: int
) -> None:
    found, headers, body = sent(logged, data)
    assert found == status
    assert headers["Content-Type"] == "application/json"
    assert int(headers["Content-Length"]) == len(body)
    error = json.loads(body)["error"]
    assert error["message"].endswith(".")
    assert (error["type"], error["param"]) == ("invalid_request_error", None)
    name = headers["x-request-id"]
    (entry,) = wait_until(lambda: [entry for entry in lines(logged) if entry["request_id"] == name])
    assert (entry["status"], entry["route"]) == (status, "none")
    assert "secret-line" not in logged.log
    counted = f'vlserve_requests_total{{method="other",route="none",status="{status}"}}'
    assert counted in logged.get("/metrics").text


def test_the_next_request_on_a_connection_does_not_get_the_id_of_the_one_before(logged: Server) -> None:
    first = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-request-id: mine-alone\r\n\r\n"
    for _ in range(20):  # whichever thread takes it
        sent(logged, first + b"no HTTP\r\n\r\n")
    named = [entry for entry in lines(logged) if entry["request_id"] == "mine-alone"]
    assert {entry["logger"] for entry in named} == {"app.routes.access"}
    assert {entry["path"] for entry in named} == {"/v1/models"}


def test_gunicorns_own_lines_have_no_request_of_the_past(tmp_path: pathlib.Path) -> None:
    body = {"messages": asks("hi"), "max_tokens": 3, "stream": True}
    with running(tmp_path, "--log-format", "json") as server:
        for number in range(3):
            answer = server.post("/v1/chat/completions", body, headers={"x-request-id": f"mine-{number}"})
            assert answer.text.endswith("data: [DONE]\n\n")
    entries = lines(server)
    mine = [entry for entry in entries if re.fullmatch(r"mine-\d", str(entry["request_id"]))]
    streams = [entry for entry in mine if entry["logger"] == "app.routes.access"]
    assert [entry["request_id"] for entry in streams] == ["mine-0", "mine-1", "mine-2"]
    gunicorn = [entry for entry in entries if entry["logger"] == "gunicorn.error"]
    assert len(gunicorn) > 3
    assert {entry["request_id"] for entry in gunicorn} == {"-"}


def test_a_method_that_an_address_does_not_have_is_counted_at_the_address(logged: Server) -> None:
    assert requests.delete(f"{logged.url}/v1/models/demo", timeout=20).status_code == 405
    counted = 'vlserve_requests_total{method="DELETE",route="/v1/models/{name}",status="405"} 1.0'
    assert counted in logged.get("/metrics").text
