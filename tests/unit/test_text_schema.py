"""The bodies of /v1/completions, /v1/tokenize and /v1/detokenize, and the requests that they become."""

from typing import Any

import pytest

from app.engine.types import ChatRequest, TextRequest
from app.errors import InvalidRequest
from app.schemas import text
from tests.unit.conftest import HELLO


def problem(body: Any) -> str:
    """The place of a body's first problem."""
    with pytest.raises(InvalidRequest) as caught:
        text.load(body)
    assert caught.value.message
    return caught.value.param or ""


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("Once", ("Once",)),
        ("", ("",)),
        (["Once", "Twice"], ("Once", "Twice")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_a_prompt_has_four_forms(given: Any, prompts: tuple[Any, ...]) -> None:
    assert text.load({"prompt": given}) == TextRequest(prompts=prompts, max_tokens=16)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [True, False]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "structured_outputs": {"choice": ["b"]}}, "structured_outputs"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "best_of": 0}, "best_of"),
        ({"prompt": "a", "best_of": 2, "n": 3}, "best_of"),
        ({"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "min_tokens": 17}, "min_tokens"),
        ({"prompt": "a", "echo": 1}, "echo"),
        ({"prompt": "a", "temperature": 3}, "temperature"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(given: dict[str, Any], place: str) -> None:
    assert problem(given) == place


def test_every_wish_reaches_the_request() -> None:
    body = {"prompt": "a", "n": 2, "best_of": 5, "logprobs": 3, "echo": True, "max_tokens": 0, "seed": 1}
    assert text.load(body | {"suffix": None, "model": "demo"}) == TextRequest(
        prompts=("a",), n=2, best_of=5, top_logprobs=3, echo=True, max_tokens=0, seed=1, model="demo"
    )


def test_what_is_tokenized_is_a_text_or_messages() -> None:
    plain = text.load_tokenize({"prompt": "a", "model": "demo", "return_token_strs": True})
    assert plain == text.TokenizeRequest(TextRequest(prompts=("a",), model="demo"), True)
    chat = text.load_tokenize(HELLO)
    assert isinstance(chat.source, ChatRequest)
    assert not chat.strings
    for body in ({}, HELLO | {"prompt": "a"}):
        with pytest.raises(InvalidRequest) as caught:
            text.load_tokenize(body)
        assert caught.value.param == "messages"


def test_what_is_detokenized_are_ids() -> None:
    assert text.load_detokenize({"tokens": [1, 2], "model": "demo"}) == ("demo", [1, 2])
    assert text.load_detokenize({"tokens": []}) == (None, [])
    for wrong in ({}, {"tokens": "1"}, {"tokens": [-1]}, {"tokens": [1.5]}, {"tokens": [True]}):
        with pytest.raises(InvalidRequest) as caught:
            text.load_detokenize(wrong)
        assert (caught.value.param or "").startswith("tokens")
