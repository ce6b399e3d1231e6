"""Pages of other sites: those of named origins may call, others cannot drive a server without keys."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.errors import GenerationFailed
from tests.unit.conftest import HELLO

CHAT = "/v1/chat/completions"
PAGE, EVIL = "http://page.example:3000", "https://evil.example"
KEY = "sk-some-key"
ALLOW = "Access-Control-Allow-Origin"


def preflight(client: FlaskClient, path: str, origin: str, **more: str) -> Any:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"} | more
    return client.options(path, headers=headers)


def cors(response: Any) -> dict[str, str]:
    return {name: value for name, value in response.headers if name.startswith("Access-Control-")}


@pytest.fixture
def named(make_app: Callable[..., Flask]) -> FlaskClient:
    return make_app(cors_origin=(PAGE, "app://Obsidian.md"), api_key=(KEY,)).test_client()


def test_by_default_no_page_may_read_anything(client: FlaskClient) -> None:
    assert cors(client.get("/v1/models", headers={"Origin": PAGE})) == {}
    assert cors(preflight(client, CHAT, PAGE)) == {}
    assert "Origin" not in client.get("/v1/models").vary


@pytest.mark.parametrize("origin", [PAGE, PAGE.upper(), "app://obsidian.md"])
@pytest.mark.parametrize("path", [CHAT, "/chat", "/sessions/x", "/v1/models", "/health", "/nothing"])
def test_a_preflight_is_answered_without_a_key(named: FlaskClient, path: str, origin: str) -> None:
    asked = "authorization,content-type,x-stainless-lang"
    response = preflight(named, path, origin, **{"Access-Control-Request-Headers": asked})
    assert (response.status_code, response.data) == (204, b"")
    assert cors(response) == {
        ALLOW: origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": asked,
        "Access-Control-Max-Age": "600",
    }
    assert {"Origin", "Access-Control-Request-Headers"} <= set(response.vary)


@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "null",
        "http://page.example",
        "https://page.example:3000",
        f"{PAGE}.evil.example",
        f"{PAGE}0",
        "*",
        "",
    ],
)
def test_another_origin_gets_nothing(named: FlaskClient, origin: str) -> None:
    response = preflight(named, CHAT, origin)
    assert response.status_code == 401
    assert cors(response) == {}
    response = named.get("/v1/models", headers={"Origin": origin, "Authorization": f"Bearer {KEY}"})
    assert response.status_code == 200  # the key is right; the browser hides it from the page
    assert cors(response) == {}
    assert "Origin" in response.vary


def test_an_options_request_that_is_no_preflight_needs_a_key(named: FlaskClient) -> None:
    assert named.options(CHAT, headers={"Origin": PAGE}).status_code == 401
    assert named.options(CHAT).status_code == 401


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/models", "GET", 200),
        ("/v1/models", "HEAD", 200),
        ("/v1/models", "DELETE", 405),
        ("/nothing", "GET", 404),
        ("/v1/models/nobody", "GET", 404),
        ("/sessions/nobody", "DELETE", 404),
        (CHAT, "POST", 415),
    ],
)
def test_answers_and_errors_have_the_headers(named: FlaskClient, path: str, method: str, status: int) -> None:
    headers = {"Origin": PAGE, "Authorization": f"Bearer {KEY}"}
    response = named.open(path, method=method, headers=headers)
    assert response.status_code == status
    assert response.headers[ALLOW] == PAGE
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert "x-request-id" in response.headers["Access-Control-Expose-Headers"]
    assert "Origin" in response.vary


def test_errors_that_come_early_and_late_have_them_too(named: FlaskClient) -> None:
    headers = {"Origin": PAGE}
    assert named.get("/v1/models", headers=headers).headers[ALLOW] == PAGE  # a 401
    headers["Authorization"] = f"Bearer {KEY}"
    house = named.application.extensions["house"]
    for error in (GenerationFailed("x"), ZeroDivisionError("x")):
        house.engine.script = [error]
        response = named.post(CHAT, json=HELLO, headers=headers)
        assert (response.status_code, response.headers[ALLOW]) == (500, PAGE)
    response = named.post(CHAT, data=b"{", content_type="application/json", headers=headers)
    assert (response.status_code, response.headers[ALLOW]) == (400, PAGE)


@pytest.mark.parametrize("path", [CHAT, "/chat"])
def test_streams_have_them(named: FlaskClient, path: str) -> None:
    headers = {"Origin": PAGE, "Authorization": f"Bearer {KEY}"}
    response = named.post(path, json=HELLO | {"message": "hi", "stream": True}, headers=headers)
    assert response.mimetype == "text/event-stream"
    assert response.headers[ALLOW] == PAGE
    assert "[DONE]" in response.text


@pytest.mark.parametrize("origins", [("*",), ("*", PAGE)])
def test_all_origins_may_call_but_without_credentials(
    make_app: Callable[..., Flask], origins: tuple[str, ...]
) -> None:
    client = make_app(cors_origin=origins, api_key=(KEY,)).test_client()
    for origin in (PAGE, EVIL, "null"):
        response = preflight(client, CHAT, origin, **{"Access-Control-Request-Headers": "authorization"})
        assert response.status_code == 204
        assert response.headers["Access-Control-Allow-Headers"] == "authorization"
        for one in (response, client.get("/v1/models", headers={"Origin": origin})):
            assert one.headers[ALLOW] == "*"
            assert "Access-Control-Allow-Credentials" not in one.headers
    assert client.get("/v1/models").status_code == 401


# What follows is about servers that ask for no key, which a browser on the same machine can reach.


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "localhost:8000",
            "127.0.0.1:8000",
            "[::1]:8000",
            "mybox:8000",
            "LOCALHOST",
            "192.168.1.7",
        ),
        *("api.localhost", "host.docker.internal:8000", "mybox.local", "", "localhost.", "127.1:8000"),
    ],
)
def test_names_of_this_machine_are_answered(client: FlaskClient, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "[::1",
        "[evil]",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "a.b.",
    ],
)
def test_a_name_that_a_stranger_may_have_pointed_here_is_not(client: FlaskClient, host: str) -> None:
    for path in ("/v1/models", "/sessions", "/status", "/nothing"):
        assert client.get(path, headers={"Host": host}).status_code == 403
    error = client.get("/v1/models", headers={"Host": host}).get_json()["error"]
    assert error["code"] == "forbidden"
    assert "--api-key" in error["message"]
    for path in ("/health", "/health/live", "/health/ready"):  # load balancers may call by any name
        assert client.get(path, headers={"Host": host}).get_json() == {"status": "healthy"}


@pytest.mark.parametrize("caller", ["192.0.2.7", "127.0.0.1, 2001:db8::7", "unknown", "192.0.2.7:4711"])
def test_what_a_proxy_passes_on_for_another_machine_needs_a_key(
    client: FlaskClient, make_app: Callable[..., Flask], caller: str
) -> None:
    headers = {"Host": "192.0.2.1:8080", "X-Forwarded-For": caller}
    error = client.post(CHAT, json=HELLO, headers=headers).get_json()["error"]
    assert error["code"] == "forbidden"
    assert "calls of this machine only" in error["message"]
    assert client.get("/health", headers=headers).get_json() == {"status": "healthy"}
    for here in ("127.0.0.1", "::1", "127.0.0.1, 127.0.0.1", ""):
        assert client.post(CHAT, json=HELLO, headers={"X-Forwarded-For": here}).status_code == 200
    for changes in ({"disable_api_auth": True}, {"api_key": (KEY,)}):
        other = make_app(**changes).test_client()
        allowed = headers | {"Authorization": f"Bearer {KEY}"}
        assert other.post(CHAT, json=HELLO, headers=allowed).status_code == 200


@pytest.mark.parametrize(
    "origin", [EVIL, "null", "http://localhost:3000", "http://localhost.evil.example", "http://[", "http://"]
)
def test_a_page_of_another_site_can_change_nothing(client: FlaskClient, origin: str) -> None:
    client.post("/chat", json={"message": "hi"})
    for method, path, body in (
        ("POST", "/reset", None),  # a simple request: no preflight protects it
        ("POST", "/chat", {"message": "hi"}),
        ("DELETE", "/sessions/default", None),
    ):
        response = client.open(path, method=method, json=body, headers={"Origin": origin})
        assert response.status_code == 403
        assert isinstance(response.get_json()["error"], str)
    assert client.get("/status").get_json()["conversation_length"] == 2


def test_json_that_is_sent_as_text_is_refused(client: FlaskClient) -> None:
    response = client.post("/chat", data=b'{"message": "hi"}', content_type="text/plain")
    assert response.status_code == 400


def test_the_servers_own_pages_and_programs_may_call(client: FlaskClient) -> None:
    for headers in ({"Origin": "http://localhost"}, {"Origin": "file://"}, {"Origin": ""}, {}):
        assert client.post("/reset", headers=headers).status_code == 200
    own = {"Origin": "http://127.0.0.1:8000", "Host": "127.0.0.1:8000"}
    assert client.post("/reset", headers=own).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [{"api_key": (KEY,)}, {"disable_api_auth": True}, {"cors_origin": ("*",)}, {"cors_origin": (EVIL,)}],
)
def test_a_key_or_the_owners_word_makes_this_unnecessary(
    make_app: Callable[..., Flask], changes: dict[str, Any]
) -> None:
    client = make_app(**changes).test_client()
    headers = {"Origin": EVIL, "Host": "evil.example", "Authorization": f"Bearer {KEY}"}
    assert client.post("/reset", headers=headers).status_code == 200
    assert client.get("/v1/models", headers=headers).status_code == 200
