"""Fixtures of the unit tests: a scripted engine, a clock that is set by hand, and an app wired to both."""

import contextlib
import logging
import pathlib
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app, telemetry
from app.engine.catalog import Catalog
from app.engine.media_types import ClipPlan, Fitter, MediaOptions
from app.engine.registry import ModelRegistry
from app.engine.stats import EngineStats
from app.engine.types import (
    ChatRequest,
    Defaults,
    Event,
    Finish,
    GenerationRequest,
    Idle,
    Message,
    ModelSpec,
    Progress,
    PromptInfo,
    TextPart,
    Token,
    Wait,
)
from app.metrics import Metrics
from app.routes import sse
from app.services import meter, watch
from app.services.admission import Admission
from app.services.completion import Completions
from app.services.conversations import Conversations
from app.services.monitoring import Monitor
from app.services.turn import Turns
from app.settings import Settings

SPECS = (
    ModelSpec("scripted", "/nowhere/scripted", modalities=("text", "image"), aliases=("Alias",)),
    ModelSpec("second", "/nowhere/second", context_length=77),
    ModelSpec("third", "/nowhere/third"),
)

Step = Event | BaseException | threading.Event | Callable[[], None]
"""An event to emit, an exception to raise, a block that ends when it is set, or something to do."""


def says(*texts: str, reason: Any = "stop", rest: str = "") -> list[Step]:
    """The events of an answer of these tokens."""
    return [*(Token(number, text) for number, text in enumerate(texts)), Finish(reason, rest)]


class ScriptedGeneration:
    """A generation that follows a script; knows how often it was cancelled."""

    def __init__(self, script: Sequence[Step], info: PromptInfo, prompts: int = 1) -> None:
        self._script = script
        self._prompts = [info] * prompts
        self.queued: list[Wait] = [(1, 0.5)]
        self.cancelled = 0
        self.cancelled_choices: list[int] = []
        self.started = False

    def prompts(self) -> Sequence[PromptInfo]:
        return self._prompts

    def waits(self) -> Sequence[Wait]:
        return self.queued

    def cancel(self, choice: int | None = None) -> None:
        if choice is None:
            self.cancelled += 1
        else:
            self.cancelled_choices.append(choice)

    def __iter__(self) -> Iterator[Event]:
        self.started = True
        for step in self._script:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, threading.Event):
                while not step.wait(0.01):
                    yield Idle()
            elif callable(step):
                step()
                yield Idle()
            else:
                yield step


class AsTheyAre:
    """A fitter that leaves pictures as they are and keeps every frame."""

    def picture(self, image: Any, options: MediaOptions) -> Any:
        return image

    def clip(self, total: int, fps: float, size: tuple[int, int], options: MediaOptions) -> ClipPlan:
        return ClipPlan(tuple(range(total)), lambda frame: frame, total)


class ScriptedEngine:
    """An engine without a model: every generation follows the same script."""

    device = "cpu"
    context_length = 100
    modalities: tuple[str, ...] = ("text", "image")
    fitter: Fitter = AsTheyAre()

    def __init__(self, script: Sequence[Step] = (), spec: ModelSpec = SPECS[0]) -> None:
        self.script = script
        self.spec = spec
        self.defaults = Defaults()
        self.info = PromptInfo((72, 101, 108, 108, 111), image_tokens=3, cached_tokens=2)
        self.refuses: Exception | None = None
        self.requests: list[GenerationRequest] = []
        self.generations: list[ScriptedGeneration] = []
        self.closed = 0
        self.broken: str | None = None

    def submit(self, *requests: GenerationRequest) -> ScriptedGeneration:
        if self.refuses is not None:
            raise self.refuses
        self.requests += requests
        self.generations.append(ScriptedGeneration(self.script, self.info, len(requests)))
        return self.generations[-1]

    def tokenize(self, request: GenerationRequest) -> Sequence[int]:
        self.requests.append(request)
        return self.info.ids

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def is_lost(self) -> bool:
        return False

    def fault(self) -> str | None:
        return self.broken

    def token_bytes(self, token: int) -> bytes:
        return chr(token).encode()

    def busy(self) -> tuple[int, int]:
        return len(self.generations), 2

    def memory_bytes(self) -> int:
        return 1000

    def stats(self) -> EngineStats:
        return EngineStats(kv_running=30, kv_kept=20, kv_capacity=100, vision_hits=5, vision_misses=6)

    def close(self) -> None:
        self.closed += 1


class Clock:
    """Stands in for the module time; moves only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class House:
    """An app whose models are scripted; `load` may be replaced before the first request."""

    settings: Settings
    engine: ScriptedEngine
    load: Callable[[ModelSpec, Progress], Any] = field(init=False)
    admission: Admission = field(init=False)
    registry: ModelRegistry = field(init=False)
    metrics: Metrics = field(init=False)
    completions: Completions = field(init=False)
    conversations: Conversations = field(init=False)
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        self.load = lambda spec, progress: self.engine
        self.admission = Admission(self.settings.streams() + self.settings.max_queue)
        self.registry = ModelRegistry(
            Catalog(SPECS, "scripted", created=1234), lambda spec, progress: self.load(spec, progress)
        )
        self.metrics = Metrics()
        self.metrics.registry.register(Monitor(self.registry, self.admission))
        self.completions = Completions(self.registry, self.admission, self.settings, self.metrics)
        self.conversations = Conversations(pathlib.Path(self.settings.database))
        self.turns = Turns(self.completions, self.conversations, self.registry)

    def leased(self) -> bool:
        """Whether anybody holds the model; looks by trying to unload it."""
        return not self.registry.unload_idle(0.0) and bool(self.registry.engines())

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of a series, None if there is none."""
        return self.metrics.registry.get_sample_value(f"vlserve_{name}", labels)


def asked(**options: Any) -> ChatRequest:
    """A chat request that says hello."""
    return ChatRequest(messages=(Message("user", (TextPart("hello"),)),), **options)


HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


@contextlib.contextmanager
def remote_code_in(folder: pathlib.Path) -> Iterator[None]:
    """Keep transformers' copies of remote code in a folder, and leave no trace of them in the process."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder))
        # An older place of such copies, earlier on the path, would be searched instead.
        rest = [entry for entry in sys.path if not (pathlib.Path(entry) / "transformers_modules").exists()]
        patch.setattr(sys, "path", rest)
        _forget_remote_code()
        yield
        _forget_remote_code()


def _forget_remote_code() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def quiet_root_logger() -> Iterator[None]:
    """Give the root logger its handlers back after telemetry.configure has replaced them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> Settings:
    return Settings(database=str(tmp_path / "vlserve.db"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (meter, sse, watch):
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(says("Hel", "lo", " you"))


@pytest.fixture
def house(settings: Settings, engine: ScriptedEngine) -> Iterator[House]:
    made = House(settings, engine)
    yield made
    made.conversations.close()


@pytest.fixture
def make_app(engine: ScriptedEngine, settings: Settings) -> Iterator[Callable[..., Flask]]:
    """Makes the application with other settings, wired to the scripted engine."""

    def make(**changes: Any) -> Flask:
        root = logging.getLogger()
        handlers = root.handlers[:]
        changed = replace(settings, **changes)
        made = create_app(changed)
        root.handlers[:] = handlers  # caplog's are among them
        house = House(changed, engine)
        houses.append(house)
        made.extensions |= {
            "house": house,
            "registry": house.registry,
            "metrics": house.metrics,
            "completions": house.completions,
            "conversations": house.conversations,
            "turns": house.turns,
            "drain": house.admission.drain,
        }
        return made

    houses: list[House] = []
    yield make
    telemetry.hide(())
    for house in houses:
        house.conversations.close()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file can become larger than 64 KiB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
