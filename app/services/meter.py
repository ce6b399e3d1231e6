"""What a request's choices add to the metrics and to its log line."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from app import telemetry
from app.engine.types import Wait
from app.metrics import Metrics


@dataclass
class _Pace:
    """The times of a choice's first token and of its last."""

    first: float
    last: float
    tokens: int = 1


class Meter:
    """Counts and times the choices of a request that came at `started` (of time.monotonic)."""

    def __init__(self, metrics: Metrics, model: str, started: float) -> None:
        self._metrics, self._model, self._started = metrics, model, started
        self._generated = metrics.generated_tokens.labels(model)
        self._facts = telemetry.facts.get()
        self._paces: dict[int, _Pace] = {}

    def token(self, choice: int) -> None:
        """One more token of a choice has come."""
        now = time.monotonic()
        self._generated.inc()
        if not self._paces:
            self._metrics.first_token.labels(self._model).observe(now - self._started)
        pace = self._paces.get(choice)
        if pace is None:
            self._paces[choice] = _Pace(now, now)
        else:
            pace.last = now
            pace.tokens += 1

    def end(
        self, prompt_tokens: int, known_tokens: int, waits: Sequence[Wait], reasons: Sequence[str]
    ) -> None:
        """All is over; of the prompts' tokens so many were known. `reasons` are the choices' finish reasons,
        error, or cancelled.
        """
        metrics, model = self._metrics, self._model
        metrics.prompt_tokens.labels(model).inc(prompt_tokens)
        metrics.known_tokens.labels(model).inc(known_tokens)
        for reason in reasons:
            metrics.generations.labels(model, reason).inc()
        for pace in self._paces.values():
            if pace.tokens > 1:
                metrics.per_token.labels(model).observe((pace.last - pace.first) / (pace.tokens - 1))
        for position, seconds in waits:
            metrics.queue_position.labels(model).observe(position)
            if seconds is not None:
                metrics.queue_seconds.labels(model).observe(seconds)
        if self._facts is not None:
            self._facts |= {
                "model": model,
                "prompt_tokens": prompt_tokens,
                "completion_tokens": sum(pace.tokens for pace in self._paces.values()),
                "finish_reasons": sorted(set(reasons)),
            }
