"""The models of the process: each is loaded once, by the first request that needs it, and leased while used.

A load runs in a thread of its own, so that it goes on when the request that began it leaves, and so that it
blocks neither other models nor /health. Everyone who asks meanwhile waits for the same future; a load that
fails fails them all with its reason and is forgotten, so that the next request tries again.
"""

import logging
import math
import operator
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from app.engine.catalog import Catalog
from app.engine.types import Engine, ModelSpec, Progress
from app.errors import ApiError, MayNotFit, ModelLoadFailed, OutOfMemory, RequestTimeout
from app.telemetry import request_id, show_bar

log = logging.getLogger(__name__)

RETRY_LOADING = 10
"""Seconds after which one may ask again for a model that still loads."""

RETRY = 30.0
"""Seconds after a load that failed in which only a request loads again; then who looks after the server does
so, too: a balancer sends nothing to one that is not ready.
"""

Load = Callable[[ModelSpec, Progress], Engine]


@dataclass
class _Entry:
    future: "Future[Engine]" = field(default_factory=Future)
    leases: int = 0
    idle_since: float = field(default_factory=time.monotonic)
    phase: str = "waiting"
    share: float = 0.0

    @property
    def engine(self) -> Engine | None:
        done = self.future.done() and self.future.exception() is None
        return self.future.result() if done else None

    @property
    def is_idle(self) -> bool:
        return self.engine is not None and not self.leases


class Lease:
    """A model that will not be unloaded before `release`, which may be called more than once."""

    def __init__(self, engine: Engine, release: Callable[[], None]) -> None:
        self.engine = engine
        self._release: Callable[[], None] | None = release
        self._lock = threading.Lock()

    def release(self) -> None:
        """Give the model back."""
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ModelRegistry:
    """Models by name, loaded lazily; `idle_unload` is in seconds, 0 keeps them for ever."""

    def __init__(self, catalog: Catalog, load: Load, idle_unload: float = 0.0) -> None:
        self.catalog = catalog
        self._load = load
        self._idle_unload = idle_unload
        self._entries: dict[str, _Entry] = {}
        self._failures: dict[str, tuple[str, float]] = {}  # why a model's last load failed, and when
        self._load_seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._sweeper: threading.Thread | None = None

    def get(self, name: str | None, *, tick: float = 0.25, watch: Callable[[], None] = lambda: None) -> Lease:
        """The model of that name, loaded if need be. `watch` is called every `tick` seconds and may raise.

        Raises ModelNotFound, ModelLoadFailed or OutOfMemory; a RequestTimeout of `watch` is given the reason.
        """
        spec = self.catalog.resolve(name)
        with self._lock:
            entry = self._entries.get(spec.id) or self._begin(spec)
            entry.leases += 1
        try:
            return Lease(_wait(entry.future, tick, watch), lambda: self._release(entry))
        except BaseException as error:
            self._release(entry)
            if isinstance(error, RequestTimeout) and not entry.future.done():
                raise _still_loading(spec, entry, error) from None
            raise

    def retry(self, model_id: str) -> None:
        """Begin to load a model again whose last load failed RETRY seconds ago or more."""
        with self._lock:
            _, failed = self._failures.get(model_id, ("", math.inf))
            if time.monotonic() - failed >= RETRY and model_id not in self._entries:
                self._begin(self.catalog.resolve(model_id))

    def status(self, model_id: str) -> tuple[Literal["absent", "loading", "loaded", "failed"], str, float]:
        """Whether a model is loaded; while it loads what is being done and the share done, and if its last
        load or its device failed, why.
        """
        with self._lock:
            entry, (failure, _) = self._entries.get(model_id), self._failures.get(model_id, ("", 0.0))
        if entry is None:
            return ("failed", failure, 0.0) if failure else ("absent", "", 0.0)
        engine = entry.engine
        if engine is not None and (fault := engine.fault()):
            return "failed", fault, 0.0
        return ("loaded" if engine else "loading"), entry.phase, entry.share

    def engines(self) -> list[Engine]:
        """The models that are loaded now."""
        with self._lock:
            return [entry.engine for entry in self._entries.values() if entry.engine is not None]

    def is_lost(self) -> bool:
        """Whether a model's device has failed for good."""
        return any(engine.is_lost() for engine in self.engines())

    def fault(self) -> str:
        """A loaded model whose device failed, and why; empty where there is none."""
        with self._lock:
            loaded = [(name, entry.engine) for name, entry in self._entries.items()]
        faults = [(name, engine.fault()) for name, engine in loaded if engine is not None]
        return next((f"{name}: {fault}" for name, fault in faults if fault), "")

    def busy(self) -> tuple[int, int]:
        """How many generations run and how many wait, of all models."""
        counts = [engine.busy() for engine in self.engines()]
        return sum(running for running, _ in counts), sum(waiting for _, waiting in counts)

    def load_seconds(self) -> dict[str, float]:
        """How long the last load took of each model that was ever loaded."""
        with self._lock:
            return dict(self._load_seconds)

    def unload_idle(self, idle_for: float) -> list[str]:
        """Unload what nobody has used for so many seconds; returns the ids."""
        now = time.monotonic()
        return self._unload(lambda entry: now - entry.idle_since >= idle_for)

    def _unload(self, chosen: Callable[[_Entry], bool]) -> list[str]:
        with self._lock:
            idle = [name for name, entry in self._entries.items() if entry.is_idle and chosen(entry)]
            gone = [(name, self._entries.pop(name).engine) for name in idle]
        for name, engine in gone:
            if engine is not None:
                try:
                    engine.close()
                    log.info("unloaded %s", name)
                except Exception:
                    log.exception("unloading %s failed", name)
        return idle

    def close(self) -> None:
        """Unload all that is not in use."""
        self._idle_unload = 0.0
        self.unload_idle(0.0)

    def _begin(self, spec: ModelSpec) -> _Entry:
        """Load a model in a thread; the lock is held."""
        entry = _Entry()
        name = f"load-{spec.id}"
        arguments = (spec, entry, request_id.get())
        threading.Thread(target=self._run_load, args=arguments, name=name, daemon=True).start()
        self._entries[spec.id] = entry
        self._failures.pop(spec.id, None)
        return entry

    def _run_load(self, spec: ModelSpec, entry: _Entry, request_name: str) -> None:
        request_id.set(request_name)  # of the request that asked first
        start = time.monotonic()
        log.info("loading %s from %s", spec.id, spec.source)
        try:
            engine = self._load_making_room(spec, _reporter(spec, entry))
            size = engine.memory_bytes() / 1e6
        except BaseException as error:
            show_bar("")
            known = isinstance(error, ApiError)
            log.error("loading %s failed: %s", spec.id, error, exc_info=None if known else error)
            told = (
                error if known else ModelLoadFailed(f"{spec.id} could not be loaded: {type(error).__name__}.")
            )
            with self._lock:
                self._entries.pop(spec.id, None)
                self._failures[spec.id] = str(told), time.monotonic()
            entry.future.set_exception(told)
            return
        show_bar("")
        seconds = time.monotonic() - start
        with self._lock:
            self._load_seconds[spec.id] = seconds
        log.info("loaded %s on %s: %.0f MB in %.1f s", spec.id, engine.device, size, seconds)
        entry.future.set_result(engine)
        self._start_sweeper()

    def _load_making_room(self, spec: ModelSpec, progress: Progress) -> Engine:
        """Load, and while that does not fit, unload what was idle for longest: once where that is a guess,
        and nothing where all that is idle there would not be enough.
        """
        doubted = False
        while True:
            try:
                return self._load(spec, progress)
            except (OutOfMemory, MayNotFit) as error:
                if isinstance(error, MayNotFit):
                    if doubted:
                        raise
                    doubted = True
                idle = self._idle_on(error.device)
                missing = error.missing if isinstance(error, OutOfMemory) else 0
                if not idle or sum(entry.future.result().memory_bytes() for entry in idle) < missing:
                    raise
                longest = min(idle, key=lambda entry: entry.idle_since)
                freed = self._unload(partial(operator.is_, longest))
                if not freed:
                    raise
                log.info("unloaded %s to make room: %s", ", ".join(freed), error)

    def _idle_on(self, device: str | None) -> list[_Entry]:
        """What is idle on a device, or on any."""
        with self._lock:
            idle = [(entry, entry.engine) for entry in self._entries.values() if entry.is_idle]
        return [entry for entry, engine in idle if engine is not None and device in (None, engine.device)]

    def _release(self, entry: _Entry) -> None:
        with self._lock:
            entry.leases -= 1
            entry.idle_since = time.monotonic()

    def _start_sweeper(self) -> None:
        with self._lock:
            if self._idle_unload <= 0 or self._sweeper is not None:
                return
            self._sweeper = threading.Thread(target=self._sweep, name="unload-idle", daemon=True)
            self._sweeper.start()

    def _sweep(self) -> None:
        while self._idle_unload > 0:
            time.sleep(min(self._idle_unload / 4, 10.0))
            self.unload_idle(self._idle_unload)


def _wait(future: "Future[Engine]", tick: float, watch: Callable[[], None]) -> Engine:
    while True:
        watch()
        try:
            return future.result(timeout=tick)
        except TimeoutError:
            continue


def _still_loading(spec: ModelSpec, entry: _Entry, timeout: RequestTimeout) -> RequestTimeout:
    how_far = f"{entry.phase}, {100 * entry.share:.0f} %"
    return RequestTimeout(
        f"{spec.id} is still being loaded ({how_far}): try again in a while. {timeout.message}",
        retry_after=RETRY_LOADING,
    )


def _reporter(spec: ModelSpec, entry: _Entry) -> Progress:
    """Keeps how far a load is, and shows it: as a bar on a terminal, else as lines, not too often."""
    last = time.monotonic()

    def report(phase: str, share: float) -> None:
        nonlocal last
        changed = phase != entry.phase
        entry.phase, entry.share = phase, share
        since = time.monotonic() - last
        if not changed and since < 0.1:
            return
        text = f"loading {spec.id}: [{'#' * round(20 * share):20}] {100 * share:3.0f} % {phase}"
        if show_bar(text):
            last = time.monotonic()
        elif changed or since > 5.0:
            last = time.monotonic()
            log.info("%s", text)

    return report
