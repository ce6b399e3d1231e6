"""Turns of a conversation with a scripted engine: its history, one at a time, nothing kept of failures."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from app.engine.media_types import ImagePart
from app.engine.types import (
    ChatRequest,
    Finish,
    GenerationRequest,
    Message,
    PromptInfo,
    TextPart,
    Token,
)
from app.errors import (
    ClientLeft,
    ContextLengthExceeded,
    GenerationFailed,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
    Unavailable,
)
from app.services.conversations import Picture, Round, Session
from app.services.turn import SessionQueues
from app.settings import Settings
from tests.conftest import data_url, wait_until
from tests.unit.conftest import House, ScriptedEngine, ScriptedGeneration, says

TALK = Session("me", "talk")
SMALL = Image.new("RGB", (8, 8), "red")


def message(text: str, *pictures: str, **options: Any) -> ChatRequest:
    parts = [ImagePart(source, f"images[{index}]") for index, source in enumerate(pictures)]
    return ChatRequest(messages=(Message("user", (*parts, TextPart(text))),), temperature=0.7, **options)


def texts(request: GenerationRequest) -> list[str]:
    """The prompt as role: text, a picture as its size."""

    def shown(part: Any) -> str:
        return part.text if isinstance(part, TextPart) else f"[{part.image.width}x{part.image.height}]"

    return [f"{one.role}: {''.join(map(shown, one.parts))}" for one in request.messages]


def ask(house: House, text: str, *pictures: str, session: Session = TALK, **options: Any) -> dict[str, Any]:
    return house.turns.start(session, message(text, *pictures, **options)).collect()


def free(house: House) -> bool:
    stopped = all(generation.cancelled for generation in house.engine.generations)
    return house.admission.count() == 0 and not house.leased() and stopped and not house.turns._queues._queues


class CountingEngine(ScriptedEngine):
    """An engine whose tokens are the characters of the prompt, with a context as long as it says."""

    context_length = 1000

    def submit(self, *requests: GenerationRequest) -> ScriptedGeneration:
        [request] = requests
        tokens = sum(len(text) for text in texts(request))
        wanted = request.max_tokens or 1
        if tokens + wanted > self.context_length:
            self.refused = getattr(self, "refused", 0) + 1
            excess = tokens + wanted - self.context_length
            raise ContextLengthExceeded("too long", param="messages", excess=excess)
        self.info = PromptInfo((0,) * tokens)
        return super().submit(*requests)


@pytest.fixture
def engine() -> ScriptedEngine:
    """With room for any history."""
    made = ScriptedEngine(says("Hel", "lo", " you"))
    made.context_length = 10_000
    return made


@pytest.fixture
def counting(settings: Settings) -> House:
    return House(settings, CountingEngine(says("Hel", "lo", " you")))


def test_a_turn_answers_and_is_kept(house: House) -> None:
    assert ask(house, "hi") == {
        "message": "hi",
        "response": "Hello you",
        "status": "success",
        "session_id": "talk",
        "finish_reason": "stop",
    }
    [kept] = house.conversations.rounds(TALK)
    assert (kept.message, kept.response, kept.tokens) == ("hi", "Hello you", 8)
    assert free(house)


def test_the_next_turn_has_the_history_before_it(house: House) -> None:
    for text in ("one", "two", "three"):
        ask(house, text)
    ask(house, "other", session=Session("me", "another"))
    assert texts(house.engine.requests[2]) == [
        *("user: one", "assistant: Hello you"),
        *("user: two", "assistant: Hello you"),
        "user: three",
    ]
    assert texts(house.engine.requests[3]) == ["user: other"]


def test_a_round_counts_what_it_adds_to_the_prompt(counting: House) -> None:
    for text in ("one", "three"):
        ask(counting, text)
    added = [len("user: one") + 3, len("assistant: Hello you") + len("user: three")]
    first, second = counting.conversations.rounds(TALK)
    assert first.tokens == added[0]
    assert second.tokens == len("assistant: Hello you") + len("user: three") - 3 + 3


def test_a_streamed_turn_sends_pieces_then_the_whole(house: House) -> None:
    turn = house.turns.start(TALK, message("hi", stream=True))
    events = [event for event in turn.events() if event]
    assert events == [
        {"session_id": "talk", "delta": ""},
        *({"delta": piece} for piece in ("Hel", "lo", " you")),
        {
            "message": "hi",
            "response": "Hello you",
            "status": "success",
            "session_id": "talk",
            "finish_reason": "stop",
        },
    ]
    assert [one.response for one in house.conversations.rounds(TALK)] == ["Hello you"]
    assert house.conversations.rounds(TALK)[0].tokens == 8
    assert free(house)


def test_a_streamed_turn_is_kept_before_its_last_event(house: House) -> None:
    turn = house.turns.start(TALK, message("hi"))
    for event in turn.events():
        if event and "status" in event:
            assert len(house.conversations.rounds(TALK)) == 1
            return
    pytest.fail("there was no last event")


def test_defaults_of_the_simple_api_are_asked_for(house: House) -> None:
    ask(house, "hi")
    ask(house, "hi", max_tokens=3)
    first, second = house.engine.requests
    assert (first.max_tokens, first.sampling.temperature) == (512, 0.7)
    assert second.max_tokens == 3


def test_pictures_are_seen_in_later_turns(house: House) -> None:
    ask(house, "what is this?", data_url(SMALL), data_url(Image.new("RGB", (9, 7))))
    ask(house, "and its colour?")
    assert texts(house.engine.requests[1])[0] == "user: [8x8][9x7]what is this?"
    assert house.engine.requests[1].messages[0].parts[0].image.getpixel((0, 0)) == (255, 0, 0)  # type: ignore[union-attr]  # a picture
    kept = house.conversations.rounds(TALK)
    assert [[picture.pixels for picture in one.pictures] for one in kept] == [[64, 63], []]


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"max_images": 3}, ["", "[8x8]", "[8x8]", "[8x8]"]),
        ({"max_images": 1}, ["", "", "", "[8x8]"]),
        ({"max_total_mp": 0.01}, ["[8x8]"] * 4),
    ],
)
def test_remembered_pictures_never_crowd_out_new_ones(
    settings: Settings, engine: ScriptedEngine, changes: dict[str, Any], seen: list[str]
) -> None:
    house = House(replace(settings, **changes), engine)
    for _ in range(4):
        ask(house, "?", data_url(SMALL))
    users = [text for text in texts(house.engine.requests[-1]) if text.startswith("user")]
    assert users == [f"user: {picture}?" for picture in seen]


def test_remembered_pictures_leave_new_ones_their_megapixels(
    settings: Settings, engine: ScriptedEngine
) -> None:
    house = House(replace(settings, max_total_mp=0.0201, max_image_mp=0.0101), engine)
    large = data_url(Image.new("RGB", (100, 100)))
    for _ in range(4):
        ask(house, "?", large)
    users = [text for text in texts(house.engine.requests[-1]) if text.startswith("user")]
    assert users == ["user: ?", "user: ?", "user: [100x100]?", "user: [100x100]?"]


def test_what_is_wrong_with_a_new_picture_is_told_at_its_place(house: House) -> None:
    ask(house, "?", data_url(SMALL))
    with pytest.raises(InvalidRequest) as caught:
        ask(house, "?", data_url(SMALL), "data:image/png;base64,AAAA")
    assert caught.value.param == "images[1]"
    with pytest.raises(InvalidRequest) as caught:
        ask(house, "?", "http://example.com/a.png")
    assert caught.value.param == "images[0]"
    assert len(house.conversations.rounds(TALK)) == 1
    assert free(house)


def test_pictures_that_the_model_cannot_take_any_more_do_not_block_the_session(house: House) -> None:
    ask(house, "?", data_url(SMALL))
    house.engine.modalities = ("text",)
    ask(house, "and now?")
    assert texts(house.engine.requests[-1])[0] == "user: ?"
    with pytest.raises(InvalidRequest, match="no pictures") as caught:
        ask(house, "?", data_url(SMALL))
    assert caught.value.param == "images[0]"


def test_broken_remembered_pictures_do_not_block_the_session(house: House) -> None:
    house.conversations.add(TALK, Round("?", "!", 1, (Picture(b"no picture", 1),)))
    ask(house, "and now?")
    assert texts(house.engine.requests[-1]) == ["user: ?", "assistant: !", "user: and now?"]


def test_a_history_that_outgrows_the_context_loses_its_oldest_rounds(counting: House) -> None:
    for number in range(20):
        ask(counting, f"{number:02} " + "x" * 97, max_tokens=100)
    prompts = [texts(request) for request in counting.engine.requests]
    assert all(prompt[-1].startswith(f"user: {number:02}") for number, prompt in enumerate(prompts))
    last = prompts[-1]
    assert len("".join(last)) <= 900
    assert len("".join(last)) > 900 - 2 * 130  # and no more than needed
    kept = [text for text in last if text.startswith("user")]
    assert kept == [f"user: {number:02} " + "x" * 97 for number in range(20 - len(kept), 20)]
    assert len(counting.conversations.rounds(TALK)) == 20  # only the prompt was too long
    assert getattr(counting.engine, "refused", 0) <= 20


def test_a_long_message_takes_the_room_of_the_history(counting: House) -> None:
    for number in range(5):
        ask(counting, f"{number} " + "x" * 98, max_tokens=100)
    refused = getattr(counting.engine, "refused", 0)
    ask(counting, "y" * 700, max_tokens=100)
    prompt = texts(counting.engine.requests[-1])
    assert prompt[-1] == "user: " + "y" * 700
    assert len(prompt) == 3
    assert counting.engine.refused <= refused + 2  # type: ignore[attr-defined]  # it knows how much is too much


def test_a_message_that_does_not_fit_by_itself_is_refused_and_the_history_stays(counting: House) -> None:
    ask(counting, "hi", max_tokens=100)
    with pytest.raises(ContextLengthExceeded):
        ask(counting, "y" * 1000, max_tokens=100)
    with pytest.raises(ContextLengthExceeded):
        ask(counting, "hi", max_tokens=1000)
    assert len(counting.conversations.rounds(TALK)) == 1
    assert free(counting)


def test_without_a_limit_the_answer_takes_what_is_left(counting: House) -> None:
    ask(counting, "y" * 700)
    assert counting.engine.requests[-1].max_tokens is None
    ask(counting, "y" * 400)
    assert counting.engine.requests[-1].max_tokens == 500  # half of the context


FAILURES: list[tuple[list[Any], type[Exception]]] = [
    ([Token(0, "Hel"), GenerationFailed("boom")], GenerationFailed),
    ([Token(0, "Hel"), ZeroDivisionError("boom")], ZeroDivisionError),
    ([ClientLeft()], ClientLeft),
]


@pytest.mark.parametrize(("script", "kind"), FAILURES)
def test_a_turn_that_failed_leaves_the_history_as_it_was(
    house: House, script: list[Any], kind: type[Exception]
) -> None:
    ask(house, "one")
    house.engine.script = script
    with pytest.raises(kind):
        ask(house, "two")
    assert [one.message for one in house.conversations.rounds(TALK)] == ["one"]
    assert free(house)
    house.engine.script = says("fine")
    ask(house, "three")
    assert [one.message for one in house.conversations.rounds(TALK)] == ["one", "three"]


def test_a_stream_that_failed_ends_with_a_plain_error_and_is_not_kept(house: House) -> None:
    house.engine.script = [Token(0, "Hel"), GenerationFailed('a "quoted" reason')]
    events = [event for event in house.turns.start(TALK, message("two")).events() if event]
    assert events[-1] == {"error": 'a "quoted" reason'}
    assert house.conversations.rounds(TALK) == []
    assert free(house)


@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_stream_that_is_closed_early_is_not_kept(house: House, read: int) -> None:
    turn = house.turns.start(TALK, message("two"))
    events = turn.events()
    for _ in range(read):
        next(events)
    turn.close()
    turn.close()
    assert house.conversations.rounds(TALK) == []
    assert free(house)
    ask(house, "three")


def test_a_client_that_leaves_in_the_last_moment_leaves_no_round(house: House) -> None:
    gone = threading.Event()
    house.engine.script = [Token(0, "Hel"), gone.set, Finish("stop")]
    with pytest.raises(ClientLeft):
        house.turns.start(TALK, message("two"), gone.is_set).collect()
    gone.clear()
    with pytest.raises(ClientLeft):
        list(house.turns.start(TALK, message("two"), gone.is_set).events())
    assert house.conversations.rounds(TALK) == []
    assert free(house)


def test_an_answer_that_cannot_be_kept_is_an_error(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Unavailable("full")

    monkeypatch.setattr(house.conversations, "add", fail)
    with pytest.raises(Unavailable):
        ask(house, "one")
    events = [event for event in house.turns.start(TALK, message("two")).events() if event]
    assert events[-1] == {"error": "full"}
    assert free(house)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Work in a thread of its own, and where its result or its exception will be."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            done.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, done


def queued(house: House, session: Session = TALK) -> int:
    return len(house.turns._queues._queues.get(session, ()))


def test_turns_of_a_session_come_one_after_the_other_in_order(house: House) -> None:
    gate = threading.Event()
    house.engine.script = [Token(0, "a"), gate, Finish("stop")]
    threads = []
    for number in range(5):
        threads.append(in_thread(lambda number=number: ask(house, f"message {number}")))  # type: ignore[misc]  # mypy
        wait_until(lambda number=number: queued(house) == number + 1)  # type: ignore[misc]
    wait_until(lambda: len(house.engine.generations) == 1)
    ask_another = Session("me", "another")
    other, _ = in_thread(lambda: ask(house, "?", session=ask_another))
    wait_until(lambda: len(house.engine.generations) == 2)  # another session does not wait
    gate.set()
    for thread, done in threads:
        thread.join(20)
        assert done[0]["status"] == "success"
    other.join(20)
    kept = [one.message for one in house.conversations.rounds(TALK)]
    assert kept == [f"message {number}" for number in range(5)]
    assert [len(request.messages) for request in house.engine.requests if "?" not in texts(request)[-1]] == [
        *(1, 3, 5, 7, 9)
    ]
    assert free(house)


def test_whoever_waits_can_leave(house: House) -> None:
    gate, gone = threading.Event(), threading.Event()
    house.engine.script = [gate, Token(0, "a"), Finish("stop")]
    first, _ = in_thread(lambda: ask(house, "first"))
    wait_until(lambda: queued(house) == 1)
    second, left = in_thread(lambda: house.turns.start(TALK, message("second"), gone.is_set))
    wait_until(lambda: queued(house) == 2)
    third, done = in_thread(lambda: ask(house, "third"))
    wait_until(lambda: queued(house) == 3)
    gone.set()
    second.join(20)
    assert isinstance(left[0], ClientLeft)
    assert len(house.engine.generations) == 1
    gate.set()
    for thread in (first, third):
        thread.join(20)
    assert done[0]["message"] == "third"
    assert [one.message for one in house.conversations.rounds(TALK)] == ["first", "third"]
    assert free(house)


def test_whoever_waits_too_long_gives_up(settings: Settings, engine: ScriptedEngine) -> None:
    house = House(replace(settings, request_timeout=1.0), engine)
    with house.turns._queues.turn(TALK, lambda: None):
        start = time.monotonic()
        with pytest.raises(RequestTimeout):
            ask(house, "late")
        assert 0.9 < time.monotonic() - start < 10
        with pytest.raises(RequestTimeout):
            house.turns.forget(TALK)
    assert free(house)


def test_those_who_wait_count_among_all_that_may(settings: Settings, engine: ScriptedEngine) -> None:
    house = House(replace(settings, max_concurrent=1, max_queue=1), engine)
    gate = threading.Event()
    engine.script = [gate, Finish("stop")]
    threads = [in_thread(lambda: ask(house, "waits"))[0] for _ in range(2)]
    wait_until(lambda: queued(house) == 2)
    assert house.admission.count() == 2  # a turn has one place, not one for each of its attempts
    with pytest.raises(Overloaded):
        ask(house, "one too many")
    gate.set()
    for thread in threads:
        thread.join(20)
    assert free(house)


def test_an_answer_of_which_a_thought_took_all_the_room_is_told_and_not_kept(house: House) -> None:
    house.engine.script = [Finish("length")]
    found = ask(house, "first")
    assert (found["response"], found["finish_reason"]) == ("", "length")
    assert house.conversations.rounds(TALK) == []


def test_forgetting_waits_for_the_turns_before_it(house: House) -> None:
    gate = threading.Event()
    house.engine.script = [gate, Finish("stop")]
    first, _ = in_thread(lambda: ask(house, "first"))
    wait_until(lambda: queued(house) == 1)
    forgetting, done = in_thread(lambda: house.turns.forget(TALK))
    wait_until(lambda: queued(house) == 2)
    last, _ = in_thread(lambda: ask(house, "last"))
    wait_until(lambda: queued(house) == 3)
    gate.set()
    for thread in (first, forgetting, last):
        thread.join(20)
    assert done == [True]
    assert [one.message for one in house.conversations.rounds(TALK)] == ["last"]
    assert house.turns.forget(Session("me", "nobody")) is False
    assert free(house)


def test_queues_of_a_thousand_turns_hand_over_in_order() -> None:
    queues, order = SessionQueues(), []
    held = queues.turn(TALK, lambda: None)
    held.__enter__()

    def turn(number: int) -> None:
        with queues.turn(TALK, lambda: None):
            order.append(number)

    threads = []
    for number in range(100):
        threads.append(threading.Thread(target=turn, args=(number,)))
        threads[-1].start()
        wait_until(lambda number=number: len(queues._queues[TALK]) == number + 2)  # type: ignore[misc]
    held.__exit__(None, None, None)
    for thread in threads:
        thread.join(20)
    assert order == list(range(100))
    assert queues._queues == {}
