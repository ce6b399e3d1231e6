"""What a load showed: percentiles, rates, errors by kind, and which of the limits were missed."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.bench.load import Answer

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
TIMES = {
    "ttft": "time to first token, ms",
    "tpot": "time per output token, ms",
    "gap": "between two pieces, ms",
    "e2e": "end to end, ms",
}


@dataclass(frozen=True)
class Limit:
    """The most or the least that a figure may be."""

    flag: str
    value: float
    path: tuple[str, ...]
    """Where the figure is in those of `figures`."""

    @property
    def is_most(self) -> bool:
        return self.flag.startswith("--max")

    def missed(self, found: dict[str, Any]) -> str:
        """What is wrong with the figures, in one line, "" if nothing is; one that is not there is wrong."""
        value: Any = found
        for name in self.path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is None:
            return f"{self.flag} {self.value:g}: there is no such figure"
        wrong = value > self.value if self.is_most else value < self.value
        return f"{self.flag} {self.value:g}: it was {value:g}" if wrong else ""


def figures(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts, rates per second, times in ms (mean, percentiles by nearest rank, max), errors by kind."""
    good = [answer for answer in answers if not answer.error]
    begin = min((answer.start for answer in answers), default=0.0)
    wall = max((answer.start + answer.seconds for answer in answers), default=0.0) - begin
    tokens = sum(answer.tokens for answer in good)
    prompt = sum(answer.prompt_tokens for answer in good)
    found: dict[str, Any] = {
        "requests": len(answers),
        "good": len(good),
        "errors": len(answers) - len(good),
        "errors_by_kind": dict(Counter(answer.error for answer in answers if answer.error).most_common()),
        "seconds": round(wall, 3),
        "tokens": tokens,
        "prompt_tokens": prompt,
        "tokens_per_s": round(tokens / wall, 2) if wall else 0.0,
        "prompt_tokens_per_s": round(prompt / wall, 2) if wall else 0.0,
        "requests_per_s": round(len(good) / wall, 3) if wall else 0.0,
    }
    times = {
        "ttft": [answer.first for answer in good if answer.first is not None],
        "tpot": [answer.per_token for answer in good if answer.per_token is not None],
        "gap": [gap for answer in good for gap in answer.gaps],
        "e2e": [answer.seconds for answer in good],
    }
    return found | {f"{name}_ms": spread(values) for name, values in times.items() if values}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, percentiles and maximum of some seconds, in ms."""
    ordered = sorted(values)
    found = {name: quantile(ordered, share) for name, share in SHARES.items()}
    found = {"mean": sum(ordered) / len(ordered)} | found | {"max": ordered[-1]}
    return {name: round(1000 * value, 2) for name, value in found.items()}


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: the least value that so large a share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def table(found: dict[str, Any]) -> str:
    """The figures for a person."""
    columns = ("mean", *SHARES, "max")
    lines = [" " * 28 + "".join(f"{name:>10}" for name in columns)]
    for name, title in TIMES.items():
        if row := found.get(f"{name}_ms"):
            lines.append(f"{title:28}" + "".join(f"{row[column]:10.1f}" for column in columns))
    lines += [
        "",
        f"tokens per second           {found['tokens_per_s']:10.1f}   "
        f"({found['tokens']} in {found['seconds']:.1f} s; prompts {found['prompt_tokens_per_s']:.1f})",
        f"requests per second         {found['requests_per_s']:10.2f}",
        f"requests                    {found['requests']:10}",
        f"errors                      {found['errors']:10}",
    ]
    lines += [f"    {kind:24}{count:10}" for kind, count in found["errors_by_kind"].items()]
    return "\n".join(lines)
