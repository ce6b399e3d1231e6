"""From a chat request to a generation request: defaults filled in, pictures decoded."""

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from app.engine.media_types import ImagePart
from app.engine.types import (
    Defaults,
    GenerationRequest,
    Message,
    Sampling,
    Template,
    TextPart,
    TextRequest,
)
from app.errors import InvalidRequest
from app.services import prompt
from tests.conftest import data_url
from tests.unit.conftest import ScriptedEngine, asked

PICTURE = ImagePart(data_url(Image.new("RGB", (3, 2), "red")), "messages[0].content[1].image_url.url")


def resolve(request: Any = None, defaults: Defaults | None = None) -> GenerationRequest:
    engine = ScriptedEngine()
    engine.defaults = defaults or Defaults()
    return prompt.resolve(request or asked(), (), engine)


FULL = Defaults(temperature=0.3, top_p=0.8, top_k=20, repetition_penalty=1.05, max_tokens=99)


@pytest.mark.parametrize(
    ("given", "defaults", "expected"),
    [
        ({}, Defaults(), Sampling(prompt.TEMPERATURE, 1.0, 0, repetition_penalty=1.0, seed=None)),
        ({}, FULL, Sampling(0.3, 0.8, 20, repetition_penalty=1.05, seed=None)),
        (
            {"temperature": 1.5, "top_p": 0.5, "seed": 3},
            FULL,
            Sampling(1.5, 0.5, 20, repetition_penalty=1.05, seed=3),
        ),
        ({"temperature": 0.0, "seed": 0}, FULL, Sampling(0.0, 0.8, 20, repetition_penalty=1.05, seed=0)),
        (
            {},
            replace(FULL, temperature=0.0, top_k=0),
            Sampling(0.0, 0.8, 0, repetition_penalty=1.05, seed=None),
        ),
        ({"top_p": 1.0}, FULL, Sampling(0.3, 1.0, 20, repetition_penalty=1.05, seed=None)),
        ({"usual_temperature": 0.7}, Defaults(temperature=0.3), Sampling(0.7)),
        ({"usual_temperature": 0.7, "temperature": 0.2}, Defaults(), Sampling(0.2)),
        ({"usual_temperature": 0.7}, Defaults(greedy_only=True), Sampling(0.0)),
        ({}, Defaults(temperature=0.6, greedy_only=True), Sampling(0.0)),
        ({"temperature": 0.7}, Defaults(greedy_only=True), Sampling(0.7)),  # for the engine to refuse
    ],
)
def test_the_request_comes_first_then_the_model_then_the_server(
    given: dict[str, Any], defaults: Defaults, expected: Sampling
) -> None:
    assert resolve(asked(**given), defaults).sampling == expected


def test_the_token_limit_is_passed_on_with_its_name() -> None:
    made = resolve(asked(max_tokens=7, max_tokens_param="max_completion_tokens"), FULL)
    assert (made.max_tokens, made.max_tokens_param) == (7, "max_completion_tokens")
    assert resolve(asked(), FULL).max_tokens is None


def test_media_take_their_places_among_the_texts() -> None:
    request = replace(
        asked(), messages=(Message("user", (TextPart("a"), PICTURE, TextPart("b"), PICTURE)),) * 2
    )
    prepared = [replace(PICTURE, param=f"place {number}", is_fitted=True) for number in range(4)]
    made = prompt.resolve(request, prepared, ScriptedEngine())
    for message, first in zip(made.messages, (0, 2), strict=True):
        assert message.parts == (TextPart("a"), prepared[first], TextPart("b"), prepared[first + 1])


@pytest.mark.parametrize(
    ("wish", "default", "thinks"), [(None, True, True), (False, True, False), (None, None, None)]
)
def test_whether_to_think_is_the_requests_choice_then_the_models(
    wish: bool | None, default: bool | None, thinks: bool | None
) -> None:
    made = resolve(asked(template=Template(wish)), Defaults(thinking=default))
    assert made.template.thinking is thinks


@pytest.mark.parametrize(("options", "param"), [({"n": 2}, "n"), ({"best_of": 2}, "best_of")])
def test_choices_that_would_all_be_the_same_are_refused(options: dict[str, Any], param: str) -> None:
    request = TextRequest(prompts=("a",), temperature=0.0, **options)
    with pytest.raises(InvalidRequest) as caught:
        prompt.plain(request, ScriptedEngine())
    assert caught.value.param == param


def test_the_likeliest_are_found_by_log_probabilities_nobody_is_told() -> None:
    (made,) = prompt.plain(TextRequest(prompts=("a",), best_of=3), ScriptedEngine())
    assert (made.n, made.sampling.top_logprobs) == (3, 0)


def test_each_prompt_is_a_generation_of_its_own_and_knows_its_place() -> None:
    first, second = prompt.plain(TextRequest(prompts=("a", (1, 2)), n=2), ScriptedEngine())
    assert (first.prompt, first.prompt_param, first.n) == ("a", "prompt[0]", 2)
    assert (second.prompt, second.prompt_param) == ((1, 2), "prompt[1]")
