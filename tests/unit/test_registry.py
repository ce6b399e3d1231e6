"""The registry: each model is loaded once, leased while used, and a failed load fails all who wait for it."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from app.engine.catalog import Catalog
from app.engine.registry import Lease, ModelRegistry
from app.engine.types import Engine, ModelSpec, Progress
from app.errors import (
    ApiError,
    ClientLeft,
    MayNotFit,
    ModelLoadFailed,
    ModelNotFound,
    OutOfMemory,
    RequestTimeout,
)
from tests.conftest import wait_until
from tests.unit.conftest import SPECS, ScriptedEngine


class Loader:
    """A load function that waits for its gate, raises what it is told to, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.errors: list[BaseException] = []
        self.made: list[ScriptedEngine] = []
        self.progress: Progress = lambda phase, share: None

    def __call__(self, spec: ModelSpec, progress: Progress) -> Engine:
        self.calls.append(spec.id)
        self.progress = progress
        progress("opening", 0.25)
        assert self.gate.wait(20)
        if self.errors:
            raise self.errors.pop(0)
        self.made.append(ScriptedEngine(spec=spec))
        return self.made[-1]


@pytest.fixture
def loader() -> Iterator[Loader]:
    made = Loader()
    yield made
    made.gate.set()


@pytest.fixture
def registry(loader: Loader) -> ModelRegistry:
    return ModelRegistry(Catalog(SPECS, "scripted"), loader)


def waiting(registry: ModelRegistry, pool: ThreadPoolExecutor, count: int) -> list[Future[Lease]]:
    """So many gets, all of which wait for the load."""
    arrived = threading.Semaphore(0)
    futures = [pool.submit(registry.get, None, tick=0.02, watch=arrived.release) for _ in range(count)]
    for _ in range(count):
        assert arrived.acquire(timeout=20)
    return futures


def test_twenty_requests_at_once_load_the_model_once(registry: ModelRegistry, loader: Loader) -> None:
    loader.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        futures = waiting(registry, pool, 20)
        loader.gate.set()
        leases = [future.result(20) for future in futures]
    assert loader.calls == ["scripted"]
    assert {id(lease.engine) for lease in leases} == {id(loader.made[0])}
    assert registry.engines() == [loader.made[0]]


def test_a_failed_load_fails_all_who_wait_and_is_tried_again(registry: ModelRegistry, loader: Loader) -> None:
    loader.gate.clear()
    loader.errors.append(ModelLoadFailed("scripted: broken."))
    with ThreadPoolExecutor(5) as pool:
        futures = waiting(registry, pool, 5)
        loader.gate.set()
        errors = [future.exception(20) for future in futures]
    assert [str(error) for error in errors] == ["scripted: broken."] * 5
    assert {type(error) for error in errors} == {ModelLoadFailed}
    assert registry.status("scripted") == ("failed", "scripted: broken.", 0.0)
    assert registry.get(None).engine is loader.made[0]
    assert loader.calls == ["scripted"] * 2


def test_who_looks_after_the_server_begins_a_failed_load_again(
    registry: ModelRegistry, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.retry("scripted")  # which nobody has asked for
    loader.errors.append(OutOfMemory("no room."))
    with pytest.raises(OutOfMemory):
        registry.get(None)
    registry.retry("scripted")
    assert registry.status("scripted")[0] == "failed"
    monkeypatch.setattr("app.engine.registry.RETRY", 0.0)
    registry.retry("scripted")
    wait_until(lambda: registry.status("scripted")[0] == "loaded")
    registry.retry("scripted")
    assert loader.calls == ["scripted"] * 2


def test_an_unexpected_error_is_logged_and_hidden_behind_its_name(
    registry: ModelRegistry, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    loader.errors.append(ZeroDivisionError("secret"))
    with pytest.raises(ModelLoadFailed, match=r"scripted could not be loaded: ZeroDivisionError\.$"):
        registry.get(None)
    assert "secret" in caplog.text


def test_a_thread_that_cannot_start_leaves_nobody_waiting(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises((ApiError, RuntimeError)):
            registry.get(None)
    ticks = iter(range(20))
    assert registry.get(None, tick=0.05, watch=lambda: stop_after(ticks)).engine.spec.id == "scripted"


def stop_after(ticks: Iterator[int]) -> None:
    """A watch that fails the test when the iterator is used up."""
    assert next(ticks, None) is not None, "still waiting for a load that nobody runs"


def test_models_are_found_by_alias_and_unknown_ones_are_refused(
    registry: ModelRegistry, loader: Loader
) -> None:
    assert registry.get("ALIAS").engine.spec.id == registry.get("scripted").engine.spec.id == "scripted"
    assert registry.get("second").engine.spec.id == "second"
    with pytest.raises(ModelNotFound):
        registry.get("nobody")
    assert loader.calls == ["scripted", "second"]


def test_a_leased_model_is_not_unloaded(registry: ModelRegistry, loader: Loader) -> None:
    first, second = registry.get(None), registry.get(None)
    assert registry.unload_idle(0.0) == []
    first.release()
    first.release()
    assert registry.unload_idle(0.0) == []
    second.release()
    assert registry.unload_idle(1000.0) == []
    assert registry.unload_idle(0.0) == ["scripted"]
    assert (registry.engines(), loader.made[0].closed) == ([], 1)
    assert registry.get(None).engine is loader.made[1]


def test_a_model_that_loads_is_not_unloaded(registry: ModelRegistry, loader: Loader) -> None:
    loader.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        (future,) = waiting(registry, pool, 1)
        assert registry.unload_idle(0.0) == []
        loader.gate.set()
        assert future.result(20).engine is loader.made[0]


def test_an_idle_model_is_unloaded_by_itself(loader: Loader) -> None:
    registry = ModelRegistry(Catalog(SPECS, "scripted"), loader, idle_unload=0.04)
    used = registry.get("second")
    registry.get(None).release()
    wait_until(lambda: loader.made[1].closed)
    assert [engine.spec.id for engine in registry.engines()] == ["second"]
    used.release()
    wait_until(lambda: not registry.engines())
    registry.close()


def test_an_engine_that_fails_to_close_does_not_keep_the_others_loaded(
    registry: ModelRegistry, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("scripted", "second"):
        registry.get(name).release()

    def close() -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(loader.made[0], "close", close)
    registry.unload_idle(0.0)
    assert (registry.engines(), loader.made[1].closed) == ([], 1)


def test_idle_models_make_room_when_the_memory_runs_out(registry: ModelRegistry, loader: Loader) -> None:
    registry.get("second").release()
    held = registry.get("third")
    loader.errors.append(OutOfMemory("scripted does not fit."))
    assert registry.get(None).engine is loader.made[2]
    assert [made.closed for made in loader.made] == [1, 0, 0]
    assert loader.calls == ["second", "third", "scripted", "scripted"]
    held.release()


def test_without_idle_models_running_out_of_memory_is_told_at_once(
    registry: ModelRegistry, loader: Loader
) -> None:
    registry.get("second")
    loader.errors.append(OutOfMemory("scripted does not fit."))
    with pytest.raises(OutOfMemory, match="does not fit"):
        registry.get(None)
    assert loader.calls == ["second", "scripted"]


def test_what_may_not_fit_is_tried_once_more_after_one_idle_model_went(
    registry: ModelRegistry, loader: Loader
) -> None:
    for model in ("scripted", "second"):
        registry.get(model).release()
    loader.errors += [MayNotFit("it returned false.")] * 2
    with pytest.raises(MayNotFit, match="returned false"):
        registry.get("third")
    assert [engine.closed for engine in loader.made] == [1, 0]
    loader.errors.append(MayNotFit("it returned false."))
    registry.get("third").release()
    assert [engine.closed for engine in loader.made] == [1, 1, 0]


def test_room_is_made_only_on_the_device_that_lacks_it_and_where_it_can_be_enough(
    registry: ModelRegistry, loader: Loader
) -> None:
    for model in ("scripted", "second"):
        registry.get(model).release()
    loader.made[1].device = "tpu:0"
    for device, missing in (("tpu:0", 1001), ("tpu:1", 1)):
        lacks = OutOfMemory("no room.")
        lacks.device, lacks.missing = device, missing
        loader.errors.append(lacks)
        with pytest.raises(OutOfMemory):
            registry.get("third")
        assert [engine.closed for engine in loader.made] == [0, 0]
    lacks = OutOfMemory("no room.")
    lacks.device, lacks.missing = "tpu:0", 1000
    loader.errors.append(lacks)
    registry.get("third").release()
    assert [engine.closed for engine in loader.made] == [0, 1, 0]


def test_room_is_made_once_only(registry: ModelRegistry, loader: Loader) -> None:
    registry.get("second").release()
    loader.errors += [OutOfMemory("does not fit."), OutOfMemory("does still not fit.")]
    with pytest.raises(OutOfMemory, match="still"):
        registry.get(None)
    assert loader.calls == ["second", "scripted", "scripted"]


def test_the_status_of_a_model_whose_device_failed_is_why(registry: ModelRegistry, loader: Loader) -> None:
    registry.get("scripted").release()
    loader.made[0].broken = "the chip hangs"
    assert registry.status("scripted") == ("failed", "the chip hangs", 0.0)
    loader.made[0].broken = None
    assert registry.status("scripted")[0] == "loaded"


def test_the_status_tells_how_far_a_load_is(registry: ModelRegistry, loader: Loader) -> None:
    assert registry.status("scripted") == ("absent", "", 0.0)
    loader.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        (future,) = waiting(registry, pool, 1)
        wait_until(lambda: registry.status("scripted") == ("loading", "opening", 0.25))
        assert registry.engines() == []
        loader.progress("reading", 0.5)
        assert registry.status("scripted") == ("loading", "reading", 0.5)
        loader.gate.set()
        future.result(20)
    assert registry.status("scripted")[0] == "loaded"


def test_each_phase_is_logged_once(
    registry: ModelRegistry, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    registry.get(None)
    for share in (0.1, 0.2, 0.3):
        loader.progress("reading", share)
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("loading scripted: [##                  ]  10 % reading") == 1
    assert not [line for line in lines if line.endswith(("20 %", "30 %"))]


@pytest.mark.parametrize("error", [ClientLeft(), KeyboardInterrupt()])
def test_who_leaves_while_it_loads_holds_no_lease(
    registry: ModelRegistry, loader: Loader, error: BaseException
) -> None:
    loader.gate.clear()
    looks: list[Any] = []

    def watch() -> None:
        looks.append(None)
        if len(looks) == 3:
            raise error

    with pytest.raises(type(error)):
        registry.get(None, tick=0.01, watch=watch)
    loader.gate.set()
    wait_until(lambda: registry.engines())
    assert registry.unload_idle(0.0) == ["scripted"]


def test_a_timeout_while_it_loads_says_so(registry: ModelRegistry, loader: Loader) -> None:
    loader.gate.clear()

    def watch() -> None:
        if registry.status("scripted")[2]:
            raise RequestTimeout("The request took longer than 3 seconds.")

    with pytest.raises(RequestTimeout, match=r"^scripted is still being loaded .*: try again") as caught:
        registry.get(None, tick=0.01, watch=watch)
    assert caught.value.message.endswith("The request took longer than 3 seconds.")
    assert caught.value.retry_after
    loader.gate.set()
    wait_until(lambda: registry.engines())
    with pytest.raises(RequestTimeout, match=r"^no more"):  # once it is there, it is not the load
        registry.get(None, watch=lambda: (_ for _ in ()).throw(RequestTimeout("no more.")))


def test_the_load_goes_on_when_the_first_who_asked_leaves(registry: ModelRegistry, loader: Loader) -> None:
    loader.gate.clear()

    def leave() -> None:
        raise ClientLeft

    with pytest.raises(ClientLeft):
        registry.get(None, watch=leave)
    with ThreadPoolExecutor(1) as pool:
        (future,) = waiting(registry, pool, 1)
        loader.gate.set()
        assert future.result(20).engine is loader.made[0]
    assert loader.calls == ["scripted"]


def test_the_time_of_each_last_load_is_kept(registry: ModelRegistry) -> None:
    assert registry.load_seconds() == {}
    registry.get(None).release()
    registry.close()
    assert list(registry.load_seconds()) == ["scripted"]
    assert 0 <= registry.load_seconds()["scripted"] < 20


def test_close_unloads_what_is_not_in_use(registry: ModelRegistry, loader: Loader) -> None:
    registry.get("second").release()
    held = registry.get(None)
    registry.close()
    assert registry.engines() == [held.engine]
