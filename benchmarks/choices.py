"""Several choices of one prompt beside one: the prompt is computed once, the choices together.

usage: python benchmarks/choices.py URL MODEL [--words 400] [--tokens 32] [--runs 5]

Prints the median seconds to the first token and to the end for n=1 and n=8, each with a prompt that was not
asked before.
"""

import argparse
import json
import random
import statistics
import time
import urllib.request


def timed(url: str, model: str, words: int, tokens: int, n: int, seed: int) -> tuple[float, float]:
    """Seconds to the first token and to the last of a streamed answer with `n` choices."""
    rng = random.Random(seed)
    prompt = " ".join(rng.choice(("model", "server", "image", "token", "cache")) for _ in range(words))
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"{seed} {prompt}"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 1.0,
        "n": n,
        "stream": True,
    }
    request = urllib.request.Request(  # noqa: S310 - the user's own address
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    start, first = time.perf_counter(), 0.0
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        for line in answer:
            if not first and b'"content":"' in line and b'"content":""' not in line:
                first = time.perf_counter() - start
    return first, time.perf_counter() - start


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--words", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    found: dict[int, list[tuple[float, float]]] = {1: [], 8: []}
    for run in range(arguments.runs):
        for n, times in found.items():
            sizes = (arguments.words, arguments.tokens)
            times.append(timed(arguments.url, arguments.model, *sizes, n, 10 * run + n))
    medians = {
        n: [statistics.median(column) for column in zip(*times, strict=True)] for n, times in found.items()
    }
    for n, (first, whole) in medians.items():
        print(f"n={n}: first token {first:.2f} s, end {whole:.2f} s")
    print(f"n=8 takes {medians[8][1] / medians[1][1]:.2f} times as long as n=1")


if __name__ == "__main__":
    main()
