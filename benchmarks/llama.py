"""One stream beside llama.cpp: our server through HTTP, llama.cpp by itself in a process of its own.

usage: python -m benchmarks.llama MODEL_FOLDER GGUF [--python PYTHON] [--runs 3] [--flags "FLAGS OF OURS"]

GGUF is the same model in llama.cpp's format; PYTHON the interpreter of an environment with llama-cpp-python.
Both answer prompts of 60 words with 64 tokens, in turn; prints medians: tokens/s after the first token,
and the time to the first.
"""

import argparse
import json
import shlex
import signal
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.compare import load, machine, ours

THEIRS = """
import json, sys, time
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=2048, n_threads=2, n_threads_batch=2, verbose=False)
words = "model server image token stream cache thread memory python answer".split()
for seed in sys.argv[2:]:
    prompt = " ".join(words[(7 * index + int(seed) * (index % 5)) % 10] for index in range(60)) + seed
    model.reset()
    start, stamps = time.perf_counter(), []
    for _ in model.create_completion(prompt, max_tokens=64, temperature=0, stream=True, logit_bias=None):
        stamps.append(time.perf_counter())
    speed = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    print(json.dumps({"ttft_p50_ms": 1000 * (stamps[0] - start), "speed": speed}))
"""


def theirs(python: str, file: str, run: int) -> list[dict[str, Any]]:
    """A few answers of llama.cpp; the first, which warms it up, is not among them."""
    seeds = [str(10 * run + index) for index in range(4)]
    command = [python, "-c", THEIRS, file, *seeds]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()[1:]]


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("gguf")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--flags", default="", help="of our server")
    arguments = parser.parse_args()
    print(machine())
    server = ours(arguments.model, 8701, shlex.split(arguments.flags))
    options = argparse.Namespace()
    found: dict[str, list[dict[str, Any]]] = {"vlserve": [], "llama.cpp": []}
    try:
        for run in range(arguments.runs):
            row = load(server, 1, options, vision=False, run=run)
            found["vlserve"].append(row | {"speed": 1000 / row["itl_p50_ms"]})
            found["llama.cpp"] += theirs(arguments.python, arguments.gguf, run)
    finally:
        server.signal(signal.SIGTERM)
    medians = {
        name: [statistics.median(row[key] for row in rows) for key in ("speed", "ttft_p50_ms")]
        for name, rows in found.items()
    }
    for name, (speed, first) in medians.items():
        print(f"{name:10} {speed:6.1f} tokens/s between the first and the last, TTFT {first:6.0f} ms")
    print(f"{medians['vlserve'][0] / medians['llama.cpp'][0]:.2f} times llama.cpp's speed")


if __name__ == "__main__":
    main()
