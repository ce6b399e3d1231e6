"""2000 short requests, with clients that leave and generations that fail: afterwards nothing is left."""

import random
import threading
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import Server, wait_until

REQUESTS, AT_ONCE = 2000, 16
FAULTS = {77: 500, 78: 500, 79: 503, 80: 500}
"""How many tokens make the model fail, and with which status."""
SETTLED = 300
"""Requests after which threads, files and memory must not grow any more."""
MEGABYTE = 2**20


QUESTIONS = ("hello", "Who are you?", "你好", "What can you see? " * 12)


def post(server: Server, question: str, body: dict[str, Any]) -> requests.Response:
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0} | body
    stream = bool(body.get("stream"))
    return requests.post(f"{server.url}/v1/chat/completions", json=body, stream=stream, timeout=60)


def text(answer: requests.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def one(server: Server, rng: random.Random, usual: dict[tuple[str, int], str]) -> str:
    """A request of a random kind; what was wrong with its answer, or nothing."""
    kind = rng.random()
    question = rng.choice(QUESTIONS)
    if kind < 0.15:
        tokens, status = rng.choice(list(FAULTS.items()))
        found = post(server, question, {"max_tokens": tokens}).status_code
        return "" if found == status else f"{tokens}: {found}"
    if kind < 0.35:
        with post(server, question, {"max_tokens": 60, "stream": True}) as leaving:
            next(leaving.iter_content(rng.randint(1, 400)))
        return ""
    question, tokens = rng.choice(list(usual))
    found_text = text(post(server, question, {"max_tokens": tokens}))
    return "" if found_text == usual[question, tokens] else f"{tokens}: {found_text!r}"


@pytest.mark.timeout(300)
def test_after_2000_requests_nothing_is_left(faulty: Server) -> None:
    usual = {
        (question, tokens): text(post(faulty, question, {"max_tokens": tokens}))
        for question in QUESTIONS
        for tokens in (1, 2, 5, 9)
    }
    process = psutil.Process(faulty.worker())
    wrong: list[str] = []
    numbers = iter(range(REQUESTS))
    lock = threading.Lock()
    settled: list[int] = []

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
                if number == SETTLED:
                    settled.extend((process.memory_info().rss, process.num_threads(), process.num_fds()))
            if number is None:
                return
            try:
                problem = one(faulty, random.Random(number), usual)
            except Exception as error:
                problem = repr(error)
            if problem:
                wrong.append(problem)

    clients = [threading.Thread(target=client) for _ in range(AT_ONCE)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(100)
    assert not wrong, wrong[:5]
    wait_until(lambda: (faulty.details()["running"], faulty.details()["waiting"]) == (0, 0))
    memory, threads, files = settled
    wait_until(lambda: process.num_threads() <= threads)
    wait_until(lambda: process.num_fds() <= files)
    assert process.memory_info().rss < memory + 24 * MEGABYTE
    assert one(faulty, random.Random(3), usual) == ""
