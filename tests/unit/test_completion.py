"""A completion's life with a scripted engine: whole and streamed, ending well, badly, late or not at all."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from app.engine.media_types import ImagePart
from app.engine.types import Defaults, Finish, Message, ModelSpec, TextRequest, Token
from app.errors import (
    ApiError,
    ClientLeft,
    GenerationFailed,
    InvalidRequest,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    RequestTimeout,
)
from app.services.completion import Completion
from app.settings import Settings
from tests.conftest import data_url, wait_until
from tests.unit.conftest import Clock, House, ScriptedEngine, Step, asked, says


def free(house: House) -> bool:
    """Whether nothing is held any more: no place, no lease, and every generation told to stop."""
    stopped = all(generation.cancelled for generation in house.engine.generations)
    return house.admission.count() == 0 and not house.leased() and stopped


def text_of(events: list[dict[str, Any] | None]) -> str:
    choices = [choice for event in events if event for choice in event.get("choices", [])]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def reasons(events: list[dict[str, Any] | None]) -> list[str]:
    choices = [choice for event in events if event for choice in event.get("choices", [])]
    return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


def test_a_whole_answer(house: House) -> None:
    body = house.completions.start(asked()).collect()
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello you", "stop")
    assert body["model"] == "scripted"
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 3
    assert body["usage"]["prompt_tokens_details"]["image_tokens"] == 3
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
    assert free(house)


def test_a_streamed_answer(house: House) -> None:
    events = list(house.completions.start(asked()).events())
    first = events[0] or {}
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(events) == "Hello you"
    assert reasons(events) == ["stop"]
    assert len({(event["id"], event["created"], event["model"]) for event in events if event}) == 1
    assert free(house)


def test_two_answers_have_different_ids(house: House) -> None:
    ids = {house.completions.start(asked()).collect()["id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(name.startswith("chatcmpl-") for name in ids)


def test_usage_comes_last_and_only_if_asked_for(house: House) -> None:
    events = list(house.completions.start(asked(include_usage=True)).events())
    last = events[-1] or {}
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 8
    silent = list(house.completions.start(asked()).events())
    assert not [event for event in silent if event and "usage" in event]


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_finish_reason_is_the_engines(house: House, reason: str) -> None:
    house.engine.script = says("a", reason=reason, rest="b")
    choice = house.completions.start(asked()).collect()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", reason)
    events = list(house.completions.start(asked()).events())
    assert (text_of(events), reasons(events)) == ("ab", [reason])


@pytest.mark.parametrize(
    ("script", "stop", "text", "reason", "tokens"),
    [
        (says("a", "ST", "OP", "b"), ("STOP",), "a", "stop", 3),
        (says("a", "ST", reason="length"), ("STOP",), "aST", "length", 2),
        (says("a", "ST", reason="length", rest="OP"), ("STOP",), "a", "stop", 2),
        (says("a", "S", reason="length", rest="T"), ("STOP",), "aST", "length", 2),
        (says("STOP", "b"), ("STOP",), "", "stop", 1),
    ],
)
def test_stop_strings_end_the_answer_and_stay_out_of_it(
    house: House, script: list[Step], stop: tuple[str, ...], text: str, reason: str, tokens: int
) -> None:
    house.engine.script = script
    body = house.completions.start(asked(stop=stop)).collect()
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)
    assert body["usage"]["completion_tokens"] == tokens
    events = list(house.completions.start(asked(stop=stop)).events())
    assert (text_of(events), reasons(events)) == (text, [reason])
    assert free(house)


def test_tokens_without_text_are_counted_and_not_sent(house: House) -> None:
    house.engine.script = says("", "a", "", "")
    assert house.completions.start(asked()).collect()["usage"]["completion_tokens"] == 4
    events = list(house.completions.start(asked()).events())
    assert [event and event["choices"][0]["delta"].get("content") for event in events] == [
        "",
        None,
        "a",
        None,
        None,
        None,
        None,
    ]


ERRORS = [GenerationFailed("it broke."), OutOfMemory("no memory.", retry_after=5)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", [0, 3])
def test_an_error_of_the_generation_is_raised_or_becomes_the_last_events(
    house: House, error: ApiError, at: int
) -> None:
    house.engine.script = [*says("a", "b", "c")[:at], error]
    with pytest.raises(type(error)) as caught:
        house.completions.start(asked()).collect()
    assert caught.value is error
    assert free(house)
    events = list(house.completions.start(asked(include_usage=True)).events())
    assert events[-2] == {"error": error.body()}
    assert reasons(events) == ["error"]
    assert text_of(events) == "abc"[:at]
    assert free(house)


@pytest.mark.parametrize("at", [0, 3])
def test_an_error_that_nobody_foresaw_ends_a_stream_with_an_event_too(house: House, at: int) -> None:
    house.engine.script = [*says("a", "b", "c")[:at], ZeroDivisionError("secret")]
    events = list(house.completions.start(asked()).events())
    problem = events[-2] or {}
    assert problem["error"]["type"] == "server_error"
    assert "secret" not in str(events)
    assert reasons(events) == ["error"]
    assert free(house)


def test_an_error_that_nobody_foresaw_releases_everything(house: House) -> None:
    house.engine.script = [ZeroDivisionError("secret")]
    with pytest.raises((ZeroDivisionError, GenerationFailed)):
        house.completions.start(asked()).collect()
    assert free(house)


@pytest.fixture
def impatient(engine: ScriptedEngine) -> House:
    return House(Settings(request_timeout=30), engine)


def test_a_request_that_takes_too_long_is_ended(impatient: House, clock: Clock) -> None:
    impatient.engine.script = [
        Token(1, "a"),
        lambda: clock.advance(29),
        Token(2, "b"),
        lambda: clock.advance(2),
    ]
    impatient.engine.script += says("c")
    with pytest.raises(RequestTimeout, match="30 seconds"):
        impatient.completions.start(asked()).collect()
    assert free(impatient)
    events = list(impatient.completions.start(asked()).events())
    problem = events[-2] or {}
    assert problem["error"]["code"] == "request_timeout"
    assert (text_of(events), reasons(events)) == ("ab", ["error"])
    assert free(impatient)


def test_a_request_within_its_time_is_not_ended(impatient: House, clock: Clock) -> None:
    impatient.engine.script = [lambda: clock.advance(29.5), *says("a")]
    assert impatient.completions.start(asked()).collect()["choices"][0]["message"]["content"] == "a"


def test_a_model_that_loads_too_long_times_out(impatient: House, clock: Clock) -> None:
    gate = threading.Event()

    def load(spec: ModelSpec, progress: Any) -> Any:
        clock.advance(31)
        gate.wait(20)
        return impatient.engine

    impatient.load = load
    with pytest.raises(RequestTimeout):
        impatient.completions.start(asked())
    gate.set()
    wait_until(lambda: impatient.registry.engines())
    assert free(impatient)


def leaving(after: int) -> Callable[[], bool]:
    """A client that has left when it is looked at for the so-manieth time."""
    looks: list[None] = []

    def left() -> bool:
        looks.append(None)
        return len(looks) > after

    return left


def test_a_client_that_leaves_ends_its_generation(house: House, clock: Clock) -> None:
    house.engine.script = [step for _ in range(9) for step in (Token(1, "a"), lambda: clock.advance(1))]
    with pytest.raises(ClientLeft):
        house.completions.start(asked(), leaving(4)).collect()
    assert free(house)
    events: list[Any] = []
    with pytest.raises(ClientLeft):
        events.extend(house.completions.start(asked(), leaving(4)).events())
    assert free(house)


def test_a_client_that_left_before_it_began_gets_nothing_started(house: House) -> None:
    with pytest.raises(ClientLeft):
        house.completions.start(asked(), lambda: True)
    assert house.engine.generations == []
    wait_until(lambda: house.registry.engines())
    assert free(house)


def test_a_stream_that_was_never_read_is_freed_by_close(house: House) -> None:
    completion = house.completions.start(asked())
    events = completion.events()
    assert house.leased()
    assert house.admission.count() == 1
    completion.close()
    del events
    assert not house.engine.generations[0].started
    assert free(house)


def test_a_stream_that_is_left_in_the_middle_is_freed(house: House) -> None:
    events = house.completions.start(asked()).events()
    next(events)
    next(events)
    assert house.admission.count() == 1
    events.close()  # type: ignore[attr-defined]  # it is a generator
    assert free(house)


def test_everything_is_given_back_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(house.admission, "leave", left.append)
    other = house.registry.get(None)
    completion: Completion = house.completions.start(asked())
    completion.collect()
    for _ in range(3):
        completion.close()
    assert left == [1]
    assert house.registry.unload_idle(0.0) == []  # the other lease is still there
    other.release()
    assert house.registry.unload_idle(0.0) == ["scripted"]


def test_how_a_generation_ended_is_counted_once(house: House) -> None:
    completion = house.completions.start(asked())
    completion.collect()
    completion.close()
    house.completions.start(asked()).close()
    house.engine.script = [GenerationFailed("it broke.")]
    list(house.completions.start(asked()).events())
    for finish in ("stop", "cancelled", "error"):
        assert house.metric("generations_total", model="scripted", finish=finish) == 1


def test_beyond_streams_and_queue_a_request_is_refused(engine: ScriptedEngine) -> None:
    house = House(Settings(max_concurrent=1, max_queue=1), engine)
    inside = [house.completions.start(asked()) for _ in range(2)]
    with pytest.raises(Overloaded):
        house.completions.start(asked())
    assert len(engine.generations) == 2
    with pytest.raises(Overloaded):
        house.completions.tokenize(asked())  # which waits for media as an answer does
    with pytest.raises(Overloaded):
        house.completions.detokenize(None, [1])
    inside[0].close()
    house.completions.start(asked()).collect()
    house.completions.tokenize(asked())
    inside[1].close()
    assert free(house)


def test_an_unknown_model_holds_nothing(house: House) -> None:
    with pytest.raises(ModelNotFound):
        house.completions.start(asked(model="nobody"))
    assert free(house)


@pytest.mark.parametrize("error", [InvalidRequest("no"), RuntimeError("can't start new thread")])
def test_a_refused_submit_holds_nothing(house: House, error: Exception) -> None:
    house.engine.refuses = error
    with pytest.raises(type(error)):
        house.completions.start(asked())
    assert free(house)


def test_a_broken_picture_is_refused_before_anything_starts(house: House) -> None:
    request = asked()
    broken = Message("user", (ImagePart("data:image/png;base64,AAAA", "place"),))
    with pytest.raises(InvalidRequest) as caught:
        house.completions.start(type(request)(messages=(broken,)))
    assert caught.value.param == "place"
    assert house.engine.generations == []
    assert free(house)


def test_limits_and_defaults_reach_the_engine(engine: ScriptedEngine) -> None:
    house = House(Settings(max_images=1, max_image_mp=0.01), engine)
    engine.defaults = Defaults(temperature=0.25, top_k=3)
    house.completions.start(asked(seed=5, max_tokens=6)).collect()
    (request,) = engine.requests
    assert (request.sampling.temperature, request.sampling.top_k) == (0.25, 3)
    assert (request.sampling.seed, request.max_tokens) == (5, 6)
    small, large = (ImagePart(data_url(Image.new("L", (size, 100))), "place") for size in (100, 101))
    house.completions.start(type(asked())(messages=(Message("user", (small,)),))).collect()
    for parts, code in (((small, small), "too_many_images"), ((large,), "image_too_large")):
        with pytest.raises(InvalidRequest) as caught:
            house.completions.start(type(asked())(messages=(Message("user", parts),)))
        assert caught.value.code == code


def test_an_engine_that_ends_without_a_word_ends_the_answer(house: House) -> None:
    house.engine.script = [Token(1, "a")]
    events = list(house.completions.start(asked()).events())
    assert (text_of(events), reasons(events)) == ("a", ["stop"])


def test_held_back_text_comes_with_the_end(house: House) -> None:
    house.engine.script = [Token(1, "x"), Finish("length", "yz")]
    events = list(house.completions.start(asked(stop=("zebra",))).events())
    assert (text_of(events), reasons(events)) == ("xyz", ["length"])


INTERLEAVED: list[Step] = [
    Token(1, "a", choice=1),
    Token(2, "x", choice=0),
    Token(3, "b", choice=1),
    Finish("length", choice=0),
    Token(4, "STOP", choice=1),
    Token(5, "more", choice=1),
    Finish("stop", choice=1),
]


def test_choices_are_put_together_each_with_its_own_end(house: House) -> None:
    house.engine.script = INTERLEAVED
    body = house.completions.start(asked(n=2, temperature=1.0, stop=("STOP",))).collect()
    found = [(one["index"], one["message"]["content"], one["finish_reason"]) for one in body["choices"]]
    assert found == [(0, "x", "length"), (1, "ab", "stop")]
    assert body["usage"]["completion_tokens"] == 4
    assert house.engine.generations[0].cancelled_choices == [0, 1]
    assert free(house)


def test_streamed_choices_tell_which_they_are(house: House) -> None:
    house.engine.script = INTERLEAVED
    events = list(house.completions.start(asked(n=2, temperature=1.0, stop=("STOP",))).events())
    choices = [choice for event in events if event for choice in event["choices"]]
    assert [choice["index"] for choice in choices if "role" in choice["delta"]] == [0, 1]
    ends = {one["index"]: one["finish_reason"] for one in choices if one["finish_reason"]}
    assert ends == {0: "length", 1: "stop"}
    texts = ["".join(one["delta"].get("content", "") for one in choices if one["index"] == n) for n in (0, 1)]
    assert texts == ["x", "ab"]


def test_an_error_ends_every_choice_that_still_runs(house: House) -> None:
    house.engine.script = [Finish("stop", choice=0), GenerationFailed("broken")]
    events = list(house.completions.start(asked(n=2, temperature=1.0)).events())
    choices = [choice for event in events if event for choice in event.get("choices", [])]
    assert {one["index"]: one["finish_reason"] for one in choices if one["finish_reason"]} == {
        0: "stop",
        1: "error",
    }
    assert free(house)


def test_each_choice_takes_a_place(house: House) -> None:
    limit = house.settings.streams() + house.settings.max_queue
    first = house.completions.start(asked(n=100, temperature=1.0))
    assert house.admission.count() == 100
    with pytest.raises(Overloaded):
        house.completions.start(asked(n=limit - 99, temperature=1.0))
    first.close()
    assert house.admission.count() == 0
    many = TextRequest(prompts=("a",) * 3, n=limit // 2, temperature=1.0)
    with pytest.raises(InvalidRequest) as caught:
        house.completions.start(many)
    assert caught.value.param == "n"


def test_a_thought_is_told_apart_where_the_prompt_has_opened_it(house: House) -> None:
    house.engine.info = replace(house.engine.info, thinking=True)
    house.engine.script = says("hmm", "</think>", "four")
    body = house.completions.start(asked()).collect()
    message = body["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hmm", "four")
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2


def test_text_completions_leave_thoughts_in_the_text(house: House) -> None:
    house.engine.script = says("<think>", "hmm")
    body = house.completions.start(TextRequest(prompts=("a",))).collect()
    assert body["choices"][0]["text"] == "<think>hmm"
