"""A generation's numbers: what is counted, what is timed, and what the request's log line is told."""

from collections.abc import Iterator
from typing import Any

import pytest

from app import telemetry
from app.engine.types import Finish, Token
from app.errors import ClientLeft, ModelNotFound
from tests.unit.conftest import Clock, House, asked, says


@pytest.fixture
def facts() -> Iterator[dict[str, Any]]:
    """What the log line of the request would say."""
    gathered: dict[str, Any] = {}
    token = telemetry.facts.set(gathered)
    yield gathered
    telemetry.facts.reset(token)


def scripted(house: House, name: str) -> float | None:
    return house.metric(name, model="scripted")


def test_tokens_are_counted_as_they_come(house: House) -> None:
    events = house.completions.start(asked()).events()
    for _ in range(3):  # the role, then two tokens
        next(events)
    assert scripted(house, "generated_tokens_total") == 2
    list(events)
    assert scripted(house, "generated_tokens_total") == 3
    assert scripted(house, "prompt_tokens_total") == 5


def test_the_first_token_and_the_pace_are_timed(house: House, clock: Clock) -> None:
    def wait(seconds: float) -> Any:
        return lambda: clock.advance(seconds)

    house.engine.script = [wait(3), Token(1, "a"), wait(1), Token(2, "b"), wait(2), *says("c")]
    house.completions.start(asked()).collect()
    assert scripted(house, "time_to_first_token_seconds_sum") == 3
    assert scripted(house, "time_per_output_token_seconds_sum") == 1.5
    assert scripted(house, "time_per_output_token_seconds_count") == 1


@pytest.mark.parametrize(("texts", "first"), [((), None), (("a",), 1)])
def test_a_single_token_has_no_pace(house: House, texts: tuple[str, ...], first: float | None) -> None:
    house.engine.script = says(*texts)
    house.completions.start(asked()).collect()
    assert scripted(house, "time_to_first_token_seconds_count") == first
    assert scripted(house, "time_per_output_token_seconds_count") is None


def test_place_and_time_in_the_queue_are_kept(house: House) -> None:
    house.completions.start(asked()).collect()
    assert scripted(house, "queue_position_sum") == 1
    assert scripted(house, "queue_seconds_sum") == 0.5


def test_one_that_never_had_its_turn_has_a_place_and_no_time(house: House, clock: Clock) -> None:
    house.engine.script = [lambda: clock.advance(1)] * 3
    completion = house.completions.start(asked(), lambda: clock.now > 1001)
    house.engine.generations[0].queued = [(1, None)]
    with pytest.raises(ClientLeft):
        completion.collect()
    assert house.metric("generations_total", model="scripted", finish="cancelled") == 1
    assert scripted(house, "queue_position_count") == 1
    assert scripted(house, "queue_seconds_count") is None


def test_a_made_up_model_makes_no_series(house: House) -> None:
    with pytest.raises(ModelNotFound):
        house.completions.start(asked(model="made-up"))
    house.completions.start(asked(model="ALIAS")).collect()
    text = house.metrics.text().decode()
    assert "made-up" not in text
    assert "ALIAS" not in text
    assert house.metric("generations_total", model="scripted", finish="stop") == 1


def test_the_log_line_is_told(house: House, facts: dict[str, Any]) -> None:
    house.completions.start(asked()).collect()
    assert facts == {
        "model": "scripted",
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "finish_reasons": ["stop"],
    }


def test_each_choice_counts_and_has_its_own_pace(house: House, clock: Clock, facts: dict[str, Any]) -> None:
    def wait(seconds: float) -> Any:
        return lambda: clock.advance(seconds)

    house.engine.script = [
        Token(1, "a"), wait(1), Token(1, "a", choice=1), wait(1), Token(2, "b"), wait(2),
        Token(2, "b", choice=1), Finish("length", choice=1), Token(3, "c"), Finish("stop"),
    ]  # fmt: skip
    house.completions.start(asked(n=2, temperature=1.0)).collect()
    assert scripted(house, "generated_tokens_total") == 5
    assert scripted(house, "prompt_tokens_total") == 5
    assert scripted(house, "prefix_cache_hit_tokens_total") == 2  # of the prompt, however many its choices
    assert scripted(house, "time_to_first_token_seconds_count") == 1
    assert scripted(house, "time_per_output_token_seconds_count") == 2
    assert scripted(house, "time_per_output_token_seconds_sum") == 4 / 2 + 3
    for finish in ("stop", "length"):
        assert house.metric("generations_total", model="scripted", finish=finish) == 1
    assert facts["completion_tokens"] == 5
    assert facts["finish_reasons"] == ["length", "stop"]
