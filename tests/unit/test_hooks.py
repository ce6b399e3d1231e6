"""What holds for every route: request ids, JSON bodies and errors in OpenAI's shape."""

import io
import json
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, Request
from flask.testing import FlaskClient

from app.errors import OutOfMemory
from app.routes.hooks import client_left
from tests.unit.conftest import HELLO

CHAT = "/v1/chat/completions"


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error object of a response of that status."""
    assert response.status_code == status
    assert response.mimetype == "application/json"
    body = response.get_json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return error


@pytest.mark.parametrize("given", ["abc", "a" * 128, "trace-1/2:3;{}~!"])
def test_a_request_id_that_can_be_is_kept(client: FlaskClient, given: str) -> None:
    assert client.get("/health", headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a" * 129, "two words", "tab\tbed", "é"])
def test_another_is_replaced_by_one_of_ours(client: FlaskClient, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    ids = {client.get("/health", headers=headers).headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", one) for one in ids)


@pytest.mark.parametrize("path", ["/v1/models", "/nothing", CHAT])
def test_every_answer_has_a_request_id(client: FlaskClient, path: str) -> None:
    assert client.get(path).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/ld+json"]
)
def test_json_is_read_by_its_type(client: FlaskClient, kind: str) -> None:
    data = b'{"messages": [{"role": "user", "content": "hello"}]}'
    assert client.post(CHAT, data=data, content_type=kind).status_code == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_another_type_is_refused(client: FlaskClient, kind: str | None) -> None:
    error = error_of(client.post(CHAT, data=b"{}", content_type=kind), 415)
    assert error["code"] == "unsupported_media_type"


def test_a_byte_order_mark_of_a_file_from_windows_is_passed_over(client: FlaskClient) -> None:
    data = b"\xef\xbb\xbf" + json.dumps(HELLO).encode()
    assert client.post(CHAT, data=data, content_type="application/json").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{} {}",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"seed": ' + b"1" * 5000 + b"}",
        b'{"a": "line\nbreak"}',
        '{"a": 1}'.encode("utf-16"),
    ],
    ids=range(12),
)
def test_what_is_no_json_is_refused(client: FlaskClient, data: bytes) -> None:
    error = error_of(client.post(CHAT, data=data, content_type="application/json"), 400)
    assert (error["code"], error["type"], error["param"]) == ("invalid_json", "invalid_request_error", None)
    assert len(error["message"]) < 300


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ([], None, "The body must be a JSON object."),
        ({}, "messages", "messages is missing."),
        (HELLO | {"temperature": 3}, "temperature", "temperature is 3; it must be 0 to 2."),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "messages[0].content[0].text is missing.",
        ),
    ],
)
def test_a_wrong_field_is_named(client: FlaskClient, body: Any, param: str | None, message: str) -> None:
    error = error_of(client.post(CHAT, json=body), 400)
    assert error == {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": "invalid_value",
    }


def test_fields_that_are_wrong_together_have_a_code_of_their_own(client: FlaskClient) -> None:
    for more, param in (
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens"),
        ({"stream_options": {}}, "stream_options"),
    ):
        error = error_of(client.post(CHAT, json=HELLO | more), 400)
        assert (error["code"], error["param"]) == ("invalid_parameter_combination", param)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/v1", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_a_wrong_path_or_method_is_refused_in_the_same_shape(
    client: FlaskClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.open(path, method=method)
    error = error_of(response, status)
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    if status == 405:
        assert "OPTIONS" in response.headers["Allow"]
    else:
        assert f"{method} {path}" in error["message"]


def test_the_methods_of_a_path_are_named(client: FlaskClient) -> None:
    assert client.get(CHAT).headers["Allow"] == "OPTIONS, POST"


def test_a_long_path_is_not_echoed_whole(client: FlaskClient) -> None:
    assert len(error_of(client.get("/" + "x" * 5000), 404)["message"]) < 300


def test_an_unexpected_error_is_logged_and_hidden(
    client: FlaskClient, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    app.extensions["house"].engine.script = [ZeroDivisionError("secret")]
    response = client.post(CHAT, json=HELLO, headers={"X-Request-Id": "trace-7"})
    error = error_of(response, 500)
    assert "secret" not in response.text
    assert error["type"] == "server_error"
    assert response.headers["x-request-id"] == "trace-7"
    assert "ZeroDivisionError: secret" in caplog.text


def test_an_error_outside_of_generation_names_its_request(
    client: FlaskClient, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    del app.extensions["registry"]
    error = error_of(client.get("/v1/models", headers={"X-Request-Id": "trace-8"}), 500)
    assert "trace-8" in error["message"]
    assert "registry" not in error["message"]
    assert "KeyError: 'registry'" in caplog.text


def test_an_overloaded_server_says_when_to_come_back(make_app: Callable[..., Flask]) -> None:
    app = make_app(max_concurrent=1, max_queue=0)
    ticket = app.extensions["house"].admission.enter()
    response = app.test_client().post(CHAT, json=HELLO)
    assert error_of(response, 429)["type"] == "rate_limit_error"
    assert int(response.headers["Retry-After"]) >= 1
    ticket.release()
    assert "Retry-After" not in app.test_client().post(CHAT, json=HELLO).headers


def test_out_of_memory_while_loading_is_a_503(client: FlaskClient, app: Flask) -> None:
    def load(*_: object) -> None:
        raise OutOfMemory("scripted does not fit.", retry_after=7)

    app.extensions["house"].load = load
    response = client.post(CHAT, json=HELLO)
    assert error_of(response, 503)["message"] == "scripted does not fit."
    assert response.headers["Retry-After"] == "7"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_a_413(make_app: Callable[..., Flask], chunked: bool) -> None:
    client = make_app(max_body_mb=0.125).test_client()
    data = b'{"messages": "' + b"x" * 200_000 + b'"}'
    more: dict[str, Any] = {"data": data}
    if chunked:
        more = {"input_stream": io.BytesIO(data), "environ_overrides": {"wsgi.input_terminated": True}}
    error = error_of(client.post(CHAT, content_type="application/json", **more), 413)
    assert (error["code"], error["type"]) == ("body_too_large", "invalid_request_error")
    assert "0.125 MiB" in error["message"]


@pytest.mark.parametrize("size", [104_857, 104_858])
def test_a_body_up_to_the_limit_is_read(make_app: Callable[..., Flask], size: int) -> None:
    data = b'{"messages": [{"role": "user", "content": "hello"}]}'.ljust(size)
    response = make_app(max_body_mb=0.1).test_client().post(CHAT, data=data, content_type="application/json")
    assert response.status_code == (200 if size <= 104_857 else 413)


def test_the_chat_route_answers_whole(client: FlaskClient) -> None:
    body = client.post(CHAT, json=HELLO | {"model": "alias"}).get_json()
    assert body["choices"][0]["message"]["content"] == "Hello you"
    assert body["model"] == "scripted"


def test_an_unknown_model_is_a_404(client: FlaskClient) -> None:
    error = error_of(client.post(CHAT, json=HELLO | {"model": "nobody"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_a_client_that_left_gets_an_empty_499(client: FlaskClient) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        response = client.post(CHAT, json=HELLO, environ_overrides={"gunicorn.socket": ours})
    assert (response.status_code, response.data) == (499, b"")


class Broken:
    """A socket whose recv raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def recv(self, *_: int) -> bytes:
        raise self._error


def left(connection: object) -> bool:
    environ = {} if connection is None else {"gunicorn.socket": connection}
    return client_left(Request(environ))()


def test_a_client_is_seen_to_leave_and_keeps_its_bytes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not left(ours)
        theirs.sendall(b"next request")
        assert not left(ours)
        assert ours.recv(100) == b"next request"
        theirs.shutdown(socket.SHUT_WR)
        assert left(ours)
    assert left(ours)  # closed on our side as well


@pytest.mark.parametrize(
    ("connection", "gone"),
    [
        (None, False),
        (Broken(BlockingIOError()), False),
        (Broken(ValueError("non-zero flags not allowed in calls to recv() on SSLSocket")), False),
        (Broken(ConnectionResetError()), True),
    ],
)
def test_what_the_socket_says_decides(connection: object, gone: bool) -> None:
    assert left(connection) is gone
