"""The stream's thread with a model that is scripted: limits, turns, cancelling, and what errors become."""

import gc
import pathlib
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
import transformers

from app import telemetry
from app.engine import generate
from app.engine.encode import PromptEncoder
from app.engine.generate import TransformersEngine
from app.engine.stats import EngineStats
from app.engine.types import (
    Defaults,
    Finish,
    GenerationRequest,
    Idle,
    Message,
    ModelSpec,
    Sampling,
    TextPart,
    Token,
)
from app.engine.vision import Features
from app.errors import ContextLengthExceeded, GenerationFailed, InvalidRequest, OutOfMemory
from tests.conftest import wait_until

assert tiny_models
REQUEST = GenerationRequest((Message("user", (TextPart("hello"),)),), Sampling(temperature=0.0))


class Model:
    """Generates the token 7 until it is told to stop; waits at its gate before each."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.configs: list[Any] = []
        self.samplers: list[Any] = []
        self.request_ids: list[str] = []

    def generate(self, **options: Any) -> None:
        assert torch.is_inference_mode_enabled()
        config, ids, streamer = options["generation_config"], options["input_ids"], options["streamer"]
        self.configs.append(config)
        self.samplers += options["logits_processor"]
        self.request_ids.append(telemetry.request_id.get())
        streamer.put(ids)
        for _ in range(config.max_new_tokens):
            assert self.gate.wait(20)
            if self.error is not None:
                raise self.error
            streamer.put(torch.tensor([7]))
            if bool(options["stopping_criteria"](ids, None).all()):
                break
        streamer.end()

    def parameters(self) -> list[torch.Tensor]:
        return [torch.zeros(10), torch.zeros(3, dtype=torch.float16)]

    def modules(self) -> list[Any]:
        return []


@pytest.fixture(scope="module")
def encoder(tiny: Callable[[str], pathlib.Path]) -> PromptEncoder:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny("qwen2"))
    return PromptEncoder(tokenizer, vision=False, remote_code=False)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def engine(model: Model, encoder: PromptEncoder) -> TransformersEngine:
    return TransformersEngine(
        ModelSpec("scripted", "/nowhere"),
        model,
        encoder,
        defaults=Defaults(max_tokens=6),
        context_length=80,
        stop_ids=frozenset({1, 2}),
        max_concurrent=2,
    )


def tokens(engine: TransformersEngine, request: GenerationRequest) -> int:
    return sum(isinstance(event, Token) for event in engine.submit(request))


def room(engine: TransformersEngine) -> int:
    return engine.context_length - len(engine.submit(REQUEST).prompts()[0].ids)


def test_the_token_limit_is_the_requests_else_the_models(engine: TransformersEngine) -> None:
    assert tokens(engine, REQUEST) == 6
    assert tokens(engine, replace(REQUEST, max_tokens=9)) == 9
    most = room(engine)
    assert tokens(engine, replace(REQUEST, max_tokens=most)) == most


def test_without_any_limit_the_context_is_one(model: Model, encoder: PromptEncoder) -> None:
    parts: dict[str, Any] = {"defaults": Defaults(), "stop_ids": frozenset(), "max_concurrent": 1}
    engine = TransformersEngine(ModelSpec("a", "b"), model, encoder, context_length=80, **parts)
    assert tokens(engine, REQUEST) == room(engine)


def test_more_tokens_than_fit_are_refused_at_their_field(engine: TransformersEngine) -> None:
    most = room(engine)
    request = replace(REQUEST, max_tokens=most + 3, max_tokens_param="max_completion_tokens")
    with pytest.raises(ContextLengthExceeded, match=f"at most {most} can be generated") as caught:
        engine.submit(request)
    assert caught.value.param == "max_completion_tokens"
    assert caught.value.excess == 3


def test_a_prompt_longer_than_the_context_is_refused(engine: TransformersEngine) -> None:
    long = replace(REQUEST, messages=(Message("user", (TextPart("hello " * 100),)),))
    with pytest.raises(ContextLengthExceeded, match="context is 80 tokens; the prompt has") as caught:
        engine.submit(long)
    assert caught.value.param == "messages"
    counted = int(str(caught.value).split()[-1].rstrip("."))
    assert caught.value.excess == counted + 1 - 80  # there must be room for one token


def test_a_prompt_that_is_refused_unread_says_at_least_how_much_is_too_much(
    engine: TransformersEngine,
) -> None:
    endless = replace(REQUEST, messages=(Message("user", (TextPart("hello " * 10_000),)),), max_tokens=7)
    with pytest.raises(ContextLengthExceeded, match="the prompt has over") as caught:
        engine.submit(endless)
    assert caught.value.excess == int(str(caught.value).split()[-1].rstrip(".")) + 7 - 80


def test_a_prompt_that_cannot_be_is_refused_in_the_callers_thread(
    engine: TransformersEngine, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder.tokenizer, "chat_template", "{{ raise_exception('no') }}")
    with pytest.raises(InvalidRequest):
        engine.submit(REQUEST)
    assert engine.busy() == (0, 0)


def test_each_request_brings_its_own_configuration(engine: TransformersEngine, model: Model) -> None:
    list(engine.submit(replace(REQUEST, sampling=Sampling(temperature=0.0, repetition_penalty=1.3))))
    list(engine.submit(REQUEST))
    assert [len(sampler.processors) for sampler in model.samplers] == [1, 0]
    assert [config.do_sample for config in model.configs] == [False, False]
    assert model.configs[0].eos_token_id == [1, 2]


def test_the_thread_works_under_the_requests_id(engine: TransformersEngine, model: Model) -> None:
    token = telemetry.request_id.set("req_9")
    list(engine.submit(REQUEST))
    telemetry.request_id.reset(token)
    assert model.request_ids == ["req_9"]


def test_so_many_run_at_once_and_the_others_wait(engine: TransformersEngine, model: Model) -> None:
    model.gate.clear()
    streams = [engine.submit(REQUEST) for _ in range(5)]
    wait_until(lambda: engine.busy() == (2, 3))
    streams[4].cancel()
    wait_until(lambda: engine.busy() == (2, 2))
    model.gate.set()
    assert all(isinstance(list(stream)[-1], Finish) for stream in streams)
    wait_until(lambda: engine.busy() == (0, 0))
    assert len(model.configs) == 4


def test_streams_are_told_how_they_queued(engine: TransformersEngine, model: Model) -> None:
    model.gate.clear()
    streams = []
    for place in range(4):
        streams.append(engine.submit(REQUEST))
        wait_until(lambda: sum(engine.busy()) == place + 1)  # noqa: B023
    waits = [wait for stream in streams for wait in stream.waits()]
    assert [position for position, _ in waits] == [0, 0, 0, 1]
    assert [seconds is None for _, seconds in waits] == [False, False, True, True]
    model.gate.set()
    for stream in streams:
        list(stream)
        ((_, seconds),) = stream.waits()
        assert seconds is not None
        assert 0 <= seconds < 60


def test_what_generates_nothing_never_queues(engine: TransformersEngine) -> None:
    stream = engine.submit(replace(REQUEST, max_tokens=0))
    list(stream)
    assert stream.waits() == []


def test_cancel_ends_a_generation_at_its_next_token(engine: TransformersEngine, model: Model) -> None:
    model.gate.clear()
    stream = engine.submit(replace(REQUEST, max_tokens=20))
    wait_until(lambda: engine.busy() == (1, 0))
    stream.cancel()
    model.gate.set()
    events = [event for event in stream if not isinstance(event, Idle)]
    assert len(events) == 2
    wait_until(lambda: engine.busy() == (0, 0))


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), OutOfMemory, "memory ran out"),
        (RuntimeError("secret"), GenerationFailed, r"failed while it generated \(RuntimeError\)"),
        (GenerationFailed("NaN", code="numerical_error"), GenerationFailed, "NaN"),
    ],
)
def test_what_generate_raises_comes_out_of_the_stream(
    engine: TransformersEngine,
    model: Model,
    error: BaseException,
    kind: type[Exception],
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model.error = error
    with pytest.raises(kind, match=text) as caught:
        list(engine.submit(REQUEST))
    assert "secret" not in str(caught.value)
    assert ("secret" in caplog.text) is ("secret" in str(error))
    wait_until(lambda: engine.busy() == (0, 0))
    model.error = None
    assert tokens(engine, REQUEST) == 6


@pytest.mark.parametrize("error", [RuntimeError("a"), GenerationFailed("b"), torch.OutOfMemoryError("c")])
def test_an_error_does_not_keep_the_requests_tensors_alive(
    engine: TransformersEngine, model: Model, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    # A captured record would keep the traceback itself.
    monkeypatch.setattr(generate.log, "exception", lambda *_: None)
    held: list[weakref.ref[torch.Tensor]] = []

    def failing(**options: Any) -> None:
        held.append(weakref.ref(options["input_ids"]))
        raise type(error)("made here")

    monkeypatch.setattr(model, "generate", failing)
    stream = engine.submit(REQUEST)
    try:
        list(stream)
    except Exception as raised:
        kept = raised
        wait_until(
            lambda: gc.collect() is not None and not any(t.name == "generate" for t in threading.enumerate())
        )
        gc.collect()
        assert held[0]() is None, f"kept alive by {kept!r}"
    else:
        pytest.fail("nothing was raised")


def test_a_model_that_is_not_batched_has_no_cache(engine: TransformersEngine) -> None:
    assert engine.stats() == EngineStats()


def test_known_pictures_are_told(engine: TransformersEngine, model: Model) -> None:
    features = Features(None)
    features.hits, features.misses = 3, 4
    model.model = types.SimpleNamespace(get_image_features=features)  # type: ignore[attr-defined]
    assert engine.stats() == EngineStats(vision_hits=3, vision_misses=4)


def test_a_gpus_memory_is_told(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    there = types.SimpleNamespace(total_memory=80)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: there)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(device.removeprefix("cuda:")))
    engine.device = "cuda:7"
    assert engine.stats().device_memory == (7, 80)


def test_the_weights_are_counted_in_bytes(engine: TransformersEngine) -> None:
    assert engine.memory_bytes() == 46


def test_a_closed_engine_lets_go_of_its_model(encoder: PromptEncoder) -> None:
    model = Model()
    parts: dict[str, Any] = {"defaults": Defaults(), "stop_ids": frozenset(), "max_concurrent": 1}
    engine = TransformersEngine(ModelSpec("a", "b"), model, encoder, context_length=80, **parts)
    seen = weakref.ref(model)
    del model
    engine.close()
    gc.collect()
    assert seen() is None
