"""The second turn of a long chat beside its first: what the first has computed is not computed again.

usage: python benchmarks/turns.py URL MODEL [--words 2000] [--runs 3]

Prints the median seconds to the first token of a first turn that was not asked before, and of the next turn.
"""

import argparse
import json
import random
import statistics
import time
import urllib.request
from typing import Any


def turn(url: str, model: str, messages: list[dict[str, str]]) -> tuple[float, str, dict[str, Any]]:
    """Seconds to the first token of a streamed answer, its text and its usage."""
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": 16,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(  # noqa: S310 - the user's own address
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    start, first, text = time.perf_counter(), 0.0, ""
    usage: dict[str, Any] = {}
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                first = first or (time.perf_counter() - start if text else 0.0)
    return first, text, usage


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--words", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    found: list[tuple[float, float]] = []
    for run in range(arguments.runs):
        rng = random.Random(run)
        words = (rng.choice(("model", "server", "image", "token", "cache")) for _ in range(arguments.words))
        messages = [{"role": "user", "content": f"{time.time()} {' '.join(words)}"}]
        first, text, usage = turn(arguments.url, arguments.model, messages)
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "and then?"}]
        second, _, again = turn(arguments.url, arguments.model, messages)
        cached = again["prompt_tokens_details"]["cached_tokens"]
        print(
            f"{usage['prompt_tokens']} tokens of prompt: {first:.2f} s; the second turn, "
            f"{cached} of {again['prompt_tokens']} known: {second:.2f} s"
        )
        found.append((first, second))
    one, two = (statistics.median(column) for column in zip(*found, strict=True))
    print(f"medians: {one:.2f} and {two:.2f} s, {one / two:.1f} times shorter")


if __name__ == "__main__":
    main()
