"""Models that fail while they load or in the middle of an answer: the reason arrives, the server goes on."""

import pathlib
import shutil
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
import requests

from tests.conftest import Server, running, wait_until

HELLO: Any = [{"role": "user", "content": "hello"}]


def ask(server: Server, max_tokens: int, **options: Any) -> Any:
    return server.client.chat.completions.create(
        model="faulty", messages=HELLO, temperature=0, max_tokens=max_tokens, **options
    )


@pytest.mark.parametrize(
    ("max_tokens", "status", "code"),
    [
        (77, 500, "generation_failed"),
        (78, 500, "generation_failed"),
        (79, 503, "out_of_memory"),
        (80, 500, "numerical_error"),
    ],
)
def test_an_exception_in_generate_is_the_answer(
    faulty: Server, max_tokens: int, status: int, code: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(faulty, max_tokens)
    assert caught.value.status_code == status
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("max_tokens", [77, 78, 79, 80])
def test_an_exception_in_a_stream_is_its_last_event(faulty: Server, max_tokens: int) -> None:
    text = ""
    error: openai.APIError | None = None
    try:
        for chunk in ask(faulty, max_tokens, stream=True):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as raised:
        error = raised
    assert error is not None
    assert error.message
    assert "secret" not in error.message
    assert bool(text) == (max_tokens == 78)


def test_the_raw_stream_of_a_failure_is_well_formed(faulty: Server) -> None:
    body = {"messages": HELLO, "max_tokens": 78, "temperature": 0, "stream": True}
    events = faulty.post("/v1/chat/completions", body).text.strip().split("\n\n")
    assert events[-3].startswith("event: error\ndata: {")
    assert '"finish_reason":"error"' in events[-2]
    assert events[-1] == "data: [DONE]"


def test_the_other_streams_finish_and_no_thread_is_left(faulty: Server) -> None:
    usual = ask(faulty, 30).choices[0].message.content
    texts: list[str | None] = []

    def run() -> None:
        texts.append(ask(faulty, 30).choices[0].message.content)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for max_tokens in (77, 78, 79, 80):
        with pytest.raises(openai.APIStatusError):
            ask(faulty, max_tokens)
    for thread in threads:
        thread.join(60)
    assert texts == [usual] * 6
    wait_until(lambda: faulty.details()["running"] == 0)


@pytest.mark.parametrize(
    ("model", "status", "reason"),
    [
        ("missing", 404, "does not exist"),
        ("no_weights", 503, "no weights"),
        ("truncated_weights", 503, "weights cannot be read"),
        ("broken_config", 503, "config.json"),
        ("unknown_architecture", 503, "architecture"),
        ("no_tokenizer", 503, "tokenizer"),
        ("not-allowed", 503, "trust_remote_code"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why_to_all_who_wait(
    faulty: Server, model: str, status: int, reason: str
) -> None:
    answers: list[tuple[int, str]] = []

    def run() -> None:
        answer = faulty.post("/v1/chat/completions", {"model": model, "messages": HELLO})
        answers.append((answer.status_code, answer.json()["error"]["message"]))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [code for code, _ in answers] == [status] * 4
    assert all(reason in message and model in message for _, message in answers), answers


def test_a_repaired_folder_loads_without_a_restart(
    faulty: Server, tiny: Callable[[str], pathlib.Path], tmp_path: pathlib.Path
) -> None:
    assert (
        faulty.post("/v1/chat/completions", {"model": "broken_config", "messages": HELLO}).status_code == 503
    )
    broken = pathlib.Path(faulty.log_file.parent / "broken_config")
    shutil.copy(tiny("qwen2") / "config.json", broken / "config.json")
    answer = faulty.post(
        "/v1/chat/completions", {"model": "broken_config", "messages": HELLO, "max_tokens": 3}
    )
    assert answer.ok, answer.text


def test_a_device_that_is_lost_is_told_and_the_process_replaced(faulty: Server) -> None:
    assert faulty.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 3}).ok
    worker = faulty.worker()
    answer = faulty.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 81})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")

    def answers() -> bool:
        try:
            return faulty.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 3}).ok
        except requests.ConnectionError:
            return False

    wait_until(lambda: faulty.worker() != worker, 30)
    wait_until(answers, 30)
    assert "a device has failed for good" in faulty.log


def test_twenty_first_requests_load_a_model_once(
    tmp_path: pathlib.Path, tiny: Callable[[str], pathlib.Path]
) -> None:
    with running(tmp_path, "--model", str(tiny("qwen3"))) as server:
        texts: list[Any] = []

        def run() -> None:
            body = {"messages": HELLO, "max_tokens": 5, "temperature": 0}
            texts.append(server.post("/v1/chat/completions", body).json()["choices"])

        threads = [threading.Thread(target=run) for _ in range(20)]
        for thread in threads:
            thread.start()
        assert server.get("/health").ok
        for thread in threads:
            thread.join(60)
        assert texts == [texts[0]] * 20
        assert server.log.count("loading qwen3 from") == 1


def test_an_idle_model_is_unloaded_and_comes_back(
    tmp_path: pathlib.Path, tiny: Callable[[str], pathlib.Path]
) -> None:
    with running(tmp_path, "--model", str(tiny("qwen2")), "--idle-unload", "0.5") as server:
        body = {"messages": HELLO, "max_tokens": 5, "temperature": 0}
        first = server.post("/v1/chat/completions", body).json()["choices"]
        wait_until(lambda: server.details()["model_state"] == "absent")
        assert server.post("/v1/chat/completions", body).json()["choices"] == first
