"""docs/api.md: its rows are the fields of the installed client and of the code, and its tests are there."""

import ast
import re
import types
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

import pytest
from openai.types import completion_create_params as plain
from openai.types.chat import chat_completion_content_part_image_param as image
from openai.types.chat import completion_create_params as chat

from app.schemas.chat import NOT_YET, ChatSchema
from app.schemas.chat import load as load_chat
from app.schemas.text import CompletionSchema
from tests.conftest import ROOT, asks

HELLO = {"messages": asks("hello")}
TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(\w+/\w+\.py)::(\w+)`")


def rows(section: str) -> dict[str, tuple[str, str]]:
    """What a section's table says of each field: what happens to it, and what shows it."""
    body = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) ?\|$", body, re.MULTILINE)
    assert len(found) == body.count("\n| `"), "a row that is no row"
    assert [name for name, *_ in found] == list(dict.fromkeys(name for name, *_ in found))
    return {name: (here, shown) for name, here, shown in found}


CHAT, PLAIN, OURS = rows("Chat completions"), rows("Text completions"), rows("Beyond OpenAI")


def fields_of(form: Any) -> dict[str, Any]:
    """The fields of a request in the client's types."""
    return get_type_hints(form)


def test_every_field_of_the_installed_client_has_its_row() -> None:
    assert set(CHAT) == set(fields_of(chat.CompletionCreateParamsNonStreaming))
    assert set(PLAIN) == set(fields_of(plain.CompletionCreateParamsNonStreaming))


def test_every_field_of_ours_has_its_row() -> None:
    known = ChatSchema().fields.keys() | NOT_YET.keys()
    assert set(OURS) == known - CHAT.keys()
    assert CompletionSchema().fields.keys() - PLAIN.keys() <= OURS.keys()


def test_no_field_is_unknown_to_the_code() -> None:
    assert CHAT.keys() <= ChatSchema().fields.keys() | NOT_YET.keys()
    assert PLAIN.keys() <= CompletionSchema().fields.keys() | {"suffix"}


def test_what_is_refused_is_said_and_what_is_served_is_not_called_missing() -> None:
    missing = {name for name, (here, _) in (CHAT | OURS).items() if here.startswith(("not yet", "refused"))}
    assert missing == set(NOT_YET)


@pytest.mark.parametrize("name", CHAT | PLAIN | OURS)
def test_each_row_names_tests_that_are_there(name: str) -> None:
    for here, shown in [table[name] for table in (CHAT, PLAIN, OURS) if name in table]:
        named = TEST.findall(shown)
        assert named or here.startswith("not yet")
        assert TEST.sub("", shown).strip(", ") == ""
        for file, test in named:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, test


def words(kind: Any) -> list[str]:
    """The words that a field of the client's may have, where it has nothing but words."""
    if get_origin(kind) in (Union, types.UnionType, Required, NotRequired):
        parts = [words(part) for part in get_args(kind) if part is not types.NoneType]
        return [word for part in parts for word in part] if all(parts) else []
    return [word for word in get_args(kind) if isinstance(word, str)] if get_origin(kind) is Literal else []


WORDS = [
    (name, word)
    for name, kind in fields_of(chat.CompletionCreateParamsNonStreaming).items()
    for word in words(kind)
]


def test_fields_of_words_are_found() -> None:
    assert {"reasoning_effort", "service_tier", "verbosity"} <= {name for name, _ in WORDS}


@pytest.mark.parametrize(("name", "word"), WORDS)
def test_every_word_that_the_client_may_send_is_taken(name: str, word: str) -> None:
    assert load_chat(HELLO | {name: word}).messages


@pytest.mark.parametrize("detail", words(fields_of(image.ImageURL)["detail"]))
def test_every_detail_of_a_picture_is_taken(detail: str) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:x", "detail": detail}}
    assert load_chat({"messages": [{"role": "user", "content": [part]}]}).messages
