"""The client's end of the API: addresses, keys, streams, and what goes wrong on the way."""

import argparse
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from app import client
from app.client import CallError, Remote
from app.flags import Parser, SettingsError
from tests.fake_server import CHAT, FakeServer, event, fake_server, says

NAMES = ("URL", "API_KEY", "API_HEADER", "API_PREFIX", "HOST", "PORT")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"VLSERVE_{name}", raising=False)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with fake_server() as made:
        yield made


def given(*arguments: str) -> argparse.Namespace:
    parser = Parser(allow_abbrev=False)
    client.add_flags(parser)
    return parser.parse_args(list(arguments))


def texts(server: Remote, body: Any = None) -> list[str]:
    with contextlib.closing(server.events(CHAT, body or {})) as events:
        return [choice["delta"].get("content", "") for event in events for choice in event["choices"]]


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://127.0.0.1:9000/v1/", "http://127.0.0.1:9000"),
        ("host.example:81", "http://host.example:81"),
        ("https://host.example/models/v1", "https://host.example/models"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        (" localhost ", "http://localhost"),
    ],
)
def test_an_address_may_be_short_or_a_base_url(written: str, url: str) -> None:
    assert client.remote(given("--url", written)).url == url


@pytest.mark.parametrize(
    "written",
    [
        "",
        "ftp://host",
        "http://",
        "http://h:x",
        "http://h:70000",
        "http://a b",
        "http://h/?a=1",
        "http://u:p@h",
    ],
)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(SettingsError, match=r"--url .*expected an address"):
        client.remote(given(f"--url={written}"))


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"HOST": "0.0.0.0", "PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"HOST": "::1"}, "http://[::1]:8000"),
        ({"URL": "http://else.example", "PORT": "9000"}, "http://else.example"),
    ],
)
def test_without_a_flag_the_servers_own_variables_lead_to_it(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"VLSERVE_{name}", value)
    assert client.remote(given()).url == url
    assert client.remote(given("-u", "http://flag.example")).url == "http://flag.example"


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ((), {}),
        (("--api-key", "sk-1"), {"Authorization": "Bearer sk-1"}),
        (("--api_key", "sk-1", "--api-prefix", "Token"), {"Authorization": "Token sk-1"}),
        (("--api-key", "sk-1", "--api-prefix", "none"), {"Authorization": "sk-1"}),
        (("--api-key", "sk-1", "--api-header", "X-API-Key"), {"X-API-Key": "sk-1"}),
        (
            ("--api-key", "sk-1", "--api_header", "X-API-Key", "--api-prefix", "Key"),
            {"X-API-Key": "Key sk-1"},
        ),
    ],
)
def test_a_key_is_sent_as_the_server_wants_it(
    fake: FakeServer, arguments: tuple[str, ...], headers: dict[str, str]
) -> None:
    fake.answers[CHAT] = says("hi")
    assert "hi" in texts(client.remote(given("-u", fake.url, *arguments)))
    sent = fake.requests[0][1]
    assert {name: sent.get(name) for name in ("Authorization", "X-API-Key") if name in sent} == headers


def test_the_first_key_of_the_variable_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLSERVE_API_KEY", "one, two")
    assert client.remote(given()).headers == (("Authorization", "Bearer one"),)
    assert client.remote(given("--api-key", "three")).headers == (("Authorization", "Bearer three"),)
    assert client.remote(given("--api-key", "")).headers == ()


@pytest.mark.parametrize(
    "arguments", [("--api-key", "a\nb"), ("--api-header", "X Y"), ("--api-header", "X:Y")]
)
def test_what_cannot_be_a_header_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match=arguments[0]):
        client.remote(given(*arguments))


def test_a_path_of_the_address_is_kept(fake: FakeServer) -> None:
    fake.answers["/models/status"] = (200, {"fine": True})
    assert Remote(f"{fake.url}/models").call("GET", "/status") == {"fine": True}


@pytest.mark.parametrize(
    ("answer", "kind", "part"),
    [
        ((429, {"error": {"message": "too many", "code": "overloaded"}}), "429 overloaded", "too many"),
        ((400, {"error": "no message"}), "400", "no message"),
        ((401, {"error": {"message": "no", "code": "invalid_api_key"}}), "401 invalid_api_key", "--api-key"),
        ((502, b"<html>bad gateway</html>"), "502", "bad gateway"),
        ((500, b""), "500", "status 500"),
        ((200, [event(content="a"), {"error": {"message": "oh", "code": "generation_failed"}}]),
         "in a stream: generation_failed", "oh"),
        ((200, [event(content="a")]), "stream cut", "before its end"),
        ((200, [b"data: {\"choi"]), "not JSON", "not JSON"),
        ((403, {"error": {"message": "\x1b[2Jgone\x07"}}), "403", "[2Jgone"),
    ],
)  # fmt: skip
def test_what_goes_wrong_has_a_kind_and_a_message(
    fake: FakeServer, answer: tuple[int, Any], kind: str, part: str
) -> None:
    fake.answers[CHAT] = answer
    with pytest.raises(CallError) as caught:
        texts(Remote(fake.url))
    assert caught.value.kind == kind
    assert part in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.connected


def test_an_answer_that_is_not_json_is_named(fake: FakeServer) -> None:
    fake.answers["/status"] = (200, b"<html>hello</html>")
    with pytest.raises(CallError, match="not JSON"):
        Remote(fake.url).call("GET", "/status")


def test_comments_and_other_lines_of_a_stream_are_passed_over(fake: FakeServer) -> None:
    status, pieces = says("a", "b")
    fake.answers[CHAT] = (status, [b": ping\n\n", *pieces[:2], b"event: x\nid: 3\n\n", *pieces[2:]])
    assert "".join(texts(Remote(fake.url))) == "ab"


def test_no_server_is_told_from_a_silent_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(CallError) as caught:
            Remote(url, timeout=0.2).call("GET", "/status")
        assert (caught.value.kind, caught.value.connected) == ("timed out", True)
    with pytest.raises(CallError, match=f"no server answers at {url}") as caught:
        Remote(url).call("GET", "/status")
    assert (caught.value.kind, caught.value.connected) == ("no connection", False)


def test_closing_a_stream_closes_its_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Remote(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=10)
        events = server.events(CHAT, {})
        with pytest.raises(CallError):  # the connection is made when the first event is asked for
            next(Remote("http://127.0.0.1:1").events(CHAT, {}))
        listening.settimeout(10)

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(10)
                connection.recv(65536)
                connection.sendall(b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": []}\n\n')
                while connection.recv(65536):
                    pass
                ended.append(True)

        ended: list[bool] = []
        thread = threading.Thread(target=answer)
        thread.start()
        assert next(events) == {"choices": []}
        events.close()
        thread.join(10)
        assert ended == [True]
