"""Health and models: what is there before a model is loaded, and after."""

import pathlib
import sys
from collections.abc import Callable

import openai
import psutil
import pytest

from tests.conftest import Server, asks, running, wait_until


def test_health_answers_without_a_model_and_without_torch(
    tmp_path: pathlib.Path, tiny: Callable[[str], pathlib.Path]
) -> None:
    with running(tmp_path, "--model", str(tiny("qwen2"))) as server:
        body = server.get("/health").json()
        assert body["status"] == "healthy"
        assert body["details"]["model_state"] == "absent"
        assert server.get("/health/ready").json()["status"] == "healthy"
        if sys.platform == "linux":
            maps = pathlib.Path(f"/proc/{server.worker()}/maps").read_text()
            assert "libtorch" not in maps
        before = psutil.Process(server.worker()).memory_info().rss
        assert before < 150e6
        server.client.chat.completions.create(model="qwen2", messages=asks("hi"), max_tokens=1)  # type: ignore[arg-type]  # dicts
        assert server.details()["model_state"] == "loaded"


def test_preload_loads_at_the_start_and_ready_waits_for_it(
    tmp_path: pathlib.Path, tiny: Callable[[str], pathlib.Path]
) -> None:
    with running(tmp_path, "--model", str(tiny("qwen3")), "--preload") as server:
        seen = server.get("/health/ready")
        assert seen.json()["status"] in ("loading", "healthy")
        assert (seen.status_code == 503) == (seen.json()["status"] == "loading")
        wait_until(lambda: server.details()["model_state"] == "loaded")
        assert server.get("/health/ready").json()["status"] == "healthy"
        assert server.details()["running"] == 0


def test_the_catalogue_is_listed_as_openai_lists_models(server: Server) -> None:
    models = {model.id: model for model in server.client.models.list()}
    assert {
        "demo",
        "qwen2.5-vl-7b-instruct",
        "qwen3-vl-4b-thinking",
        "sail-vl2-2b",
        "llama-3.1-8b-instruct",
    } <= set(models)
    assert server.client.models.retrieve("demo").object == "model"
    row = server.get("/v1/models/qwen2.5-vl-3b-instruct").json()
    assert row["loaded"] is False
    assert row["modalities"] == ["text", "image", "video"]
    assert {"created", "owned_by", "context_length", "engine"} <= set(row)


def test_a_model_that_is_not_there_is_not_found(server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_a_hub_that_cannot_be_reached_is_a_clear_503(server: Server, tmp_path: pathlib.Path) -> None:
    with running(tmp_path, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}) as offline:
        body = {"model": "qwen2.5-7b-instruct", "messages": asks("hi")}
        answer = offline.post("/v1/chat/completions", body)
        assert answer.status_code == 503
        assert "hub" in answer.json()["error"]["message"]
