"""Fields that take JSON as it is."""

import math
from typing import Any

import pytest
from marshmallow import ValidationError, fields

from app.schemas.fields import Body, Flag, Integer, Items, Number, Text, check_length, first_problem

NUMBER = Number(low=0, high=2)
OPEN = Number(above=0, high=1)
INTEGER = Integer(low=-5, high=10**9)
TEXT = Text(least=1, most=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (NUMBER, 0),
        (NUMBER, 2),
        (NUMBER, 0.5),
        (NUMBER, -0.0),
        (OPEN, 1),
        (OPEN, 1e-300),
        (INTEGER, -5),
        (INTEGER, 10**9),
        (TEXT, "a"),
        (TEXT, "你好世界🙂"),
        (Text(), ""),
        (Text(), "a\x00b\n\u2028"),
        (Flag(), True),
        (Flag(), False),
        (Items(TEXT, most=2), []),
        (Items(TEXT, most=2), ["a", "b"]),
    ],
)
def test_a_value_of_the_right_kind_is_taken_as_it_is(field: fields.Field[Any], value: Any) -> None:
    assert field.deserialize(value) == value


def test_a_whole_number_becomes_a_float_where_a_number_is_expected() -> None:
    assert type(NUMBER.deserialize(1)) is float


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        (NUMBER, "1", "is a string, where a number is expected"),
        (NUMBER, True, "is true or false, where a number is expected"),
        (NUMBER, [1], "is a list, where a number is expected"),
        (NUMBER, {}, "is an object, where a number is expected"),
        (NUMBER, None, "must not be null"),
        (NUMBER, 2.5, "is 2.5; it must be 0 to 2"),
        (NUMBER, -1, "is -1; it must be 0 to 2"),
        (NUMBER, math.inf, "is inf; it must be 0 to 2"),
        (NUMBER, math.nan, "is nan; it must be 0 to 2"),
        (NUMBER, 10**400, "is a number of over 20 digits; it must be 0 to 2"),
        (OPEN, 0, "is 0; it must be more than 0 to 1"),
        (INTEGER, 1.5, "is a number, where a whole number is expected"),
        (INTEGER, 1e300, "is a number of over 20 digits; it must be -5 to 1000000000"),
        (INTEGER, "1", "is a string, where a whole number is expected"),
        (INTEGER, False, "is true or false, where a whole number is expected"),
        (INTEGER, -6, "is -6; it must be -5 to 1000000000"),
        (INTEGER, 10**4000, "is a number of over 20 digits; it must be -5 to 1000000000"),
        (TEXT, "", "is empty"),
        (TEXT, "abcdef", "has 6 characters; the most is 5"),
        (TEXT, 3, "is a number, where a string is expected"),
        (TEXT, b"abc", "is an object, where a string is expected"),
        (TEXT, "a\ud83d", "has half of a surrogate pair in it, which is no character"),
        (Flag(), 1, "is a number, where true or false is expected"),
        (Flag(), "true", "is a string, where true or false is expected"),
        (Items(TEXT, most=2), "ab", "is a string, where a list is expected"),
        (Items(TEXT, most=2), {"a": 1}, "is an object, where a list is expected"),
        (Items(TEXT, most=2), [3, 3, 3], "has 3 items; the most is 2"),
        (Items(TEXT, least=1, most=2), [], "is empty"),
        (Items(TEXT, least=2, most=2), ["a"], "has 1 items; the least is 2"),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused_with_what_it_is(
    field: fields.Field[Any], value: Any, text: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        field.deserialize(value)
    assert caught.value.messages == [text]


def test_a_list_names_the_item_that_is_wrong() -> None:
    with pytest.raises(ValidationError) as caught:
        Items(TEXT, most=9).deserialize(["a", "b", 3, ""])
    assert first_problem(caught.value.normalized_messages())[0] == "[2]"


def test_a_missing_field_is_missing_and_an_unknown_one_is_ignored() -> None:
    class Example(Body):
        word = Text(required=True)

    assert Example().load({"word": "a", "other": 1}) == {"word": "a"}
    cases: list[tuple[Any, Any]] = [({}, {"word": ["is missing"]}), ([], {"_schema": ["must be an object"]})]
    for value, problems in cases:
        with pytest.raises(ValidationError) as caught:
            Example().load(value)
        assert caught.value.messages == problems


@pytest.mark.parametrize(("value", "good"), [([1], True), ([], False), ([1] * 4, False), ((1,), False)])
def test_a_length_is_checked(value: Any, good: bool) -> None:
    if good:
        check_length(value, 1, 3)
    else:
        with pytest.raises(ValidationError):
            check_length(value, 1, 3)


@pytest.mark.parametrize(
    ("problems", "place", "text"),
    [
        ({"_schema": ["broken"]}, "", "broken"),
        (["broken"], "", "broken"),
        ({"a": ["first", "second"]}, "a", "first"),
        ({"a": {0: {"b": ["x"]}}}, "a[0].b", "x"),
        ({"a": {10: ["ten"], 9: ["nine"]}}, "a[9]", "nine"),
        ({"a": {0: {"content": {2: {"_schema": ["x"]}}}}}, "a[0].content[2]", "x"),
        ({"messages": {1: {"_schema": ["x"]}}}, "messages[1]", "x"),
    ],
)
def test_the_first_problem_has_a_place_and_a_text(problems: Any, place: str, text: str) -> None:
    assert first_problem(problems) == (place, text)
