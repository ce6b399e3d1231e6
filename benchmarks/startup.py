"""Time from a process's start to its first healthy answer and first token, and its memory around a load.

usage: python benchmarks/startup.py [--runs N] [--model MODEL]
Prints a table with the median of the runs, and the machine.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEADLINE = 120.0


def ask(url: str, body: object = None) -> bytes:
    """One request, a POST if there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:  # noqa: S310
        content: bytes = answer.read()
        return content


def until_healthy(url: str, start: float) -> float:
    """Seconds from start to the first answer of /health."""
    while time.monotonic() - start < DEADLINE:
        try:
            ask(f"{url}/health")
            return time.monotonic() - start
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.005)
    raise TimeoutError(url)


def resident(process: psutil.Process) -> float:
    """MB of the process and its children."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6


def measure(command: list[str], port: int, model: str) -> dict[str, float]:
    """One start, one load, one more answer, one stop."""
    start = time.monotonic()
    server = subprocess.Popen(
        [*command, "--port", str(port), "--model", model],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        row = {"start to /health, s": until_healthy(url, start)}
        process = psutil.Process(server.pid)
        row["memory before the load, MB"] = resident(process)
        body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16}
        for name in ("first answer with the load, s", "second answer, s"):
            begin = time.monotonic()
            ask(f"{url}/v1/chat/completions", body)
            row[name] = time.monotonic() - begin
        row["memory after it, MB"] = resident(process)
        return row
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    """Measure both ways to start."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--port", type=int, default=8970)
    arguments = parser.parse_args()
    commands = {
        "python -m app serve": [sys.executable, "-m", "app", "serve"],
        "./start_api.sh": [str(ROOT / "start_api.sh")],
    }
    os.chdir(ROOT)
    for name, command in commands.items():
        rows = [measure(command, arguments.port, arguments.model) for _ in range(arguments.runs)]
        print(f"{name}, median of {arguments.runs}")
        for key in rows[0]:
            print(f"  {key:32} {statistics.median(row[key] for row in rows):8.2f}")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
