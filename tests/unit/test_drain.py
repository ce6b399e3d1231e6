"""A server that stops: what is new is refused, what runs has a deadline."""

from types import SimpleNamespace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.errors import Draining
from app.services import drain
from app.services.drain import Drain
from tests.unit.conftest import HELLO


def test_nothing_is_refused_before_it_begins() -> None:
    fresh = Drain()
    fresh.refuse()
    fresh.end_late()
    assert not fresh.has_begun()


def test_what_is_new_is_refused_at_once_and_what_runs_ends_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(drain, "time", SimpleNamespace(monotonic=lambda: now))
    stopping = Drain()
    stopping.begin(10)
    with pytest.raises(Draining) as caught:
        stopping.refuse()
    assert caught.value.retry_after
    now = 109.0
    stopping.end_late()
    now = 111.0
    assert stopping.overdue() == 1
    with pytest.raises(Draining):
        stopping.end_late()


def test_the_earliest_end_stays() -> None:
    stopping = Drain()
    stopping.begin(0)
    stopping.begin(1000)
    assert stopping.overdue() >= 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/chat", "/v1/tokenize"])
def test_every_route_that_asks_a_model_refuses(app: Flask, client: FlaskClient, path: str) -> None:
    app.extensions["drain"].begin(10)
    bodies = {"/v1/completions": {"prompt": "a"}, "/chat": {"message": "a"}, "/v1/tokenize": {"prompt": "a"}}
    answer = client.post(path, json=bodies.get(path, HELLO))
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


def test_ready_is_off_and_health_is_not(app: Flask, client: FlaskClient) -> None:
    assert client.get("/health/ready").status_code == 200
    app.extensions["drain"].begin(10)
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.get_json()["status"]) == (503, "draining")
    assert client.get("/health").status_code == 200
