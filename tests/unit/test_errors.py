"""The error tree is the one that the docstring of app/errors.py draws."""

import inspect
import re

import pytest

from app import errors
from app.errors import ApiError

ROW = re.compile(
    r"^ {4}(?P<tree>[ │├└─]*)(?P<name>[A-Z]\w+) +(?P<status>\d{3}) +(?P<type>\w+) +(?P<code>\S+)"
)


def drawn() -> dict[str, tuple[str, int, str, str]]:
    """Name to parent, status, type and code, as the docstring says."""
    rows: dict[str, tuple[str, int, str, str]] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        row = ROW.match(line)
        if row is None:
            continue
        depth = len(row["tree"])
        while path and path[-1][0] >= depth:
            path.pop()
        parent = path[-1][1] if path else "Exception"
        path.append((depth, row["name"]))
        rows[row["name"]] = parent, int(row["status"]), row["type"], row["code"]
    return rows


def classes() -> dict[str, type[ApiError]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in found if issubclass(kind, ApiError)}


def test_all_classes_are_drawn_and_all_that_is_drawn_are_classes() -> None:
    root = re.search(r"^ {4}ApiError +status type +code$", errors.__doc__ or "", re.MULTILINE)
    assert root
    assert {*drawn(), "ApiError"} == set(classes())
    assert len(drawn()) > 8


@pytest.mark.parametrize("name", sorted(drawn()))
def test_a_class_has_the_place_status_type_and_code_that_are_drawn(name: str) -> None:
    parent, status, kind, code = drawn()[name]
    made = classes()[name]("text")
    assert classes()[name].__bases__[0].__name__ == ("ApiError" if parent == "Exception" else parent)
    assert (made.status, made.type) == (status, kind)
    assert code in (made.code, "…")


@pytest.mark.parametrize("name", sorted(classes()))
def test_a_body_has_openais_four_fields(name: str) -> None:
    made = classes()[name]("why", param="place", retry_after=3)
    assert made.body() == {"message": "why", "type": made.type, "param": "place", "code": made.code}
    assert (str(made), made.retry_after) == ("why", 3)


def test_a_code_of_its_own_stays_with_one_error() -> None:
    assert errors.InvalidRequest("why", code="special").body()["code"] == "special"
    assert errors.InvalidRequest("why").body() == {
        "message": "why",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_value",
    }


def test_a_client_that_left_gets_no_error_body() -> None:
    assert not issubclass(errors.ClientLeft, ApiError)
