"""Health answers at once, whatever loads or runs."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.errors import ModelLoadFailed
from app.settings import VERSION
from tests.conftest import wait_until
from tests.unit.conftest import HELLO, House, ScriptedEngine


@pytest.mark.parametrize("path", ["/health", "/health/live"])
def test_health_tells_what_is_served(make_app: Callable[..., Flask], path: str) -> None:
    response = make_app(max_concurrent=3).test_client().get(path)
    assert response.status_code == 200
    body = response.get_json()
    stamp = datetime.fromisoformat(body.pop("timestamp"))
    assert abs(datetime.now(UTC) - stamp) < timedelta(minutes=1)
    assert body == {
        "status": "healthy",
        "model": "scripted",
        "model_dir": "/nowhere/scripted",
        "max_concurrent": 3,
        "api_auth_enabled": False,
        "version": VERSION,
        "details": {"model_state": "absent", "running": 0, "waiting": 0},
    }


def test_health_counts_what_runs(client: FlaskClient) -> None:
    for model in ("scripted", "second"):
        client.post("/v1/chat/completions", json=HELLO | {"model": model})
    # Both are the same engine here, which reports its generations and two that wait.
    details = client.get("/health").get_json()["details"]
    assert details == {"model_state": "loaded", "running": 4, "waiting": 4}


def test_a_model_that_nobody_asked_for_does_not_count_against_readiness(client: FlaskClient) -> None:
    response = client.get("/health/ready")
    assert (response.status_code, response.get_json()["status"]) == (200, "healthy")
    assert response.get_json()["details"]["model_state"] == "absent"


def test_while_the_default_model_loads_the_server_lives_but_is_not_ready(client: FlaskClient) -> None:
    house: House = client.application.extensions["house"]
    gate = threading.Event()

    def load(_: Any, progress: Callable[[str, float], None]) -> Any:
        progress("reading the weights", 0.12345)
        assert gate.wait(20)
        return house.engine

    house.load = load
    asking = threading.Thread(target=house.registry.get, args=(None,), daemon=True)
    asking.start()
    wait_until(lambda: house.registry.status("scripted")[2])
    details = client.get("/health").get_json()["details"]
    ready = client.get("/health/ready")
    gate.set()
    asking.join(20)
    assert details == {
        "model_state": "loading",
        "running": 0,
        "waiting": 0,
        "phase": "reading the weights",
        "progress": 0.123,
    }
    assert ready.status_code == 503
    told = ready.get_json()
    assert (told["status"], told["phase"], told["progress"]) == ("loading", "reading the weights", 0.123)
    assert told["model"] == "scripted"
    assert client.get("/health/ready").status_code == 200


def test_a_default_model_that_could_not_be_loaded_makes_the_server_unhealthy_until_it_is(
    client: FlaskClient,
) -> None:
    house: House = client.application.extensions["house"]

    def load(*_: Any) -> Any:
        raise ModelLoadFailed("scripted: its folder has no weights.")

    house.load = load
    with pytest.raises(ModelLoadFailed):
        house.registry.get(None)
    ready = client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.get_json()["status"] == "unhealthy"
    assert ready.get_json()["reason"] == "scripted: its folder has no weights."
    details = client.get("/health").get_json()["details"]
    assert (details["model_state"], details["reason"]) == ("failed", ready.get_json()["reason"])
    house.load = lambda *_: house.engine
    house.registry.get(None)
    assert client.get("/health/ready").status_code == 200


def test_another_model_that_loads_does_not_count_against_readiness(client: FlaskClient) -> None:
    house: House = client.application.extensions["house"]
    gate = threading.Event()

    def load(*_: Any) -> Any:
        assert gate.wait(20)
        return house.engine

    house.load = load
    asking = threading.Thread(target=house.registry.get, args=("second",), daemon=True)
    asking.start()
    wait_until(lambda: house.registry.status("second")[0] == "loading")
    ready = client.get("/health/ready")
    gate.set()
    asking.join(20)
    assert ready.status_code == 200


def test_a_failed_device_of_any_loaded_model_is_unhealthy(client: FlaskClient) -> None:
    house: House = client.application.extensions["house"]
    engines = {"scripted": house.engine, "second": ScriptedEngine()}
    house.load = lambda spec, progress: engines[spec.id]
    for model in engines:
        house.registry.get(model).release()
    assert client.get("/health/ready").status_code == 200
    engines["second"].broken = "the chip hangs"
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.get_json()["status"]) == (503, "unhealthy")
    assert ready.get_json()["reason"] == "second: the chip hangs"
    assert client.get("/health").get_json()["details"]["reason"] == "second: the chip hangs"
    engines["second"].broken = None
    assert client.get("/health/ready").status_code == 200
