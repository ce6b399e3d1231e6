"""The metrics as Prometheus reads them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from app import metrics
from tests.unit.conftest import HELLO, House


def families(client: FlaskClient) -> dict[str, Any]:
    """The families of a scrape, by name."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def test_a_scrape_is_text_that_prometheus_parses(client: FlaskClient) -> None:
    client.post("/v1/chat/completions", json=HELLO)
    found = families(client)
    assert all(re.fullmatch(r"vlserve_[a-z_]+", name) for name in found)
    assert all(family.documentation for family in found.values())
    assert {found["vlserve_requests"].type, found["vlserve_queue_seconds"].type} == {"counter", "histogram"}
    assert found["vlserve_running"].samples[0].labels == {"model": "scripted"}


@pytest.mark.parametrize(
    "buckets", [metrics.FIRST_TOKEN_SECONDS, metrics.QUEUE_SECONDS, metrics.REQUEST_SECONDS]
)
def test_times_are_told_apart_from_ten_milliseconds_to_minutes(buckets: tuple[float, ...]) -> None:
    assert sorted(buckets) == list(buckets)
    assert buckets[0] <= 0.01
    assert buckets[-1] >= 300


def test_requests_are_counted_by_route_method_and_status(client: FlaskClient, app: Flask) -> None:
    house: House = app.extensions["house"]
    client.get("/v1/models/scripted")
    client.get("/v1/models/second")
    client.get("/v1/models/nobody")
    client.post("/v1/chat/completions", json={})
    client.get("/health")

    def count(route: str, method: str, status: int) -> float | None:
        return house.metric("requests_total", route=route, method=method, status=str(status))

    assert count("/v1/models/{name}", "GET", 200) == 2
    assert count("/v1/models/{name}", "GET", 404) == 1
    assert count("/v1/chat/completions", "POST", 400) == 1
    assert count("/health", "GET", 200) == 1
    assert house.metric("request_seconds_count", route="/v1/models/{name}") == 3


@pytest.mark.parametrize("method", ["BREW", "TRACE", "X" * 100])
def test_what_a_client_makes_up_is_no_label(client: FlaskClient, method: str) -> None:
    for path in ("/made/up", "/v1/models/made-up", "/v1/models"):
        client.open(path, method=method)
        client.get(path + "?made=up")
    text = client.get("/metrics").text
    assert "made" not in text
    assert method not in text
    assert 'method="other",route="none",status="404"' in text
    assert 'method="other",route="/v1/models/{name}",status="405"' in text
    assert 'method="GET",route="none",status="404"' in text


def test_a_stream_is_counted_when_it_has_ended(client: FlaskClient, app: Flask) -> None:
    house: House = app.extensions["house"]
    chat = {"route": "/v1/chat/completions", "method": "POST", "status": "200"}
    response = client.post("/v1/chat/completions", json=HELLO | {"stream": True}, buffered=False)
    assert house.metric("requests_total", **chat) is None
    assert response.data
    response.close()
    assert house.metric("requests_total", **chat) == 1


def test_a_scrape_shows_the_scrapes_before_it(client: FlaskClient, app: Flask) -> None:
    house: House = app.extensions["house"]
    for before in (None, 1.0):
        scrape = {"route": "/metrics", "method": "GET", "status": "200"}
        assert house.metric("requests_total", **scrape) == before
        client.get("/metrics")


def test_two_applications_count_for_themselves(make_app: Callable[..., Flask]) -> None:
    one, other = make_app(), make_app()
    one.test_client().get("/health")
    route = {"route": "/health", "method": "GET", "status": "200"}
    assert one.extensions["house"].metric("requests_total", **route) == 1
    assert other.extensions["house"].metric("requests_total", **route) is None
