"""What the simple API takes: fields, their ranges and defaults."""

from typing import Any

import pytest

from app.engine.media_types import ImagePart
from app.engine.types import TextPart
from app.errors import InvalidRequest
from app.schemas import simple

MINIMAL = {"message": "hi"}


def test_a_message_is_enough() -> None:
    name, request = simple.load(MINIMAL)
    assert name == "default"
    [message] = request.messages
    assert (message.role, message.parts) == ("user", (TextPart("hi"),))
    assert (request.temperature, request.usual_temperature) == (None, 0.7)
    assert (request.max_tokens, request.stream) == (None, False)
    assert (request.model, request.top_p, request.stop) == (None, None, ())


def test_all_fields_are_read() -> None:
    name, request = simple.load(
        {
            "message": " hi ",
            "session_id": "a:b@c.d~e+f=g-h_1",
            "images": ["data:a", "b"],
            "max_tokens": 7,
            "temperature": 0,
            "stream": True,
            "unknown": {"is": "ignored"},
        }
    )
    assert name == "a:b@c.d~e+f=g-h_1"
    assert request.messages[0].parts == (
        ImagePart("data:a", "images[0]"),
        ImagePart("b", "images[1]"),
        TextPart(" hi "),
    )
    assert (request.temperature, request.max_tokens, request.stream) == (0.0, 7, True)


def test_null_is_the_default() -> None:
    empty = dict.fromkeys(("session_id", "images", "max_tokens", "temperature", "stream"))
    assert simple.load(MINIMAL | empty) == simple.load(MINIMAL)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"message": None}, "message"),
        ({"message": ""}, "message"),
        ({"message": 3}, "message"),
        ({"message": ["hi"]}, "message"),
        ({"message": "\ud800"}, "message"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 10**10}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"stream": 1}, "stream"),
        ({"images": "data:a"}, "images"),
        ({"images": [3]}, "images[0]"),
        ({"images": ["a", ""]}, "images[1]"),
        ({"images": ["a"] * 2000}, "images"),
        *(
            ({"session_id": name}, "session_id")
            for name in ("", "a/b", "..", ".", "-a", "a b", "a\n", "é", "a" * 129, 42, ["a"], "a?b", "a%20b")
        ),
    ],
)
def test_what_cannot_be_is_refused_at_its_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        simple.load(MINIMAL | change)
    assert caught.value.param == param


@pytest.mark.parametrize("body", [[], "hi", None, 3])
def test_a_body_is_an_object(body: Any) -> None:
    for load in (simple.load, simple.session_name):
        with pytest.raises(InvalidRequest, match="The body must be an object"):
            load(body)


def test_a_session_is_named_or_the_default_one() -> None:
    assert simple.session_name({}) == simple.session_name({"session_id": None}) == "default"
    assert simple.session_name({"session_id": "a" * 128, "other": 1}) == "a" * 128
    with pytest.raises(InvalidRequest):
        simple.session_name({"session_id": "a/b"})
