"""Every family of the catalogue, as a tiny random model: the server's greedy text is transformers' own."""

import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from PIL import Image

from tests import tiny_models
from tests.conftest import Server, data_url, running, scene

QUESTIONS = ("Hello, who are you?", "你好，这个图形是什么颜色的？", "Say ünïcödé 😀 and\nnew lines.")


@pytest.fixture(scope="module")
def families(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], pathlib.Path]
) -> Iterator[Server]:
    """One server whose catalogue holds all families."""
    folder = tmp_path_factory.mktemp("families")
    entries = [
        {
            "id": family,
            "source": str(tiny(family)),
            "modalities": ["text", "image"] if family in tiny_models.VISION_FAMILIES else ["text"],
            "trust_remote_code": family == "sail_vl2",
        }
        for family in tiny_models.FAMILIES
    ]
    catalog = folder / "catalog.yaml"
    catalog.write_text(yaml.safe_dump({"models": entries}))
    with running(folder, "--catalog", str(catalog), "--model", "qwen2") as server:
        yield server


def ask(server: Server, family: str, question: str, picture: Image.Image | None, **options: Any) -> Any:
    content: Any = question
    if picture is not None:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(picture)}},
            {"type": "text", "text": question},
        ]
    body = {"model": family, "messages": [{"role": "user", "content": content}], "max_tokens": 24}
    answer = server.post("/v1/chat/completions", body | {"temperature": 0} | options)
    assert answer.ok, answer.text
    return answer.json()


def reference(folder: pathlib.Path, question: str, picture: Image.Image | None) -> tuple[str, list[int]]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": picture}] if picture is not None else []
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    return tiny_models.reference_greedy(folder, messages, 24)


def cases() -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    for family in tiny_models.FAMILIES:
        for index, question in enumerate(QUESTIONS):
            yield family, question, None
            if family in tiny_models.VISION_FAMILIES:
                yield family, question, ((224, 224), (300, 90), (64, 128))[index]


@pytest.mark.parametrize(("family", "question", "size"), list(cases()))
def test_greedy_text_is_that_of_generate_alone(
    families: Server,
    tiny: Callable[[str], pathlib.Path],
    family: str,
    question: str,
    size: tuple[int, int] | None,
) -> None:
    picture = scene(size=size) if size else None
    text, tokens = reference(tiny(family), question, picture)
    answer = ask(families, family, question, picture)
    assert answer["choices"][0]["message"]["content"].rstrip("\ufffd") == text.rstrip("\ufffd")
    assert answer["usage"]["completion_tokens"] == len(tokens)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_eight_streams_at_once_do_not_disturb_each_other(families: Server, family: str) -> None:
    sees = family in tiny_models.VISION_FAMILIES
    rows = [
        (QUESTIONS[row % 3] + " x" * row, scene(size=(56 + 28 * row, 84)) if sees and row % 2 else None)
        for row in range(8)
    ]
    alone = [ask(families, family, *row)["choices"] for row in rows]
    together: dict[int, Any] = {}

    def run(row: int) -> None:
        together[row] = ask(families, family, *rows[row])["choices"]

    threads = [threading.Thread(target=run, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [together[row] for row in range(8)] == alone


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_seed_gives_the_same_text_again_and_another_seed_another(families: Server, family: str) -> None:
    def text(seed: int) -> str:
        answer = ask(families, family, "Hello", None, temperature=1.2, seed=seed)
        return str(answer["choices"][0]["message"]["content"])

    assert text(7) == text(7)
    if family != "qwen2_vl":  # its generation_config.json has top_k 1, as the real one does
        assert len({text(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize("family", tiny_models.TEXT_FAMILIES)
def test_a_text_model_refuses_a_picture_and_says_so(families: Server, family: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": data_url(scene())}}]
    body = {"model": family, "messages": [{"role": "user", "content": content}]}
    answer = families.post("/v1/chat/completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].content[0].image_url.url"


def test_a_prompt_beyond_the_context_names_both_numbers(families: Server) -> None:
    for family in tiny_models.FAMILIES:
        body = {"model": family, "messages": [{"role": "user", "content": "word " * 600}]}
        answer = families.post("/v1/chat/completions", body)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert str(tiny_models.LENGTH) in error["message"]
