"""From a chat request to a generation request: defaults filled in, pictures decoded."""

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from app.engine.types import (
    Defaults,
    GenerationRequest,
    ImagePart,
    Message,
    Sampling,
    Template,
    TextPart,
    TextRequest,
)
from app.errors import ClientLeft, InvalidRequest
from app.services import prompt
from tests.conftest import data_url
from tests.unit.conftest import ScriptedEngine, asked

PICTURE = ImagePart(data_url(Image.new("RGB", (3, 2), "red")), "messages[0].content[1].image_url.url")


LIMITS = prompt.Limits(images=4, pixels=1000, total_pixels=3000)


def resolve(request: Any = None, defaults: Defaults | None = None, **options: Any) -> GenerationRequest:
    watch = options.pop("watch", lambda: None)
    engine = ScriptedEngine()
    engine.modalities = options.pop("modalities", engine.modalities)
    engine.defaults = defaults or Defaults()
    limits = replace(LIMITS, **options)
    request = request or asked()
    return prompt.resolve(request, prompt.read(request, limits), engine, limits, watch)


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


def test_pictures_are_decoded_in_their_places() -> None:
    request = replace(asked(), messages=(Message("user", (TextPart("a"), PICTURE, TextPart("b"))),) * 2)
    made = resolve(request)
    assert [message.role for message in made.messages] == ["user", "user"]
    for message in made.messages:
        first, picture, last = message.parts
        assert (first, last) == (TextPart("a"), TextPart("b"))
        assert isinstance(picture, ImagePart)
        assert picture.image.size == (3, 2)
        assert (picture.param, picture.source) == (PICTURE.param, "")


def test_too_many_pictures_are_refused_at_the_first_that_is_too_many() -> None:
    parts = tuple(replace(PICTURE, param=f"place {number}") for number in range(5))
    request = replace(asked(), messages=(Message("user", parts[:3]), Message("user", parts[3:])))
    with pytest.raises(InvalidRequest, match="has 5 pictures; the most is 4") as caught:
        resolve(request)
    assert caught.value.param == "place 4"
    assert resolve(request, images=5).messages[1].parts


def test_no_pictures_at_all_may_be_allowed() -> None:
    with pytest.raises(InvalidRequest, match="the most is 0") as caught:
        resolve(replace(asked(), messages=(Message("user", (PICTURE,)),)), images=0)
    assert caught.value.param == PICTURE.param


def test_a_picture_over_the_limit_is_refused_at_its_place() -> None:
    with pytest.raises(InvalidRequest, match="3 × 2") as caught:
        resolve(replace(asked(), messages=(Message("user", (PICTURE,)),)), pixels=5)
    assert (caught.value.param, caught.value.code) == (PICTURE.param, "image_too_large")


def test_the_watch_is_asked_before_each_picture_and_may_stop_it() -> None:
    request = replace(asked(), messages=(Message("user", (PICTURE, TextPart("a"), PICTURE)),))
    looks: list[int] = []
    resolve(request, watch=lambda: looks.append(1))
    assert len(looks) == 2

    def leave() -> None:
        raise ClientLeft

    with pytest.raises(ClientLeft):
        resolve(request, watch=leave)


def test_pictures_over_the_total_are_refused_before_any_is_decoded() -> None:
    looks: list[int] = []
    parts = tuple(replace(PICTURE, param=f"place {number}") for number in range(3))
    request = replace(asked(), messages=(Message("user", parts),))
    with pytest.raises(InvalidRequest, match="megapixels together") as caught:
        resolve(request, total_pixels=13, watch=lambda: looks.append(1))
    assert (caught.value.param, looks) == ("place 2", [])
    assert resolve(request, total_pixels=18).messages[0].parts


def test_a_model_for_text_refuses_pictures_before_they_are_unpacked() -> None:
    broken = ImagePart("data:image/png;base64,AAAA", "messages[0].content[0].image_url.url")
    request = replace(asked(), messages=(Message("user", (broken,)),))
    with pytest.raises(InvalidRequest, match="takes text only") as caught:
        resolve(request, modalities=("text",))
    assert caught.value.param == broken.param


def test_one_picture_that_is_too_large_is_named_before_the_sum_is() -> None:
    large = ImagePart(data_url(Image.new("1", (100, 100))), "messages[0].content[0].image_url.url")
    request = replace(asked(), messages=(Message("user", (large,)),))
    with pytest.raises(InvalidRequest, match=r"100 × 100 = 0\.0 megapixels; at most 0\.001"):
        resolve(request)


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
