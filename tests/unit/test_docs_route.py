"""Swagger UI: its files, and a page that a strict policy does not hurt."""

import re
from urllib.parse import urljoin

import pytest
from flask.testing import FlaskClient

from app.routes.docs import FILES


def test_the_page_loads_only_what_this_server_has(client: FlaskClient) -> None:
    response = client.get("/docs")
    assert response.mimetype == "text/html"
    links = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    assert len(links) == 4
    for link in links:
        assert client.get(f"/{link}").status_code == 200, link


def test_the_page_has_no_script_of_its_own_and_a_policy_that_refuses_any(client: FlaskClient) -> None:
    response = client.get("/docs")
    assert re.findall(r"<script(?![^>]* src=)|<style| on\w+=| style=", response.text) == []
    policy = dict(
        part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("docs.js", "text/javascript"), ("swagger-ui.css", "text/css"), ("favicon-32x32.png", "image/png")],
)
def test_files_have_their_type_and_are_kept_by_browsers(client: FlaskClient, name: str, kind: str) -> None:
    response = client.get(f"/docs/{name}")
    assert response.mimetype == kind
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.cache_control.max_age == 86400
    assert response.data == FILES[name].read_bytes()


@pytest.mark.parametrize("name", ["docs.html", "..", "%2e%2e/docs.py", "swagger-ui.js", "LICENSE"])
def test_nothing_else_is_served(client: FlaskClient, name: str) -> None:
    response = client.get(f"/docs/{name}")
    assert response.status_code == 404
    assert response.get_json()["error"]["code"] == "not_found"


def test_the_page_asks_nobody_else(client: FlaskClient) -> None:
    script = client.get("/docs/docs.js").text
    assert "validatorUrl: null" in script
    assert "http" not in script + client.get("/docs").text


def test_the_page_is_found_with_a_slash_too(client: FlaskClient) -> None:
    moved = client.get("/docs/")
    assert moved.status_code == 308
    for folder in ("/", "/behind/a/proxy/"):
        assert urljoin(f"http://x{folder}docs/", moved.headers["Location"]) == f"http://x{folder}docs"
