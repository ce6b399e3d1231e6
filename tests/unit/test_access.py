"""One line a request: what it says as text, and as fields of a JSON line."""

import json
import logging
import re
import socket
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.errors import GenerationFailed
from app.telemetry import JsonFormatter
from tests.unit.conftest import HELLO

CHAT = "/v1/chat/completions"


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "app.routes.access"]


def line(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = records(caplog)
    return record.getMessage()


def fields(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = records(caplog)
    entry: dict[str, Any] = json.loads(JsonFormatter().format(record))
    return entry


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_plain_answer(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    size = len(client.get("/v1/models?key=secret").data)
    assert re.fullmatch(rf"GET /v1/models 200 in \d+ ms, {size} bytes", line(caplog))
    entry = fields(caplog)
    assert {"time", "level", "logger", "request_id", "message", "milliseconds"} <= entry.keys()
    assert (entry["method"], entry["route"], entry["path"], entry["status"], entry["bytes"]) == (
        "GET",
        "/v1/models",
        "/v1/models",
        200,
        size,
    )
    assert "secret" not in json.dumps(entry)


def test_an_answer_of_a_model_has_its_tokens(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.post(CHAT, json=HELLO, headers={"X-Request-Id": "trace-9"})
    assert re.fullmatch(
        rf"POST {CHAT} 200 in \d+ ms, \d+ bytes, 5 \+ 3 tokens, stop",
        line(caplog),
    )
    entry = fields(caplog)
    assert (entry["model"], entry["prompt_tokens"], entry["completion_tokens"]) == ("scripted", 5, 3)
    assert entry["finish_reasons"] == ["stop"]
    assert entry["request_id"] == "trace-9"


def test_a_stream_is_told_when_it_has_ended_with_all_its_bytes(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = client.post(CHAT, json=HELLO | {"stream": True}, buffered=False)
    assert not records(caplog)
    size = len(response.data)
    response.close()
    assert re.fullmatch(rf"POST {CHAT} 200 in \d+ ms, {size} bytes, 5 \+ 3 tokens, stop", line(caplog))


def test_a_stream_that_was_left_says_so(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    response = client.post(CHAT, json=HELLO | {"stream": True}, buffered=False)
    next(iter(response.response))
    response.close()
    assert line(caplog).endswith("5 + 0 tokens, client disconnected")


def test_a_client_that_left_before_its_answer_says_so(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        client.post(CHAT, json=HELLO, environ_overrides={"gunicorn.socket": ours})
    assert re.fullmatch(rf"POST {CHAT} 499 in \d+ ms, 0 bytes, client disconnected", line(caplog))


def test_a_generation_that_failed_says_so(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.application.extensions["house"].engine.script = [GenerationFailed("it broke.")]
    client.post(CHAT, json=HELLO)
    assert re.search(rf"POST {CHAT} 500 .* 5 \+ 0 tokens, failed", line(caplog))


def test_one_request_tells_nothing_of_the_one_before(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.post(CHAT, json=HELLO)
    caplog.clear()
    client.post(CHAT, json={})
    assert re.fullmatch(rf"POST {CHAT} 400 in \d+ ms, \d+ bytes", line(caplog))
    assert "model" not in fields(caplog)


def test_a_long_path_is_cut_and_has_no_route(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/nothing" + "x" * 1000)
    assert len(line(caplog)) < 300
    assert fields(caplog)["route"] == "none"


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/metrics"])
def test_what_machines_ask_every_second_is_for_debugging(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    client.get(path)
    assert not records(caplog)
    caplog.set_level(logging.DEBUG)
    client.get(path)
    assert line(caplog).startswith(f"GET {path} 200")
