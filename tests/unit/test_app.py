"""create_app wires everything together, and refuses what cannot be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import check, create_app
from app.engine import registry
from app.settings import Settings, SettingsError
from tests.conftest import wait_until

ROUTES = {
    *("/health", "/health/live", "/health/ready"),
    *("/v1/models", "/v1/models/<path:name>", "/v1/chat/completions"),
}


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    """A catalogue whose model fails to load at once."""
    path = tmp_path / "catalog.yaml"
    path.write_text("models: [{id: a, source: b/c, engine: none}]", encoding="utf-8")
    return str(path)


def test_the_routes_are_there_and_nothing_is_served_from_files() -> None:
    app = create_app(Settings())
    assert {rule.rule for rule in app.url_map.iter_rules()} >= ROUTES
    assert app.static_folder is None


def test_the_settings_reach_what_they_set(catalog: str) -> None:
    settings = Settings(catalog=catalog, model="a", max_body_mb=2)
    app = create_app(settings)
    assert app.config["MAX_CONTENT_LENGTH"] == 2 * 1024 * 1024
    assert app.extensions["settings"] is settings
    assert app.test_client().get("/health").get_json()["model"] == "a"


def test_nothing_is_loaded_until_it_is_asked_for(catalog: str) -> None:
    app = create_app(Settings(catalog=catalog, model="a"))
    assert app.extensions["registry"].status("a")[0] == "absent"


def test_a_preload_that_fails_is_logged_and_leaves_the_server_up(
    catalog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(registry.log, "error", lambda text, *values, **_: said.append(text % values))
    app = create_app(Settings(catalog=catalog, model="a", preload=True))
    wait_until(lambda: any("loading a failed" in line for line in said))
    assert app.test_client().get("/health").status_code == 200


@pytest.mark.parametrize("change", [{"model": "nosuch"}, {"catalog": "/no/such/file.yaml"}])
def test_what_cannot_be_is_refused_at_the_start(change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(change.values()))):
        create_app(replace(Settings(), **change))


def test_a_cache_larger_than_the_machine_is_refused_at_the_start(tmp_path: Path) -> None:
    settings = Settings(database=str(tmp_path / "x.db"), device="cpu", kv_cache_gb=1e6)
    with pytest.raises(SettingsError, match=r"--kv-cache-gb 1e\+06: there are \d+\.\d GB of memory"):
        check(settings)
    check(replace(settings, kv_cache_gb=0.1))
