"""Keys: every address asks for one but those that are listed here, in all the ways a key can come or fail."""

import contextlib
import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.routes.keys import Keys, secure
from app.settings import Settings, SettingsError
from tests.unit.conftest import HELLO

OPEN = {"/health", "/health/live", "/health/ready", "/", "/docs", "/openapi.json"}
"""Addresses, and those below them, that need no key. Think before you add one."""
KEY, OTHER = "sk-first-key", "sk-second-key"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def locked(make_app: Callable[..., Flask]) -> FlaskClient:
    """A client of a server with two keys, which sends none by itself."""
    return make_app(api_key=(KEY, OTHER)).test_client()


def test_every_route_and_method_asks_for_a_key(locked: FlaskClient) -> None:
    rules = list(locked.application.url_map.iter_rules())
    assert len(rules) > 8
    for rule in rules:
        path = re.sub(r"<[^>]*>", "x", rule.rule)
        is_open = path in OPEN or path.startswith(("/docs/", "/playground/"))
        for method in METHODS:
            response = locked.open(path, method=method)
            asked = response.status_code == 401
            may = is_open and method in (rule.methods or ())
            assert asked == (not may), f"{method} {path}: {response.status_code}"
            if asked and method != "HEAD":
                assert response.is_json, f"{method} {path}"
                assert response.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "//v1/models",
            "/v1/models/",
            "/V1/models",
            "/v1/%6dodels",
            "/v1/models.",
            "/v1//models",
            "/v1/./models",
        ),
        *(
            "/health/../v1/models",
            "/health/x",
            "/healthz",
            "/health%2f..%2fv1/models",
            "/nothing",
            "/metrics",
        ),
        *("/chat/", "//chat", "/status/", "/sessions/", "/CHAT"),
    ],
)
def test_no_spelling_of_a_path_gets_around_it(locked: FlaskClient, path: str) -> None:
    for method in METHODS:
        assert locked.open(path, method=method).status_code == 401, method


def test_headers_that_claim_another_path_or_method_change_nothing(locked: FlaskClient) -> None:
    for name in (
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Forwarded-Prefix",
        "X-HTTP-Method-Override",
        "X-Forwarded-For",
    ):
        for value in ("/health", "OPTIONS", "127.0.0.1"):
            assert locked.get("/v1/models", headers={name: value}).status_code == 401


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_each_of_the_keys_opens(locked: FlaskClient, key: str) -> None:
    assert locked.get("/v1/models", headers=bearer(key)).status_code == 200
    assert locked.post("/v1/chat/completions", json=HELLO, headers=bearer(key)).status_code == 200
    assert locked.get("/nothing", headers=bearer(key)).status_code == 404


@pytest.mark.parametrize(
    "value",
    [
        f"bearer {KEY}",
        f"BEARER {KEY}",
        f"Bearer   {KEY}  ",
    ],
)
def test_the_word_before_the_key_is_read_as_http_means_it(locked: FlaskClient, value: str) -> None:
    assert locked.get("/v1/models", headers={"Authorization": value}).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            " ",
            "Bearer",
            "Bearer ",
            "Bearer none",
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            f"Bearer {KEY.upper()}",
        ),
        *(
            KEY,
            f"Basic {KEY}",
            f"Token {KEY}",
            f"Bearer Bearer {KEY}",
            f"Bearer {KEY} {OTHER}",
            f"Bearer {KEY},{OTHER}",
        ),
        *("Bearer kéy", "Bearer \xff\xfe", "Bearer " + "x" * 8000, f"Bearer {KEY}é"),
        f"Bearer {hashlib.sha256(KEY.encode()).hexdigest()}",
    ],
)
def test_anything_else_is_a_401_in_openais_shape(locked: FlaskClient, value: str) -> None:
    response = locked.get("/v1/models", headers={"Authorization": value})
    assert response.status_code == 401
    error = response.get_json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        None,
        "invalid_api_key",
    )
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="vlserve"'
    assert response.headers["x-request-id"]
    assert KEY not in response.text


def test_the_simple_api_has_its_own_shape(locked: FlaskClient) -> None:
    for path in ("/status", "/sessions", "/sessions/x"):
        response = locked.get(path)
        assert (response.status_code, list(response.get_json())) == (401, ["error"])
        assert isinstance(response.get_json()["error"], str)
        assert response.headers["WWW-Authenticate"]


def test_a_key_that_was_sent_is_told_from_none(locked: FlaskClient) -> None:
    assert "missing" in locked.get("/v1/models").get_json()["error"]["message"]
    assert "wrong" in locked.get("/v1/models", headers=bearer("x")).get_json()["error"]["message"]


def test_nothing_is_read_or_counted_without_a_key(locked: FlaskClient) -> None:
    assert locked.post("/v1/chat/completions", data=b"{", content_type="text/plain").status_code == 401
    assert locked.application.extensions["house"].engine.requests == []


@pytest.mark.parametrize(
    ("flags", "accepted", "refused"),
    [
        ({"api_header": "X-API-Key"}, {"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}),
        ({"api_header": "x-api-key"}, {"X-Api-Key": f"Bearer {KEY}"}, {"X-Api-Key": f"Token {KEY}"}),
        ({"api_prefix": "Token"}, {"Authorization": f"token {KEY}"}, {"Authorization": f"Bearer {KEY}"}),
        ({"api_prefix": "none"}, {"Authorization": KEY}, {"Authorization": f"Bearer {KEY}"}),
        (
            {"api_header": "X-Key", "api_prefix": "Token"},
            {"X-Key": f"Token {KEY}"},
            {"X-Key": f"Bearer {KEY}"},
        ),
    ],
)
def test_header_and_word_are_to_choose(
    make_app: Callable[..., Flask],
    flags: dict[str, str],
    accepted: dict[str, str],
    refused: dict[str, str],
) -> None:
    client = make_app(api_key=(KEY,), **flags).test_client()
    assert client.get("/v1/models", headers=accepted).status_code == 200
    assert client.get("/v1/models", headers=refused).status_code == 401
    word = {"Token": "Token", "none": "ApiKey"}.get(flags.get("api_prefix", ""), "Bearer")
    named = flags.get("api_header")
    challenge = f'ApiKey realm="vlserve", header="{named}"' if named else f'{word} realm="vlserve"'
    assert client.get("/v1/models").headers["WWW-Authenticate"] == challenge


def test_without_keys_everybody_may_call(client: FlaskClient) -> None:
    assert client.get("/v1/models").status_code == 200
    assert client.get("/v1/models", headers=bearer("whatever")).status_code == 200


def test_keys_can_be_switched_off(make_app: Callable[..., Flask]) -> None:
    client = make_app(api_key=(KEY,), disable_api_auth=True).test_client()
    assert client.get("/v1/models").status_code == 200
    assert client.get("/health").get_json()["api_auth_enabled"] is False


def test_health_tells_its_details_to_those_with_a_key_only(locked: FlaskClient) -> None:
    for path in ("/health", "/health/live"):
        for headers in ({}, bearer("wrong")):
            response = locked.get(path, headers=headers)
            assert (response.status_code, response.get_json()) == (200, {"status": "healthy"})
        body = locked.get(path, headers=bearer(KEY)).get_json()
        assert body["api_auth_enabled"] is True
        assert {"details", "model", "model_dir", "max_concurrent", "timestamp", "version"} < set(body)
        assert KEY not in str(body)


def test_readiness_without_a_key_has_no_reason(locked: FlaskClient) -> None:
    from app.errors import ModelLoadFailed

    def load(*_: Any) -> Any:
        raise ModelLoadFailed("scripted: /secret/folder has no weights.")

    house = locked.application.extensions["house"]
    house.load = load
    with contextlib.suppress(ModelLoadFailed):
        house.registry.get(None)
    response = locked.get("/health/ready")
    assert (response.status_code, response.get_json()) == (503, {"status": "unhealthy"})
    assert "/secret/folder" in locked.get("/health/ready", headers=bearer(KEY)).get_json()["reason"]


def test_all_keys_are_compared_whatever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    made = Keys(Settings(api_key=("aaaa", "bbbbb", "cccccc")))
    for value in ("Bearer aaaa", "Bearer cccccc", "Bearer wrong", "", None):
        compared.clear()
        made.owner(value)
        assert len(compared) == 3
        assert {len(part) for pair in compared for part in pair} == {32}


def test_the_owner_is_a_hash_of_the_key_and_different_for_each() -> None:
    made = Keys(Settings(api_key=(KEY, OTHER)))
    owners = {made.owner(f"Bearer {key}") for key in (KEY, OTHER)}
    assert len(owners) == 2
    assert all(owner and re.fullmatch(r"[0-9a-f]{32}", owner) for owner in owners)
    assert made.owner("Bearer wrong") is None
    assert Keys(Settings()).owner("Bearer wrong") == ""


def test_a_file_of_keys_is_read_beside_the_others(tmp_path: Path, make_app: Callable[..., Flask]) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n  {KEY}  \n\t# {KEY}-old\nsk#with-a-hash\r\n", encoding="utf-8")
    client = make_app(api_keys_file=str(file), api_key=(OTHER,)).test_client()
    for key in (KEY, OTHER, "sk#with-a-hash"):
        assert client.get("/v1/models", headers=bearer(key)).status_code == 200
    for key in (f"{KEY}-old", f"# {KEY}-old", "#"):
        assert client.get("/v1/models", headers=bearer(key)).status_code == 401


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "there is no key in it"),
        (b"# nothing\n\n", "there is no key in it"),
        (b"sk-fine\nsk-secret word\n", "line 2: a key is of visible ASCII"),
        ("sk-secret-é\n".encode(), "line 1"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_file_of_keys_that_cannot_be_stops_the_start(
    tmp_path: Path, make_app: Callable[..., Flask], content: bytes | None, reason: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=reason) as caught:
        make_app(api_keys_file=str(file))
    assert "sk-" not in str(caught.value)
    assert "\n" not in str(caught.value)


OUTSIDE: list[Any] = [("0.0.0.0", 80), ("::", 80), ("192.168.1.2", 80), ("name.invalid", 80), ("", 80), 3]
LOCAL: list[Any] = [
    *((host, 80) for host in ("127.0.0.1", "127.1.2.3", "127.1", "2130706433", "::1", "::ffff:127.0.0.1")),
    ("localhost", 80),
    "/run/vlserve.sock",
]


@pytest.fixture
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLSERVE_API_KEY", "")


@pytest.mark.parametrize("address", OUTSIDE)
@pytest.mark.usefixtures("no_variable")
def test_a_server_that_can_be_reached_from_outside_gets_a_key(address: Any) -> None:
    told = secure(Settings(), [("127.0.0.1", 80), address])
    made = Settings.from_env().api_key
    assert len(made) == 1
    assert len(made[0]) > 40
    assert told.count(made[0]) == 1
    assert all(line.startswith("vlserve: ") for line in told.splitlines())
    assert secure(Settings(), [address]) != told  # another each time


@pytest.mark.usefixtures("no_variable")
def test_a_server_for_this_machine_gets_none() -> None:
    assert secure(Settings(), LOCAL) == ""
    assert os.environ["VLSERVE_API_KEY"] == ""


@pytest.mark.usefixtures("no_variable")
def test_keys_that_are_set_are_neither_replaced_nor_told(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    for settings in (Settings(api_key=(KEY,)), Settings(api_keys_file=str(file))):
        assert secure(settings, OUTSIDE) == ""
    assert os.environ["VLSERVE_API_KEY"] == ""


@pytest.mark.usefixtures("no_variable")
def test_an_open_server_is_told() -> None:
    assert "requests need no key" in secure(Settings(disable_api_auth=True), OUTSIDE)
    assert secure(Settings(disable_api_auth=True), LOCAL) == ""
    assert os.environ["VLSERVE_API_KEY"] == ""


def test_keys_are_in_no_log_and_no_file(
    locked: FlaskClient, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    locked.post("/chat", json={"message": "hi"}, headers=bearer(KEY))
    locked.get("/sessions", headers=bearer(f"{KEY}-wrong"))
    locked.application.extensions["house"].conversations.close()
    for file in tmp_path.iterdir():
        assert KEY.encode() not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "POST /chat 200" in caplog.text
    assert KEY not in caplog.text
