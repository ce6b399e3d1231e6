"""What a scrape reads from the models: while they load, run, fail, and are closed."""

import contextlib
import logging
import threading
from typing import Any

import pytest

from app.engine.stats import EngineStats
from app.errors import ModelLoadFailed
from app.settings import VERSION
from tests.conftest import wait_until
from tests.unit.conftest import SPECS, House, ScriptedEngine, asked, says

MODEL = {"model": "scripted"}


def states(house: House) -> dict[str, str]:
    """The state of each model, of which each must have one."""
    samples = [
        sample.labels
        for family in house.metrics.registry.collect()
        if family.name == "vlserve_model_state"
        for sample in family.samples
    ]
    assert len(samples) == len(SPECS)
    return {labels["model"]: labels["state"] for labels in samples}


def test_before_anything_is_loaded_there_is_the_process(house: House) -> None:
    assert house.metric("build_info", version=VERSION) == 1
    assert house.metric("active_generations") == 0
    assert set(states(house).values()) == {"absent"}
    used, total = (house.metric(f"device_memory_{what}_bytes", device="cpu") for what in ("used", "total"))
    assert used is not None
    assert total is not None
    assert 10_000_000 < used < total
    assert house.metric("running", **MODEL) is None


def test_a_loaded_model_tells_its_numbers(house: House) -> None:
    completion = house.completions.start(asked())
    assert house.metric("active_generations") == 1
    assert house.metric("running", **MODEL) == 1
    assert house.metric("waiting", **MODEL) == 2
    assert house.metric("model_memory_bytes", **MODEL) == 1000
    assert house.metric("kv_cache_capacity_tokens", **MODEL) == 100
    assert house.metric("kv_cache_tokens", **MODEL, state="running") == 30
    assert house.metric("kv_cache_tokens", **MODEL, state="kept") == 20
    assert house.metric("vision_cache_hits_total", **MODEL) == 5
    assert house.metric("vision_cache_misses_total", **MODEL) == 6
    seconds = house.metric("model_load_seconds", **MODEL)
    assert seconds is not None
    assert 0 <= seconds < 20
    completion.close()
    assert house.metric("active_generations") == 0


def test_what_a_model_does_not_have_is_not_there(house: House) -> None:
    house.engine.modalities = ("text",)
    house.engine.stats = EngineStats  # type: ignore[method-assign]
    house.completions.start(asked()).collect()
    assert house.metric("running", **MODEL) == 1
    for name in ("kv_cache_capacity_tokens", "vision_cache_hits_total"):
        assert house.metric(name, **MODEL) is None


def test_a_gpu_has_memory_of_its_own(house: House) -> None:
    house.engine.device = "cuda:1"
    house.engine.stats = lambda: EngineStats(device_memory=(3, 8))  # type: ignore[method-assign]
    house.completions.start(asked()).collect()
    assert house.metric("device_memory_used_bytes", device="cuda:1") == 3
    assert house.metric("device_memory_total_bytes", device="cuda:1") == 8
    assert house.metric("device_memory_total_bytes", device="cpu") is not None


def test_while_a_model_loads_and_after_it_failed_the_scrape_says_so(house: House) -> None:
    gate = threading.Event()

    def load(*_: Any) -> Any:
        gate.wait(20)
        raise ModelLoadFailed("broken.")

    def ask() -> None:
        with contextlib.suppress(ModelLoadFailed):
            house.registry.get(None)

    house.load = load
    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: states(house)["scripted"] == "loading")
    assert house.metric("running", **MODEL) is None
    gate.set()
    thread.join(20)
    assert states(house) == {"scripted": "failed", "second": "absent", "third": "absent"}
    assert house.metric("model_load_seconds", **MODEL) is None


def test_a_model_that_raises_leaves_the_others_their_numbers(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> EngineStats:
        raise RuntimeError("the device is dead")

    other = ScriptedEngine(says("a"), SPECS[1])
    house.engine.stats = broken  # type: ignore[method-assign]
    house.load = lambda spec, progress: house.engine if spec.id == "scripted" else other
    for model in ("scripted", "second"):
        house.completions.start(asked(model=model)).collect()
    caplog.set_level(logging.WARNING)
    assert house.metric("running", **MODEL) is None
    assert house.metric("running", model="second") == 1
    assert "scripted told no numbers" in caplog.text
    assert "vlserve_running" in house.metrics.text().decode()


def test_an_unloaded_model_is_gone_and_its_load_time_stays(house: House) -> None:
    house.completions.start(asked()).collect()
    house.registry.unload_idle(0.0)
    assert house.metric("running", **MODEL) is None
    assert states(house)["scripted"] == "absent"
    assert house.metric("model_load_seconds", **MODEL) is not None
