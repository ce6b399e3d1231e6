"""python -m app bench: load a running server and measure it."""

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from app import client
from app.bench import plot
from app.bench.cases import KINDS, Case
from app.bench.load import MOST_AT_ONCE, Answer, arrivals, send
from app.bench.report import Limit, figures, table
from app.client import CallError, Remote
from app.flags import FlagHelp, Parser, SettingsError
from app.talk import default_model

LIMITS = {
    **{
        f"--max-{name}-{share}": (f"{name}_ms", share)
        for name in ("ttft", "tpot", "e2e")
        for share in ("p50", "p95", "p99")
    },
    "--min-tokens-per-s": ("tokens_per_s",),
    "--max-errors": ("errors",),
}
"""Flags for limits, and the figures that they are about."""


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code: 1 if a limit was missed, or no request went well; 130 if it was
    interrupted, whatever its part shows.
    """
    given = _parser().parse_args(list(arguments))
    server = client.remote(given, given.timeout)
    case = _case(given)
    for flag, (name, *_) in LIMITS.items():
        if not case.stream and name in ("ttft_ms", "tpot_ms") and _limit(given, flag) is not None:
            raise SettingsError(f"{flag}: only a stream has that figure; leave --no-stream out")
    if given.plot:
        plot.check(given.plot)
    for file in (given.json, given.plot):
        if file and file != "-" and not Path(file).expanduser().resolve().parent.is_dir():
            raise SettingsError(f"{file}: there is no such folder")
    try:
        case = replace(case, model=given.model or default_model(server))
        answers = _measure(server, case, given)
    except CallError as failure:
        hint = "" if failure.connected else "; start one with ./start_api.sh, or say where it is with --url"
        sys.stderr.write(f"vlserve: {failure}{hint}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    if interrupted := len(answers) < _count(given):
        sys.stderr.write(f"vlserve: interrupted after {len(answers)} of {_count(given)} requests\n")
    found = figures(answers)
    _write(given, server, case, answers, found)
    limits = [
        Limit(flag, value, LIMITS[flag]) for flag in LIMITS if (value := _limit(given, flag)) is not None
    ]
    missed = [line for limit in limits if (line := limit.missed(found))]
    for line in missed:
        sys.stderr.write(f"missed: {line}\n")
    return 130 if interrupted else 1 if missed or not found["good"] else 0


def _measure(server: Remote, case: Case, given: argparse.Namespace) -> list[Answer]:
    """The warm-up, whose answers are left out, and the load; raises CallError if the warm-up fails."""
    streams, count = _streams(given), _count(given)
    show, close = _progress(given.warmup, "warming up, which loads the model")
    warm = send(server, case, [0.0] * given.warmup, min(streams, given.warmup), show, count)
    close()
    if len(warm) < given.warmup:
        raise KeyboardInterrupt
    if warm and all(answer.error for answer in warm):  # nothing will go better for being sent more often
        raise CallError(warm[0].error, f"the warm-up failed: {warm[0].message}")
    show, close = _progress(count, "requests")
    answers = send(server, case, [*arrivals(count, given.rate, case.seed)], streams, show)
    close()
    return answers


def _progress(total: int, what: str) -> tuple[Callable[[Answer], None], Callable[[], None]]:
    """A bar on standard error if that is a terminal."""
    from tqdm import tqdm

    bar = tqdm(total=total, desc=what, unit="", leave=False, disable=None)
    errors = tokens = 0

    def show(answer: Answer) -> None:
        nonlocal errors, tokens
        errors, tokens = errors + bool(answer.error), tokens + answer.tokens
        bar.set_postfix({"tokens": tokens, "errors": errors}, refresh=False)
        bar.update()

    return show, bar.close


def _write(
    given: argparse.Namespace, server: Remote, case: Case, answers: Sequence[Answer], found: dict[str, Any]
) -> None:
    """The table, an example of each kind of error, and the files that were asked for."""
    title = _title(server, case, given)
    report = sys.stderr if given.json == "-" else sys.stdout
    report.write(f"{title}\n\n{table(found)}\n")
    examples = {answer.error: answer.message for answer in answers if answer.error}
    for kind, message in examples.items():
        report.write(f"{kind}: {message}\n")
    whole = {
        "server": server.url,
        "case": asdict(case),
        "concurrency": given.concurrency,
        "rate": given.rate,
        "warmup": given.warmup,
        **found,
        "answers": [asdict(answer) for answer in sorted(answers, key=lambda answer: answer.number)],
    }
    try:
        if given.json == "-":
            sys.stdout.write(json.dumps(whole) + "\n")
        elif given.json:
            Path(given.json).expanduser().write_text(json.dumps(whole) + "\n", encoding="utf-8")
        if given.plot:
            plot.draw(answers, title, str(Path(given.plot).expanduser()))
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}") from None


def _streams(given: argparse.Namespace) -> int:
    return int(given.concurrency or (MOST_AT_ONCE if given.rate else 8))


def _count(given: argparse.Namespace) -> int:
    return int(given.requests or (64 if given.rate else 8 * _streams(given)))


def _title(server: Remote, case: Case, given: argparse.Namespace) -> str:
    streams = _streams(given)
    how = f"{given.rate:g} a second, at most {streams} at once" if given.rate else f"{streams} at once"
    whole = "" if case.stream else ", not streamed"
    return (
        f"{case.model or 'model'} at {server.url}: {case.kind}, {how}, {case.max_tokens} tokens each{whole}"
    )


def _case(given: argparse.Namespace) -> Case:
    return Case(
        kind=given.case,
        max_tokens=given.max_tokens,
        words=given.words,
        image_size=given.image_size,
        same_image=given.same_image,
        stream=given.stream,
        plain=given.plain,
        seed=random.SystemRandom().randrange(2**31) if given.seed is None else given.seed,
    )


def _limit(given: argparse.Namespace, flag: str) -> float | None:
    value: float | None = getattr(given, flag[2:].replace("-", "_"))
    return value


def _number(kind: type[int] | type[float], low: float, high: float = 1e9) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: it must be {low:g} to {high:g}")
        return value

    return read


def _parser() -> argparse.ArgumentParser:
    result = Parser(
        prog="python -m app bench",
        description="Load a running server and measure it: time to the first token, time per output token, "
        "end to end, tokens per second, errors by kind.",
        usage="%(prog)s [flags]",
        formatter_class=FlagHelp,
        allow_abbrev=False,
    )
    _load_flags(result)
    _case_flags(result)
    results = result.add_argument_group("results")
    results.add_argument(
        "--json", metavar="FILE", help="write all figures and each answer's; - is standard output"
    )
    results.add_argument("--plot", metavar="FILE", help="draw a PNG (needs matplotlib)")
    limits = result.add_argument_group("limits; one that is missed makes the exit code 1")
    for flag, path in LIMITS.items():
        name = "ms" if path[0].endswith("_ms") else "N"
        limits.add_argument(flag, type=_number(float, 0), metavar=name.upper())
    client.add_flags(result)
    return result


def _load_flags(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("the load")
    load.add_argument(
        "-c", "--concurrency", type=_number(int, 1, 2000), metavar="N", help="requests at once (default: 8)"
    )
    load.add_argument(
        "-n",
        "--requests",
        type=_number(int, 1, 10**6),
        metavar="N",
        help="in all (default: 8 times -c; 64 with --rate)",
    )
    load.add_argument(
        "--rate",
        type=_number(float, 0.001, 10000),
        default=0.0,
        metavar="N",
        help="requests that arrive in a second, at random (Poisson), however many are under way; "
        f"-c bounds them (default: {MOST_AT_ONCE})",
    )
    load.add_argument(
        "--warmup",
        type=_number(int, 0, 10**4),
        default=2,
        metavar="N",
        help="requests before, that do not count (default: 2)",
    )
    load.add_argument(
        "--timeout",
        type=_number(float, 0.1, 86400),
        default=600.0,
        metavar="S",
        help="seconds of silence after which a request has failed (default: 600)",
    )


def _case_flags(parser: argparse.ArgumentParser) -> None:
    case = parser.add_argument_group("the requests")
    case.add_argument(
        "-m", "--model", metavar="ID", help="one of the server's models (default: the server's)"
    )
    case.add_argument("--case", choices=KINDS, default="text", help="what is asked (default: text)")
    case.add_argument(
        "-t",
        "--max-tokens",
        type=_number(int, 1, 10**6),
        default=64,
        metavar="N",
        help="of each answer (default: 64)",
    )
    case.add_argument(
        "-s",
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="stream the answers, which the time to the first token needs (default: yes)",
    )
    case.add_argument(
        "--words", type=_number(int, 1, 10**5), default=60, metavar="N", help="of each prompt (default: 60)"
    )
    case.add_argument(
        "--image-size",
        type=_number(int, 16, 8192),
        default=448,
        metavar="N",
        help="pixels a side (default: 448)",
    )
    case.add_argument("--same-image", action="store_true", help="show the same picture each time")
    case.add_argument(
        "--plain", action="store_true", help="send OpenAI's fields only; answers may be shorter"
    )
    case.add_argument(
        "--seed",
        type=_number(int, 0, 2**63),
        metavar="N",
        help="of prompts and arrivals (default: fresh ones)",
    )
