"""The catalogue over HTTP."""

import pytest
from flask.testing import FlaskClient
from openai.types import Model

from tests.unit.conftest import HELLO, SPECS


def test_all_models_are_listed_in_the_catalogues_order(client: FlaskClient) -> None:
    body = client.get("/v1/models").get_json()
    assert body["object"] == "list"
    rows = [Model.model_validate(row) for row in body["data"]]
    assert [row.id for row in rows] == [spec.id for spec in SPECS]
    assert {row.created for row in rows} == {1234}


def test_what_is_loaded_is_marked(client: FlaskClient) -> None:
    def loaded() -> dict[str, bool]:
        return {row["id"]: row["loaded"] for row in client.get("/v1/models").get_json()["data"]}

    assert set(loaded().values()) == {False}
    client.post("/v1/chat/completions", json=HELLO)
    assert loaded() == {"scripted": True, "second": False, "third": False}
    assert client.get("/v1/models/scripted").get_json()["loaded"] is True


@pytest.mark.parametrize("name", ["scripted", "SCRIPTED", "alias", "Alias"])
def test_a_model_is_found_by_id_or_alias(client: FlaskClient, name: str) -> None:
    body = client.get(f"/v1/models/{name}").get_json()
    assert body == client.get("/v1/models").get_json()["data"][0]


@pytest.mark.parametrize("name", ["nobody", "owner/nobody", "%2e%2e/etc/passwd", "%00"])
def test_an_unknown_model_is_not_found(client: FlaskClient, name: str) -> None:
    response = client.get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert response.get_json()["error"]["code"] == "model_not_found"
    assert response.get_json()["error"]["param"] == "model"
