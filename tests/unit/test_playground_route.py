"""The playground's page and files: what they may load, how browsers keep them, what the page is told."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.routes.playground import FILES, FOLDER

MARKDOWN_IT = "d5432491790141da046b1197353705db03264f40b5727f3b4b591f5aba193e30"
"""Of dist/browser/markdown-it.esm.min.mjs in the npm package markdown-it 15.0.3."""


def test_the_page_loads_only_what_this_server_has(client: FlaskClient) -> None:
    response = client.get("/")
    assert response.mimetype == "text/html"
    links = re.findall(r'(?:src|href)="(playground/[^"]+)"', response.text)
    assert len(links) >= 5
    for link in links:
        assert client.get(f"/{link}").status_code == 200, link
    assert re.findall(r'(?:src|href)="(?!playground/|#i-|docs")([^"]*)"', response.text) == []


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith(".js")))
def test_scripts_import_only_files_that_are_served(client: FlaskClient, name: str) -> None:
    text = client.get(f"/playground/{name}").text
    for imported in re.findall(r'from "([^"]*)"', text):
        assert imported.removeprefix("./") in FILES
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://", text)


def test_nothing_is_in_the_page_that_its_policy_would_refuse(client: FlaskClient) -> None:
    text = client.get("/").text
    assert re.findall(r"<script(?![^>]* src=)|<style| on\w+=| style=|javascript:", text) == []


@pytest.mark.parametrize("path", ["/", "/playground/main.js", "/playground/page.css", "/playground/icon.svg"])
def test_every_file_has_the_policy(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    given = headers["Content-Security-Policy"].split("; ")
    wanted = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "media-src": "data: blob:",
        "connect-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert dict(directive.split(" ", 1) for directive in given) == wanted
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("main.js", "text/javascript"),
        ("markdown-it.esm.min.mjs", "text/javascript"),
        ("page.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_files_have_their_type_whatever_the_machine_says(client: FlaskClient, name: str, kind: str) -> None:
    response = client.get(f"/playground/{name}")
    assert response.mimetype == kind
    assert response.data == FILES[name].read_bytes()


@pytest.mark.parametrize("path", ["/", "/playground/main.js"])
def test_a_browser_asks_each_time_and_loads_only_what_has_changed(client: FlaskClient, path: str) -> None:
    first = client.get(path)
    assert first.cache_control.no_cache
    assert first.headers["ETag"]
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    other = client.get(path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.data) == (200, first.data)


def test_the_page_changes_when_what_it_is_told_does(make_app: Callable[..., Flask]) -> None:
    plain = make_app().test_client().get("/")
    keyed = (
        make_app(api_key=("sk-secret-key",), api_header="X-Api-Key", api_prefix="none").test_client().get("/")
    )
    assert 'data-key-required="false"' in plain.text
    assert 'data-key-header="Authorization"' in plain.text
    assert 'data-key-required="true" data-max-body=' in keyed.text
    assert 'data-key-header="X-Api-Key" data-key-prefix=""' in keyed.text
    assert "sk-secret-key" not in keyed.text
    assert plain.headers["ETag"] != keyed.headers["ETag"]


@pytest.mark.parametrize("name", ["index.html", "..", "%2e%2e/docs.js", "main", "markdown-it.LICENSE"])
def test_nothing_else_is_served(client: FlaskClient, name: str) -> None:
    response = client.get(f"/playground/{name}")
    assert response.status_code == 404
    assert response.get_json()["error"]["code"] == "not_found"


def test_the_parser_is_the_published_one() -> None:
    assert hashlib.sha256(FILES["markdown-it.esm.min.mjs"].read_bytes()).hexdigest() == MARKDOWN_IT
    licence = (FOLDER / "markdown-it.LICENSE").read_text(encoding="utf-8")
    assert "Permission is hereby granted" in licence


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_a_file_of_ours_is_short(path: Path) -> None:
    if not path.name.startswith("markdown-it"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
