"""The wording of questions, kept in text files beside this one and read from there."""

import functools
import pathlib

from models.demo.palette import Language

Table = dict[str, dict[Language, tuple[str, ...]]]
HERE = pathlib.Path(__file__).parent


@functools.cache
def patterns(name: str) -> Table:
    """The patterns of a file, by the name and the language of their section."""
    found: dict[str, dict[Language, list[str]]] = {}
    lines: list[str] = []
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section, language = line.strip("[]").rsplit(" ", 1)
            lines = []
            found.setdefault(section, {})["en" if language == "en" else "zh"] = lines
        elif line and not line.startswith("#"):
            lines.append(line)
    return {section: {code: tuple(some) for code, some in each.items()} for section, each in found.items()}


@functools.cache
def words(language: Language) -> dict[str, tuple[str, ...]]:
    """The word lists that fill the patterns of out-of-scope questions in a language."""
    return {
        name: tuple(word.strip() for word in " ".join(each[language]).split(",") if word.strip())
        for name, each in patterns("words.txt").items()
        if language in each
    }


@functools.cache
def listed(name: str) -> tuple[str, ...]:
    """The words of a file, parted by spaces."""
    return tuple((HERE / name).read_text(encoding="utf-8").split())
