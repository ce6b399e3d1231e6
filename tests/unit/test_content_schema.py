"""What a message may hold."""

from typing import Any

import pytest
from marshmallow import ValidationError

from app.engine.media_types import ImagePart, MediaOptions, VideoPart
from app.engine.types import Message, TextPart
from app.schemas.content import MAX_PARTS, ROLES, MessageSchema
from app.schemas.fields import first_problem

TEXT = {"type": "text", "text": "hi"}


def load(message: Any) -> Message:
    made = MessageSchema().load(message)
    assert isinstance(made, Message)
    return made


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_taken_and_developer_is_system(role: str) -> None:
    expected = "system" if role == "developer" else role
    call = "call_1" if role == "tool" else None
    assert load({"role": role, "content": "hi", "tool_call_id": "call_1"}) == Message(
        expected, (TextPart("hi"),), tool_call_id=call
    )


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"role": "tool", "content": "42"}, "tool_call_id"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]}, "tool_calls"),
    ],
)
def test_half_a_tool_call_is_refused(message: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        load(message)
    assert place in caught.value.normalized_messages()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", (TextPart(""),)),
        ([{"type": "refusal", "refusal": "no"}], (TextPart("no"),)),
        ([TEXT], (TextPart("hi"),)),
        ([TEXT, TEXT], (TextPart("hi"), TextPart("hi"))),
        ([TEXT | {"cache_control": {}}], (TextPart("hi"),)),
        (
            [{"type": "image_url", "image_url": {"url": "U", "detail": "original"}}, TEXT],
            (ImagePart("U", "content[0].image_url.url"), TextPart("hi")),
        ),
        (
            [TEXT, {"type": "image_url", "image_url": "U"}],
            (TextPart("hi"), ImagePart("U", "content[1].image_url.url")),
        ),
        ([{"type": "image", "image": "U"}], (ImagePart("U", "content[0].image"),)),
        ([{"type": "video", "video": "U"}], (VideoPart("U", "content[0].video"),)),
        ([{"type": "video", "video": ["U", "V"]}], (VideoPart(("U", "V"), "content[0].video"),)),
        (
            [{"type": "video_url", "video_url": {"url": "U"}, "mm_processor_kwargs": {"fps": 1}}],
            (VideoPart("U", "content[0].video_url.url", None, MediaOptions(fps=1.0)),),
        ),
        (
            [{"type": "image_url", "image_url": {"url": "U", "detail": "low"}}],
            (ImagePart("U", "content[0].image_url.url", None, MediaOptions(most_pixels=512 * 512)),),
        ),
        ([TEXT] * MAX_PARTS, (TextPart("hi"),) * MAX_PARTS),
    ],
)
def test_content_becomes_parts(content: Any, parts: tuple[Any, ...]) -> None:
    assert load({"role": "user", "content": content}).parts == parts


def test_an_assistant_may_have_said_the_empty_text() -> None:
    assert load({"role": "assistant", "content": ""}) == Message("assistant", (TextPart(""),))


@pytest.mark.parametrize(
    ("message", "place", "text"),
    [
        ({"content": "hi"}, "role", "is missing"),
        ({"role": None, "content": "hi"}, "role", "must not be null"),
        ({"role": "robot", "content": "hi"}, "role", f"must be one of {', '.join(ROLES)}"),
        ({"role": "User", "content": "hi"}, "role", f"must be one of {', '.join(ROLES)}"),
        ({"role": "user"}, "content", "is missing"),
        ({"role": "tool", "content": None}, "content", "is missing"),
        ({"role": "user", "content": 3}, "content", "must be a string or a list of parts"),
        ({"role": "user", "content": {}}, "content", "must be a string or a list of parts"),
        ({"role": "user", "content": []}, "content", "is empty"),
        (
            {"role": "user", "content": [TEXT] * (MAX_PARTS + 1)},
            "content",
            "has 1025 items; the most is 1024",
        ),
        (
            {"role": "user", "content": "\udc00"},
            "content",
            "has half of a surrogate pair in it, which is no character",
        ),
        ({"role": "user", "content": ["hi"]}, "content[0]", "must be an object with a type"),
        ({"role": "user", "content": [TEXT, None]}, "content[1]", "must be an object with a type"),
        (
            {"role": "user", "content": [{}]},
            "content[0].type",
            "must be one of text, refusal, image_url, image, video_url, video",
        ),
        (
            {"role": "user", "content": [{"type": ["text"]}]},
            "content[0].type",
            "must be one of text, refusal, image_url, image, video_url, video",
        ),
        ({"role": "user", "content": [{"type": "video"}]}, "content[0].video", "is missing"),
        ({"role": "user", "content": [{"type": "video", "video": []}]}, "content[0].video", "is empty"),
        ({"role": "user", "content": [{"type": "video_url"}]}, "content[0].video_url", "is missing"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text", "is missing"),
        ({"role": "user", "content": [TEXT, {"type": "text", "text": 3}]}, "content[1].text", None),
        ({"role": "user", "content": [{"type": "image_url"}]}, "content[0].image_url", "is missing"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": 3}]},
            "content[0].image_url",
            "must be an object",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "content[0].image_url.url",
            "is missing",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": ""}]},
            "content[0].image_url.url",
            "is empty",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "U", "detail": "best"}}]},
            "content[0].image_url.detail",
            "must be one of auto, low, high, original",
        ),
        ({"role": "user", "content": [{"type": "image", "image": {"url": "U"}}]}, "content[0].image", None),
        ({"role": "user", "content": "hi", "name": 3}, "name", None),
        ({"role": "user", "content": "hi", "name": "n" * 257}, "name", None),
    ],
)
def test_a_wrong_message_is_refused_at_its_place(message: Any, place: str, text: str | None) -> None:
    with pytest.raises(ValidationError) as caught:
        load(message)
    found, reason = first_problem(caught.value.normalized_messages())
    assert found == place
    assert reason == text or text is None


def test_the_source_of_a_picture_stays_out_of_logs() -> None:
    assert "secret" not in repr(
        load({"role": "user", "content": [{"type": "image", "image": "data:secret"}]})
    )


def test_a_data_url_is_as_long_as_the_limits_of_bodies_and_media_allow() -> None:
    url = "data:;base64," + "A" * 10_000_001
    for part in ({"type": "image_url", "image_url": {"url": url}}, {"type": "video", "video": [url, url]}):
        assert load({"role": "user", "content": [part]}).parts
