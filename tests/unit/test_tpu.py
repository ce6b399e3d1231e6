"""The TPU engine on the stand-in: streams in turns, what it refuses, what becomes of a device that fails."""

import contextlib
import copy
import functools
import itertools
import json
import os
import pathlib
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
from app.engine import catalog, loader, tpu_chip, tpu_worker
from app.engine.bmrt import FUNCTIONS
from app.engine.media_types import Clip, ImagePart, MediaOptions, VideoPart
from app.engine.registry import ModelRegistry
from app.engine.tpu import TpuEngine
from app.engine.types import (
    Defaults,
    Finish,
    Function,
    GenerationRequest,
    Grammar,
    Logprobs,
    Message,
    ModelSpec,
    Sampling,
    TextPart,
    Token,
    Tools,
)
from app.errors import (
    ApiError,
    ContextLengthExceeded,
    DeviceFailed,
    InvalidRequest,
    ModelLoadFailed,
    OutOfMemory,
)
from tests import standin
from tests.conftest import ROOT, scene, wait_until

assert tiny_models
Compiled = Callable[..., pathlib.Path]
GREEDY = Sampling(temperature=0.0)
LIVE = ("live_bytes", "live_blocks", "live_handles", "live_runtimes", "callers")


def spec(folder: pathlib.Path, **more: Any) -> ModelSpec:
    return ModelSpec("tpu", str(folder), engine="bmrt", modalities=("text", "image"), **more)


def asks(text: str = "Hello! Who are you?", *pictures: Any, **more: Any) -> GenerationRequest:
    parts: list[Any] = [*(ImagePart("", "messages", picture) for picture in pictures), TextPart(text)]
    more = {"sampling": GREEDY} | more
    return GenerationRequest((Message("user", tuple(parts)),), **more)


def said(engine: Any, *requests: GenerationRequest) -> list[str]:
    """The text of each choice."""
    found: dict[int, str] = {}
    for event in engine.submit(*requests):
        if isinstance(event, Token | Finish):
            found[event.choice] = found.get(event.choice, "") + event.text
    return [found[choice] for choice in sorted(found)]


def finishes(engine: Any, request: GenerationRequest) -> Finish:
    events = list(engine.submit(request))
    assert isinstance(events[-1], Finish)
    return events[-1]


@pytest.fixture
def load(compiled: Compiled) -> Iterator[Callable[..., TpuEngine]]:
    """Loads compiled models; when the test ends, they leave nothing on the device."""
    made: list[TpuEngine] = []
    control = standin.control()
    refused = control["host_refused"]

    def loaded(
        streams: int = 10, changes: dict[str, Any] | None = None, family: str = "demo", **options: Any
    ) -> TpuEngine:
        control["most_callers"] = 0
        engine = loader.load(
            spec(compiled(family, **options), **(changes or {})),
            lambda what, share: None,
            max_concurrent=streams,
            tpu_libraries=str(standin.libraries()),
        )
        assert isinstance(engine, TpuEngine)
        made.append(engine)
        return engine

    yield loaded
    control.heal()
    control["limit_bytes"] = control["launch_micros"] = control["devices"] = 0
    for engine in made:
        engine.close()
    assert [control[name] for name in LIVE] == [0] * len(LIVE)
    assert control["host_refused"] == refused
    assert control["most_callers"] <= 1


def test_it_says_what_it_is(load: Callable[..., TpuEngine]) -> None:
    engine = load()
    assert (engine.device, engine.context_length, engine.prompt_length) == ("tpu:0", 512, 256)
    assert engine.modalities == ("text", "image", "video")
    assert engine.busy() == (0, 0)
    assert engine.memory_bytes() > 10e6
    assert engine.fault() is None
    stats = engine.stats()
    assert (stats.kv_capacity, stats.kv_running) == (10 * 512, 0)
    assert stats.device_memory is not None
    assert stats.device_memory[1] == (15 << 30) + (8 << 20)


def test_it_answers_with_and_without_a_picture(load: Callable[..., TpuEngine]) -> None:
    engine = load()
    assert said(engine, asks("What is in this picture?", scene())) == [
        "A large red circle in the center, on a white background."
    ]
    assert "vlserve" in said(engine, asks())[0]
    assert engine.stats().vision_misses == 1


def test_ten_streams_on_two_caches_do_not_mix(load: Callable[..., TpuEngine]) -> None:
    colours = ["red", "blue", "green", "yellow", "black"]
    requests = [asks("What is in this picture?", scene(colour=colour)) for colour in colours]
    requests += [asks("What colour is it?", scene(colour=colour, shape="square")) for colour in colours]
    alone = load()
    wanted = [said(alone, request)[0] for request in requests]
    alone.close()
    two = load(streams=2)
    running = [two.submit(request) for request in requests]
    assert two.busy()[0] <= 2
    found = ["".join(event.text for event in one if isinstance(event, Token | Finish)) for one in running]
    assert found == wanted
    assert len(set(found)) > 5


def test_streams_get_their_tokens_in_turns(load: Callable[..., TpuEngine]) -> None:
    engine = load(streams=3)
    order: list[int] = []
    for event in engine.submit(*[asks(f"Count to {number} please", max_tokens=20) for number in (5, 6, 7)]):
        if isinstance(event, Token):
            order.append(event.choice)
    middle = order[9:24]
    assert {choice: middle.count(choice) for choice in range(3)} == {0: 5, 1: 5, 2: 5}


def test_device_memory_decides_how_many_run_at_once(load: Callable[..., TpuEngine]) -> None:
    control = standin.control()
    first = load(streams=1)
    each, base = 2 * 4 * 512 * 2 * 64 * 4, control["live_bytes"]
    first.close()
    control["limit_bytes"] = base + 2 * each + each // 2
    engine = load(streams=10)
    assert engine.stats().kv_capacity == 2 * 512
    assert len(said(engine, *[asks(max_tokens=3)] * 5)) == 5


@pytest.mark.parametrize("fitted", [1, 2])
def test_caches_that_did_not_fit_are_made_once_there_is_room(
    load: Callable[..., TpuEngine], monkeypatch: pytest.MonkeyPatch, fitted: int
) -> None:
    control, first = standin.control(), load(streams=1)
    requests = [asks(text, ignore_eos=True, max_tokens=100) for text in ("Hello!", "Who are you?", "Hi")]
    wanted = [said(first, request)[0] for request in requests]
    each, base = 2 * 4 * 512 * 2 * 64 * 4, control["live_bytes"]
    first.close()
    control["limit_bytes"] = base + fitted * each + each // 2
    control["launch_micros"] = 20_000
    monkeypatch.setattr(tpu_worker, "RETRY", 0.0)
    engine = load(streams=3)
    running = [engine.submit(request) for request in requests]
    wait_until(lambda: engine.busy() == (fitted, 3 - fitted))
    assert engine.stats().kv_capacity == fitted * 512
    control["limit_bytes"] = 0
    wait_until(lambda: engine.busy() == (3, 0))
    assert engine.stats().kv_capacity == 3 * 512
    control["launch_micros"] = 0
    found = ["".join(event.text for event in one if isinstance(event, Token | Finish)) for one in running]
    assert found == wanted


def test_a_cancelled_stream_gives_its_cache_to_the_next_within_a_token(
    load: Callable[..., TpuEngine],
) -> None:
    engine, control = load(streams=1), standin.control()
    control["launch_micros"] = 2000
    first = engine.submit(asks(ignore_eos=True, max_tokens=400))
    events = iter(first)
    while not isinstance(next(events), Token):
        pass
    second = engine.submit(asks("Hi", max_tokens=3))
    wait_until(lambda: engine.busy() == (1, 1))
    launches = control["launches"]
    first.cancel()
    wait_until(lambda: any(isinstance(event, Token) for event in second))
    a_token = 4 + 2
    assert control["launches"] - launches <= a_token + (1 + 4 + 1) + 3 * a_token
    second.cancel()


def test_a_stream_whose_client_leaves_computes_no_more_of_its_prompt(load: Callable[..., TpuEngine]) -> None:
    engine, control = load(streams=1, input_length=64, layout="history"), standin.control()
    text = asks("word " * 150)
    said(engine, replace(text, max_tokens=1))  # so that all is warm
    before = control["launches"]
    said(engine, replace(asks("other " * 150), max_tokens=1))
    whole = control["launches"] - before
    control["launch_micros"] = 20_000
    before = control["launches"]
    generation = engine.submit(asks("another " * 150))
    wait_until(lambda: control["launches"] > before + 2)
    generation.cancel()
    wait_until(lambda: engine.busy() == (0, 0))
    assert [type(event) for event in generation] == [Finish]
    assert control["launches"] - before < whole - 2
    control["launch_micros"] = 0
    assert "vlserve" in said(engine, asks())[0]  # nothing of it is left in the cache


def test_one_that_waits_leaves_the_queue(load: Callable[..., TpuEngine]) -> None:
    engine = load(streams=1)
    standin.control()["launch_micros"] = 2000
    first, second = engine.submit(asks(ignore_eos=True, max_tokens=300)), engine.submit(asks())
    wait_until(lambda: engine.busy() == (1, 1))
    second.cancel()
    wait_until(lambda: engine.busy() == (1, 0))
    assert [type(event) for event in second][-1] is Finish
    first.cancel()
    wait_until(lambda: engine.busy() == (0, 0))


def test_choices_share_their_prompt_and_differ_by_seed(load: Callable[..., TpuEngine]) -> None:
    engine, control = load(), standin.control()
    warm = Sampling(temperature=1.5, seed=3)
    request = asks("What is in this picture?", scene(), sampling=warm, n=4, max_tokens=24)
    before = control["launches"]
    generation = engine.submit(request)
    found: dict[int, str] = {}
    for event in generation:
        if isinstance(event, Token | Finish):
            found[event.choice] = found.get(event.choice, "") + event.text
    assert len(set(found.values())) > 1
    assert engine.stats().vision_misses == 1
    assert control["launches"] > before
    assert said(engine, request) == [found[choice] for choice in range(4)]
    assert said(engine, replace(request, n=2)) == [found[0], found[1]]
    again = engine.submit(request)
    list(again)
    (info,) = again.prompts()
    assert info.cached_tokens == len(info.ids)


def test_a_seed_means_the_same_as_on_every_other_engine(load: Callable[..., TpuEngine]) -> None:
    samplings = [
        Sampling(temperature=2.0, top_k=20, top_p=0.98, seed=1),
        Sampling(temperature=2.0, top_k=50, seed=2),
        Sampling(temperature=2.0, seed=3, presence_penalty=1.0, logit_bias=((40, 3.0),)),
        Sampling(temperature=2.0, seed=4),
    ]
    requests = [asks("What do you see?", scene(), sampling=one, max_tokens=24) for one in samplings]
    demo = ModelSpec("demo", str(ROOT / "models" / "demo" / "weights"), dtype="float32")
    with contextlib.closing(loader.load(demo, lambda what, share: None, max_concurrent=4)) as other:
        wanted = said(other, *requests)
    assert len(set(wanted)) >= 3
    assert said(load(head="logits"), *requests) == wanted
    assert said(load(head="heads"), *requests) == wanted


@pytest.mark.parametrize("logits", ["bfloat16", "float16"])
def test_logits_of_16_bits_are_chosen_from_too(load: Callable[..., TpuEngine], logits: str) -> None:
    engine = load(head="heads", logits=logits)
    assert "vlserve" in said(engine, asks())[0]
    assert said(engine, asks(sampling=Sampling(temperature=0.5, top_k=1, seed=1))) == said(engine, asks())


def test_log_probabilities_are_those_of_the_logits(load: Callable[..., TpuEngine]) -> None:
    engine = load(head="heads")
    tokens = [
        event
        for event in engine.submit(asks(sampling=replace(GREEDY, top_logprobs=3), max_tokens=5))
        if isinstance(event, Token)
    ]
    for token in tokens:
        assert isinstance(token.logprobs, Logprobs)
        likeliest, logprob = token.logprobs.top[0]
        assert likeliest == token.id
        assert abs(logprob - token.logprobs.logprob) < 1e-6
        assert len(token.logprobs.top) == 3


def test_a_texts_own_tokens_are_scored(load: Callable[..., TpuEngine]) -> None:
    engine = load()
    request = GenerationRequest(
        (), replace(GREEDY, top_logprobs=1), prompt="A large red circle.", score_prompt=True, max_tokens=0
    )
    generation = engine.submit(request)
    assert [type(event) for event in generation] == [Finish]
    (info,) = generation.prompts()
    assert len(info.logprobs) == len(info.ids)
    assert info.logprobs[0] is None
    assert all(isinstance(one, Logprobs) and one.logprob < 0 for one in info.logprobs[1:])


def test_a_grammar_holds_the_answer(load: Callable[..., TpuEngine]) -> None:
    engine = load()
    choices = Grammar("choice", '["circle", "square"]', "structured_outputs.choice")
    assert said(engine, asks("Hello!", grammar=choices))[0] in ("circle", "square")


def test_stop_tokens_limits_and_the_cache_end_an_answer(load: Callable[..., TpuEngine]) -> None:
    engine = load(input_length=64, length=80)
    assert finishes(engine, asks()).reason == "stop"
    assert finishes(engine, asks(max_tokens=3)).reason == "length"
    endless = engine.submit(asks(ignore_eos=True))
    tokens = sum(isinstance(event, Token) for event in endless)
    assert tokens + len(endless.prompts()[0].ids) == 80


def test_prompts_over_the_compiled_length_are_refused_with_the_numbers(
    load: Callable[..., TpuEngine],
) -> None:
    engine = load(input_length=64, length=128)
    with pytest.raises(
        ContextLengthExceeded, match=r"takes prompts of 64 tokens; the prompt has \d+"
    ) as told:
        engine.submit(asks("red " * 60))
    assert told.value.param == "messages"
    with pytest.raises(ContextLengthExceeded, match=r"context is 128 tokens.*at most"):
        engine.submit(asks(max_tokens=128))
    with pytest.raises(ContextLengthExceeded, match="has over"):
        engine.submit(asks("red " * 100_000))


def test_pictures_are_brought_to_what_was_compiled(load: Callable[..., TpuEngine]) -> None:
    engine = load(patches=64)
    generation = engine.submit(asks("What is in this picture?", scene()))
    assert generation.prompts()[0].image_tokens <= 16
    assert [type(event) for event in generation][-1] is Finish
    thin = scene(size=(3000, 20))  # no side is less than a merged patch
    with pytest.raises(InvalidRequest, match=r"has \d+ patches; this model was compiled for 64") as told:
        engine.submit(asks("What is it?", thin))
    assert told.value.code == "image_too_large"


def test_a_clip_is_brought_to_what_a_prompt_has_room_for(load: Callable[..., TpuEngine]) -> None:
    engine = load(input_length=128, length=256)
    fitter: Any = engine.fitter
    fitter._video = replaced = copy.copy(fitter._video)  # of the size that Qwen3-VL's own file has
    replaced.size, replaced.max_frames = {"longest_edge": 25_165_824, "shortest_edge": 4096}, 768
    for seconds in (1, 4, 20, 600):
        plan = fitter.clip(25 * seconds, 25.0, (640, 480), MediaOptions(fps=2.0, ratio=0.5, most_frames=768))
        slices = len(plan.indices) // 2
        assert 2 <= len(plan.indices) <= max(4, seconds)
        assert 4 * slices <= plan.tokens <= 64 - 12 * slices
        frame = plan.fit(np.zeros((480, 640, 3), np.uint8))
        assert plan.tokens == slices * frame.shape[0] * frame.shape[1] // 32**2
    asked = fitter.clip(1000, 25.0, (640, 480), MediaOptions(num_frames=40))
    assert len(asked.indices) == 40  # and a 400 with the numbers, as they were asked for
    few = fitter.clip(100, 25.0, (640, 480), MediaOptions(fps=2.0))
    many = fitter.clip(100, 25.0, (640, 480), MediaOptions(fps=2.0, ratio=0.5))
    assert (len(few.indices), len(many.indices)) == (8, 4)  # --video-ratio


def test_each_picture_and_clip_is_told_with_its_tokens(load: Callable[..., TpuEngine]) -> None:
    engine = load()
    plan = engine.fitter.clip(40, 10.0, (120, 90), MediaOptions(fps=2.0))
    frames = np.stack([plan.fit(np.asarray(scene(size=(120, 90))))] * len(plan.indices))
    clip = VideoPart("", "messages", Clip(frames, plan.indices, 10.0, 40, (120, 90)))
    parts = (ImagePart("", "messages", scene()), clip, TextPart("hi"))
    generation = engine.submit(GenerationRequest((Message("user", parts),), GREEDY, max_tokens=1))
    (info,) = generation.prompts()
    list(generation)
    assert info.media_tokens == (info.image_tokens, info.video_tokens)
    assert min(info.media_tokens) > 0


def test_other_families_are_served(load: Callable[..., TpuEngine]) -> None:
    text = load(family="qwen3", input_length=128, length=256, layout="dynamic", dtype="bfloat16")
    assert text.modalities == ("text",)
    assert [event for event in text.submit(asks(max_tokens=4)) if isinstance(event, Finish)]
    sees = load(family="qwen2_5_vl", input_length=128, length=256, patches=64)
    plan = sees.fitter.clip(40, 10.0, (120, 90), MediaOptions(fps=2.0))
    frames = np.stack([plan.fit(np.asarray(scene(size=(120, 90))))] * len(plan.indices))
    clip = VideoPart("", "messages", Clip(frames, plan.indices, 10.0, 40, (120, 90)))
    asked = GenerationRequest((Message("user", (clip, TextPart("hi"))),), GREEDY, max_tokens=4)
    generation = sees.submit(asked)
    assert [event for event in generation if isinstance(event, Finish)]
    assert generation.prompts()[0].video_tokens == plan.tokens > 0


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("temperature", {"sampling": Sampling(temperature=0.7)}),
    ("logprobs", {"sampling": replace(GREEDY, top_logprobs=2)}),
    ("logit_bias", {"sampling": replace(GREEDY, logit_bias=((5, 1.0),))}),
    ("presence_penalty", {"sampling": replace(GREEDY, presence_penalty=1.0)}),
    ("frequency_penalty", {"sampling": replace(GREEDY, frequency_penalty=1.0)}),
    ("repetition_penalty", {"sampling": replace(GREEDY, repetition_penalty=1.1)}),
    ("min_tokens", {"sampling": replace(GREEDY, min_tokens=2)}),
    ("response_format", {"grammar": Grammar("choice", '["a"]', "response_format")}),
    ("tool_choice", {"tools": Tools((Function("f"),), "required")}),
    ("tools[1].function.strict", {"tools": Tools((Function("f"), Function("g", strict=True)))}),
    ("max_thinking_tokens", {"max_thinking_tokens": 5}),
]


def test_a_model_that_tells_only_tokens_refuses_what_needs_logits(load: Callable[..., TpuEngine]) -> None:
    engine = load(head="greedy", changes={"defaults": Defaults(temperature=0.7)})
    assert engine.defaults.greedy_only
    assert "vlserve" in said(engine, asks())[0]
    for param, wish in REFUSED:
        with pytest.raises(InvalidRequest, match=f"{re.escape(param)} cannot be had") as told:
            engine.submit(asks(**wish))
        assert told.value.param == param
    assert engine.busy() == (0, 0)


FAULTS = ["bmrt_launch_tensor_ex", "bm_thread_sync", "bm_memcpy_s2d_partial_offset",
          "bm_memcpy_d2s_partial_offset", "bm_memcpy_d2d_byte"]  # fmt: skip
WITH_A_PICTURE = [*FAULTS, "bm_memset_device_ext"]


@pytest.mark.parametrize("function", WITH_A_PICTURE)
def test_a_device_that_fails_under_a_picture_leaves_nothing(
    load: Callable[..., TpuEngine], function: str
) -> None:
    engine, control, request = load(streams=2), standin.control(), asks("What is it?", scene())
    control.fail("bm_dev_request", code=7)
    control.fail(function, code=5)
    with pytest.raises(DeviceFailed, match=f"{function} failed"):
        said(engine, request)
    wait_until(lambda: [control[name] for name in LIVE] == [0] * len(LIVE))
    with pytest.raises(DeviceFailed, match="bm_dev_request"):
        said(engine, request)
    assert "circle" in said(engine, request)[0]


def spoil(engine: TpuEngine, first: int, count: int) -> None:
    """Make rows of all KV caches NaN."""
    worker = engine._worker
    device, row = worker._device, engine._layout.kv_row_bytes
    assert device is not None
    for slot in worker._slots:
        for memory in (*slot.cache.keys, *slot.cache.values):
            device.write(memory, np.full(count * row // 4, np.nan, np.float32), first * row)


def test_nan_in_a_cache_ends_one_answer_and_no_more(load: Callable[..., TpuEngine]) -> None:
    engine = load(streams=1)
    wanted = said(engine, asks())
    spoil(engine, 200, 20)
    with pytest.raises(ApiError, match="NaN logits"):
        said(engine, asks("Hi"))
    assert [said(engine, asks()) for _ in range(2)] == [wanted] * 2
    spoil(engine, 0, 512)  # the prompt too, which the next would have copied
    with pytest.raises(ApiError, match="NaN logits"):
        said(engine, asks())
    assert said(engine, asks()) == wanted


@pytest.mark.parametrize("head", ["logits", "heads", "greedy"])
def test_nan_in_what_an_answer_has_written_is_not_seen_by_the_next(
    load: Callable[..., TpuEngine], head: str
) -> None:
    engine = load(streams=1, head=head)
    wanted = said(engine, asks())
    long = engine.submit(asks("Count to nine", ignore_eos=True, max_tokens=60))
    list(long)
    spoil(engine, len(long.prompts()[0].ids), 50)
    assert said(engine, asks()) == wanted


def test_an_error_of_our_own_is_no_end_of_the_device(
    load: Callable[..., TpuEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load()

    def fail(*_: Any) -> None:
        monkeypatch.undo()
        raise RuntimeError("secret")

    monkeypatch.setattr(engine._worker, "_admit", fail)
    waiting = engine.submit(asks())
    assert "vlserve" in "".join(event.text for event in waiting if isinstance(event, Token | Finish))
    wait_until(lambda: engine.fault() is None)


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("function", FAULTS)
def test_a_device_that_fails_fails_its_streams_and_is_opened_by_the_next_request(
    load: Callable[..., TpuEngine], function: str, after: int
) -> None:
    engine, control = load(streams=2), standin.control()
    wanted = said(engine, asks())
    control.fail("bm_dev_request", code=7)  # so that it stays closed until it is asked
    control.fail(function, after, code=3)
    with pytest.raises(DeviceFailed, match=f"The TPU failed and is opened anew: {function} failed") as told:
        said(engine, asks("Hi there"))
    assert (told.value.status, told.value.retry_after) == (503, 2)
    wait_until(lambda: engine.fault() is not None)
    assert function in str(engine.fault())
    wait_until(lambda: [control[name] for name in LIVE] == [0] * len(LIVE))
    with pytest.raises(DeviceFailed, match="bm_dev_request failed with code 7: the device is busy"):
        said(engine, asks())
    assert said(engine, asks()) == wanted
    assert engine.fault() is None


def test_all_that_run_are_told_and_those_that_wait_are_served(load: Callable[..., TpuEngine]) -> None:
    engine, control = load(streams=2), standin.control()
    control["launch_micros"] = 1000
    running = [engine.submit(asks(ignore_eos=True, max_tokens=300)) for _ in range(2)]
    wait_until(lambda: engine.busy() == (2, 0))
    waiting = engine.submit(asks("Hi"))
    control.fail("bm_thread_sync", 40, code=3)
    for one in running:
        with pytest.raises(DeviceFailed, match="bm_thread_sync failed with code 3: timeout"):
            list(one)
    assert [type(event) for event in waiting][-1] is Finish


def test_it_is_tried_again_though_nobody_asks(
    load: Callable[..., TpuEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpu_worker, "RETRY", 0.05)
    engine, control = load(), standin.control()
    control.fail("bm_thread_sync", code=3)
    with pytest.raises(DeviceFailed):
        said(engine, asks())
    wait_until(lambda: engine.fault() is None)


def test_a_call_that_does_not_return_is_told_until_it_does(
    load: Callable[..., TpuEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, control = load(streams=1), standin.control()
    wanted, launches = said(engine, asks()), control["launches"]
    control["launch_micros"] = 600_000_000
    hung = [engine.submit(asks("Hi", ignore_eos=True)) for _ in range(2)]
    wait_until(lambda: control["launches"] > launches and control["callers"] == 1)
    assert engine.fault() is None
    monkeypatch.setattr(tpu_chip, "HANGS", 0.0)
    assert re.fullmatch(r"bmrt_launch_tensor_ex has not returned for \d+ seconds", str(engine.fault()))
    for one in hung:
        with pytest.raises(DeviceFailed, match="The TPU hangs: bmrt_launch_tensor_ex has not"):
            list(one)
        one.cancel()
    with pytest.raises(DeviceFailed, match="hangs"):
        engine.submit(asks())
    monkeypatch.undo()
    control["launch_micros"] = 0
    wait_until(lambda: engine.busy() == (0, 0))
    assert engine.fault() is None
    assert said(engine, asks()) == wanted


def test_an_error_of_one_stream_is_its_own(load: Callable[..., TpuEngine]) -> None:
    engine = load(streams=2)
    other = engine.submit(asks(ignore_eos=True, max_tokens=60))
    broken = engine.submit(asks(sampling=Sampling(temperature=1.0)))
    stream: Any = broken._streams[0]

    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    stream._sampler.processors.append(fail)
    with pytest.raises(ApiError, match=r"failed while it generated \(RuntimeError\)") as told:
        list(broken)
    assert "secret" not in str(told.value)
    assert sum(isinstance(event, Token) for event in other) == 60
    assert engine.fault() is None


LOADS: list[tuple[str, int, str]] = [
    ("bm_dev_getcount", 1, "bm_dev_getcount failed"),
    ("bm_dev_request", 1, "bm_dev_request failed"),
    ("bm_get_chipid", 1, "bm_get_chipid failed"),
    ("bmrt_create", 1, "bmrt_create failed: it returned NULL"),
    ("bmrt_load_bmodel", 1, "bmrt_load_bmodel failed: it returned false"),
    ("bmrt_get_network_info", 5, "bmrt_get_network_info failed"),
    ("bm_memset_device_ext", 1, "bm_memset_device_ext failed"),
    ("bm_get_stat", 1, "bm_get_stat failed"),
    ("bm_malloc_device_byte", 9, "bm_malloc_device_byte failed with code 2"),
    ("bm_thread_sync", 1, "bm_thread_sync failed"),
    ("bmrt_get_network_number", 1, "it has no network lm_head"),
    ("bmrt_get_network_names", 1, "it has no network lm_head"),
]


def test_each_function_is_called_and_each_that_can_fail_fails_here(load: Callable[..., TpuEngine]) -> None:
    control = standin.control()
    before = {name: control.calls(name) for name in FUNCTIONS}
    engine = load()
    said(engine, asks("What is it?", scene(), sampling=Sampling(temperature=1.0, seed=1), n=2, max_tokens=3))
    engine.close()
    assert [name for name in FUNCTIONS if control.calls(name) == before[name]] == []
    can_fail = {name for name, function in FUNCTIONS.items() if function.answer != "value"}
    assert can_fail <= {*WITH_A_PICTURE, *(name for name, *_ in LOADS)}


@pytest.mark.parametrize(("function", "after", "reason"), LOADS)
def test_a_load_that_fails_says_why_and_the_next_one_works(
    load: Callable[..., TpuEngine], function: str, after: int, reason: str
) -> None:
    control = standin.control()
    control.fail(function, after, code=2)
    with pytest.raises(ModelLoadFailed, match=reason):
        load()
    assert [control[name] for name in LIVE] == [0] * len(LIVE)
    assert "vlserve" in said(load(), asks())[0]


def test_a_model_that_does_not_fit_leaves_the_memory_as_it_was(load: Callable[..., TpuEngine]) -> None:
    control = standin.control()
    control["limit_bytes"] = 20 << 20
    told = r"TPU's memory: bmrt_load_bmodel failed: the model has \d+ MB, 21 MB are free"
    with pytest.raises(OutOfMemory, match=told):
        load()
    assert [control[name] for name in LIVE] == [0] * len(LIVE)


def test_a_second_model_gets_the_room_of_an_idle_one(compiled: Compiled) -> None:
    control, libraries = standin.control(), str(standin.libraries())
    one, two = spec(compiled()), replace(spec(compiled()), id="second")
    registry = ModelRegistry(
        catalog.Catalog((one, two), one.id),
        lambda entry, progress: loader.load(entry, progress, max_concurrent=1, tpu_libraries=libraries),
    )
    try:
        registry.get(one.id).release()
        size = next(compiled().glob("*.bmodel")).stat().st_size
        control["limit_bytes"] = control["live_bytes"] + size + (2 << 20)  # of the file, not of its arena
        with registry.get("second") as lease:
            assert registry.engines() == [lease.engine]
    finally:
        control["limit_bytes"] = 0
        registry.close()
    assert [control[name] for name in LIVE] == [0] * len(LIVE)


def beside(folder: pathlib.Path, compiled: Compiled, content: bytes) -> ModelSpec:
    """A model "other" with the config/ of the compiled one."""
    shutil.copytree(compiled() / "config", folder / "config")
    (folder / "other.bmodel").write_bytes(content)
    return replace(spec(folder), id="other")


def test_a_model_that_cannot_be_loaded_or_cannot_fit_unloads_none_that_works(
    compiled: Compiled, tmp_path: pathlib.Path
) -> None:
    control, libraries = standin.control(), str(standin.libraries())
    one, cut = spec(compiled()), beside(tmp_path, compiled, bytes(20 << 20))
    registry = ModelRegistry(
        catalog.Catalog((one, cut), one.id),
        lambda entry, progress: loader.load(entry, progress, max_concurrent=1, tpu_libraries=libraries),
    )
    try:
        registry.get(one.id).release()
        with pytest.raises(ModelLoadFailed, match="it returned false"):
            registry.get("other")
        os.truncate(tmp_path / "other.bmodel", 200 << 20)
        control["limit_bytes"] = control["live_bytes"] + (20 << 20)
        loads = control.calls("bmrt_load_bmodel")
        with pytest.raises(OutOfMemory, match=r"the model has 210 MB, 2\d MB are free") as told:
            registry.get("other")
        assert (told.value.retry_after, control.calls("bmrt_load_bmodel")) == (30, loads)
        assert [engine.spec.id for engine in registry.engines()] == [one.id]
    finally:
        control["limit_bytes"] = 0
        registry.close()


def test_a_load_that_does_not_return_is_told_to_all(
    load: Callable[..., TpuEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(streams=1)
    monkeypatch.setattr(tpu_chip, "LOADING", 0.5)
    monkeypatch.setattr(tpu_worker, "TICK", 0.02)
    held = standin.control()["live_bytes"]
    with tpu_chip.chip(0).calling(tpu_chip.LOADS):
        with pytest.raises((DeviceFailed, ModelLoadFailed), match="hangs: bmrt_load_bmodel has not returned"):
            load(streams=1)
        assert "bmrt_load_bmodel has not returned" in str(engine.fault())
        with pytest.raises(DeviceFailed, match="hangs"):
            engine.submit(asks())
    wait_until(lambda: engine.fault() is None)
    assert "vlserve" in said(engine, asks())[0]
    wait_until(lambda: standin.control()["live_bytes"] == held)  # what it had opened is closed


def test_a_model_that_is_loaded_and_unloaded_beside_another_changes_nothing(
    load: Callable[..., TpuEngine],
) -> None:
    engine, request = load(streams=2), asks(ignore_eos=True)
    wanted = said(engine, request)[0]
    standin.control()["launch_micros"] = 1000  # so that the answer lasts
    running = engine.submit(request)
    text = "".join(event.text for event in itertools.islice(running, 5) if isinstance(event, Token))
    for family in ("demo", "qwen3"):
        other = load(streams=2, family=family, input_length=64, length=128)
        said(other, asks(max_tokens=3))
        other.close()
    standin.control()["launch_micros"] = 0
    text += "".join(event.text for event in running if isinstance(event, Token | Finish))
    assert text == wanted


def broken_folders(folder: pathlib.Path, good: pathlib.Path) -> Sequence[tuple[pathlib.Path, str]]:
    empty, two, bare = folder / "empty", folder / "two", folder / "bare"
    for one in (empty, two, bare):
        one.mkdir()
    for name in ("a.bmodel", "b.bmodel"):
        (two / name).touch()
    for name in ("a.bmodel", "._a.bmodel"):  # as some systems leave beside a copy
        (bare / name).touch()
    pipe, cut = folder / "pipe", folder / "cut"
    for one in (pipe, cut):
        shutil.copytree(good / "config", one / "config")
    os.mkfifo(pipe / "a.bmodel")
    header = struct.pack("<4I", 0xFF55AAEE, 64, 1000, 26_000_000)  # as the vendor's files begin
    (cut / "a.bmodel").write_bytes(header + bytes(1000))
    more = [(pipe, "is no plain file"), (cut, "is cut: it has 1016 bytes of 26001064 or more")]
    more += [(empty, "has 0 files"), (bare, "has no config/")]
    return [*more, (two, r"has 2 files .*\(a.bmodel, b.bmodel\)")]


def test_a_folder_that_is_not_complete_is_told(compiled: Compiled, tmp_path: pathlib.Path) -> None:
    for folder, reason in broken_folders(tmp_path, compiled()):
        with pytest.raises(ModelLoadFailed, match=reason):
            loader.load(spec(folder), lambda what, share: None, tpu_libraries=str(standin.libraries()))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vocab_size": 2399}, "vocab_size is 2399 there and 2400 in the networks"),
        ({"hidden_size": 512}, "hidden_size is 512 there and 256"),
        ({"num_hidden_layers": 6}, "num_hidden_layers is 6 there and 4"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4 there and 2"),
        ({"head_dim": 128}, "head_dim is 128 there and 64"),
        ({"patch_size": 14}, "numbers of a patch is 1176 there and 1536"),
        ({"window_size": 112}, "attention in windows is True there and False"),
        ({"vision_config": None}, "has no vision_config"),
    ],
)
def test_a_config_of_another_model_is_refused(
    compiled: Compiled, tmp_path: pathlib.Path, change: dict[str, Any], told: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(compiled() / "config", folder / "config")
    (file,) = compiled().glob("*.bmodel")
    (folder / file.name).symlink_to(file)
    raw = json.loads((folder / "config" / "config.json").read_text())
    of_vision = change.keys() & {"patch_size", "window_size"}
    part = raw if "vision_config" in change else raw["vision_config" if of_vision else "text_config"]
    part.update(change)
    (folder / "config" / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelLoadFailed, match=told):
        loader.load(spec(folder), lambda what, share: None, tpu_libraries=str(standin.libraries()))
    assert [standin.control()[name] for name in LIVE] == [0] * len(LIVE)


def test_without_the_vendors_libraries_the_reason_says_how_to_get_them(compiled: Compiled) -> None:
    with pytest.raises(ModelLoadFailed, match=r"libbmlib\.so is not in /nowhere: install"):
        loader.load(spec(compiled()), lambda what, share: None, tpu_libraries="/nowhere")


@pytest.mark.parametrize(
    ("device", "reason"), [("tpu:4", "no tpu:4"), ("7", "no tpu:7"), ("cpu", "runs on a TPU")]
)
def test_a_device_that_is_not_there_is_told(compiled: Compiled, device: str, reason: str) -> None:
    with pytest.raises(ModelLoadFailed, match=reason):
        loader.load(
            spec(compiled(), device=device), lambda what, share: None, tpu_libraries=str(standin.libraries())
        )


@pytest.mark.parametrize(("device", "number"), [("tpu:1", 1), ("1", 1), ("tpu", 0), ("auto", 0)])
def test_the_device_is_the_one_that_is_named(
    load: Callable[..., TpuEngine], device: str, number: int
) -> None:
    standin.control()["devices"] = 2
    assert load(streams=1, changes={"device": device}).device == f"tpu:{number}"


def test_a_tpu_runs_no_other_models(tiny: Callable[[str], pathlib.Path]) -> None:
    named = ModelSpec("tiny", str(tiny("qwen3")), device="tpu:0")
    with pytest.raises(ModelLoadFailed, match="tpu:0 runs models that were compiled for it"):
        loader.load(named, lambda what, share: None)


def test_a_folder_with_a_bmodel_on_the_command_line_is_for_the_tpu(compiled: Compiled) -> None:
    from app.settings import Settings

    read = functools.partial(catalog.read, pathlib.Path(Settings().catalog))
    assert read(str(compiled())).resolve(None).engine == "bmrt"


def test_a_bare_number_is_the_device_of_compiled_models_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from app.settings import Settings

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    read = catalog.read(pathlib.Path(Settings().catalog), "demo", device="1")
    assert read.resolve("qwen3-vl-instruct").device == "1"
    with contextlib.closing(loader.load(read.resolve(None), lambda what, share: None)) as engine:
        assert engine.device == ("mps" if torch.backends.mps.is_available() else "cpu")
