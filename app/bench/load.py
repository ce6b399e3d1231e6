"""Sending a load: so many requests at once, or as they would arrive, and the times of what comes back.

Each request has a thread and a connection of its own. All times are in seconds; those of an answer count from
when its request was due, so that a client which falls behind does not make the server look faster.
"""

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.bench.cases import Case
from app.client import CallError, Remote

MOST_AT_ONCE = 256
"""Requests in flight where arrivals, and no number of streams, are asked for."""


@dataclass
class Answer:
    """What became of one request; `start` counts from the load's beginning."""

    number: int
    start: float = 0.0
    picture: bool = False
    first: float | None = None
    """To the first text, thoughts included; None if it was not streamed, or had none."""
    gaps: list[float] = field(default_factory=list)
    """From one piece of text to the next."""
    seconds: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    error: str = ""
    message: str = ""

    @property
    def per_token(self) -> float | None:
        """Seconds per output token after the first."""
        if self.first is None or self.tokens < 2:
            return None
        return (self.seconds - self.first) / (self.tokens - 1)


def arrivals(count: int, rate: float, seed: int) -> Iterator[float]:
    """When requests are due: all at once for rate 0, else at random, `rate` a second on average (Poisson)."""
    rng = random.Random(seed)  # noqa: S311 - times
    now = 0.0
    for _ in range(count):
        yield now
        now += rng.expovariate(rate) if rate else 0.0


def send(
    server: Remote,
    case: Case,
    dues: Sequence[float],
    streams: int,
    done: Callable[[Answer], None] = lambda answer: None,
    first_number: int = 0,
) -> list[Answer]:
    """A request for each due time, at most `streams` at once; the answers so far if it is interrupted."""
    jobs: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
    for number, due in enumerate(dues, first_number):
        jobs.put((number, due))
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    threads = min(streams, len(dues))
    begun = time.perf_counter()
    as_they_come = not any(dues)

    def work() -> None:
        while True:
            try:
                number, due = jobs.get_nowait()
            except queue.Empty:
                return
            body = case.body(number)
            time.sleep(max(0.0, begun + due - time.perf_counter()))
            start = time.perf_counter() if as_they_come else begun + due
            answer = Answer(number, start - begun, case.has_picture(number))
            ask(server, body, answer, start)
            answers.put(answer)

    for index in range(threads):
        threading.Thread(target=work, name=f"bench-{index}", daemon=True).start()
    found: list[Answer] = []
    try:
        while len(found) < len(dues):
            found.append(answers.get())
            done(found[-1])
    except KeyboardInterrupt:
        pass  # the threads end with the process
    return found


def ask(server: Remote, body: dict[str, Any], answer: Answer, start: float) -> None:
    """Send one request and write down what comes back, errors too."""
    try:
        if body["stream"]:
            _stream(server, body, answer, start)
        else:
            _count(server.call("POST", "/v1/chat/completions", body), answer)
    except CallError as failure:
        answer.error, answer.message = failure.kind, str(failure)
    except Exception as failure:  # a thread that ends silently would never be counted
        answer.error, answer.message = type(failure).__name__, str(failure)
    answer.seconds = time.perf_counter() - start


def _stream(server: Remote, body: dict[str, Any], answer: Answer, start: float) -> None:
    last = 0.0
    pieces = 0
    for event in server.events("/v1/chat/completions", body):
        now = time.perf_counter()
        if _has_text(event):
            pieces += 1
            if answer.first is None:
                answer.first = now - start
            else:
                answer.gaps.append(now - last)
            last = now
        _count(event, answer)
    answer.tokens = answer.tokens or pieces


def _has_text(event: dict[str, Any]) -> bool:
    deltas = [choice.get("delta") or {} for choice in event.get("choices") or []]
    return any(delta.get("content") or delta.get("reasoning_content") for delta in deltas)


def _count(answered: dict[str, Any], answer: Answer) -> None:
    if usage := answered.get("usage"):
        answer.tokens = int(usage.get("completion_tokens") or 0)
        answer.prompt_tokens = int(usage.get("prompt_tokens") or 0)
