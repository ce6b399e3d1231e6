"""Thoughts are told apart from the answer, however the tokens cut the tags."""

import pytest

from app.services.thinking import ThinkingParser


def split(text: str, size: int, inside: bool = False) -> tuple[str, str]:
    """Reasoning and answer of a text that comes in pieces of this size."""
    parser = ThinkingParser(inside)
    pieces = [parser.push(text[at : at + size]) for at in range(0, len(text), size)] + [parser.finish()]
    return "".join(piece[0] for piece in pieces), "".join(piece[1] for piece in pieces)


CASES = [
    ("<think>\nbecause\n</think>\n\nfour", False, ("because", "four")),
    ("\n <think>because</think>four", False, ("because", "four")),
    ("because\n</think>\n\nfour", True, ("because", "four")),
    ("never closed ", True, ("never closed", "")),
    ("<think>never closed", False, ("never closed", "")),
    ("<think></think>four", False, ("", "four")),
    ("<think>\n\n</think>\n\nfour", False, ("", "four")),
    ("<think>a < b </ c </thin d</think>e", False, ("a < b </ c </thin d", "e")),
    ("<think>a</think>b</think>c<think>d</think>", False, ("a", "b</think>c<think>d</think>")),
    ("no thought, but <think> is said</think>", False, ("", "no thought, but <think> is said</think>")),
    ("  two spaces first", False, ("", "  two spaces first")),
    ("<thin", False, ("", "<thin")),
    ("  ", False, ("", "  ")),
    ("a</thi", True, ("a</thi", "")),
    ("two\n\nparts</think>\n\n\nand\n\nmore\n", True, ("two\n\nparts", "and\n\nmore\n")),
    ("", False, ("", "")),
    ("", True, ("", "")),
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize(("text", "inside", "parts"), CASES)
def test_a_thought_is_what_an_answer_begins_with(
    text: str, inside: bool, parts: tuple[str, str], size: int
) -> None:
    assert split(text, size, inside) == parts


def test_what_is_clear_is_passed_on_at_once() -> None:
    parser = ThinkingParser()
    assert parser.push("<think>one") == ("one", "")
    assert parser.push(" two</") == (" two", "")
    assert parser.push("think>three") == ("", "three")
    assert not parser.inside
    assert parser.push(" four") == ("", " four")
