"""Load an OpenAI-compatible server with streamed chats; prints one line of JSON.

usage: python benchmarks/load.py URL MODEL STREAMS MAX_TOKENS [--requests N] [--words N] [--image-size PIXELS]
           [--same-image] [--seed N] [--plain]

`tok_s` counts the server's own usage.completion_tokens where the stream has it, else chunks with text
(--plain: without fields beyond OpenAI's). Times are in ms. The requests are those of `python -m app bench`.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from app.bench.cases import Case
from app.bench.load import send
from app.bench.report import figures
from app.client import Remote


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All requests, so many at once."""
    case = Case(
        arguments.model,
        "picture" if arguments.image_size else "text",
        arguments.max_tokens,
        arguments.words,
        arguments.image_size or 448,
        arguments.same_image,
        plain=arguments.plain,
        seed=arguments.seed,
    )
    total = arguments.requests or 2 * arguments.streams
    answers = send(Remote(arguments.url.rstrip("/"), timeout=900), case, [0.0] * total, arguments.streams)
    found = figures(answers)
    ttft, gap = found.get("ttft_ms", {}), found.get("gap_ms", {})
    return {
        "streams": arguments.streams,
        "requests": total,
        "good": found["good"],
        "tok_s": found["tokens_per_s"],
        "ttft_p50_ms": ttft.get("p50"),
        "ttft_p95_ms": ttft.get("p95"),
        "itl_p50_ms": gap.get("p50"),
        "itl_p95_ms": gap.get("p95"),
        "errors": [f"{answer.error}: {answer.message}" for answer in answers if answer.error][:2],
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("streams", type=int, help="how many at once")
    parser.add_argument("max_tokens", type=int)
    parser.add_argument("--requests", type=int, help="in all; by default twice the streams")
    parser.add_argument("--words", type=int, default=60, help="length of the prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts: the same ones may be cached")
    parser.add_argument("--image-size", type=int, help="add a square PNG of this side to each request")
    parser.add_argument("--same-image", action="store_true")
    parser.add_argument("--plain", action="store_true", help="OpenAI's fields only")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
