"""What HTTP, JSON, server-sent events and detokenising take beside the model, while many streams run.

usage: python benchmarks/http_share.py FOLDER [--streams 32] [--requests 64] [--tokens 64]

Starts the server, loads it with benchmarks/load.py, and reads the processor time of the worker's threads from
/proc: the batch loop and the model's other threads are as many as there are cores, and the busiest; all other
threads are the rest of the server. Linux only.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import compare
import psutil

TICKS = os.sysconf("SC_CLK_TCK")


def thread_seconds(pid: int) -> dict[int, float]:
    """Processor seconds that each thread of a process has used."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        found[int(task.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    return found


def main() -> None:
    """Start, load, read, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    server = compare.ours(str(pathlib.Path(arguments.folder).resolve()), 8701, [])
    try:
        (worker,) = server.process.children()
        before, cpu = thread_seconds(worker.pid), worker.cpu_times()
        command = [sys.executable, str(compare.LOAD), server.url, server.model]
        command += [str(arguments.streams), str(arguments.tokens), "--requests", str(arguments.requests)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=900, check=True)
        after = thread_seconds(worker.pid)
        whole = sum(worker.cpu_times()[:2]) - sum(cpu[:2])  # threads that have ended are in it
    finally:
        server.process.terminate()
    used = sorted((after[task] - before.get(task, 0.0) for task in after), reverse=True)
    model = sum(used[: psutil.cpu_count()])
    tokens = arguments.requests * arguments.tokens
    print(json.loads(done.stdout.strip().splitlines()[-1]))
    print(f"{whole:.1f} s of processor time, of which {model:.1f} s in the model's threads")
    print(f"the rest: {100 * (whole - model) / whole:.1f} %, {1e6 * (whole - model) / tokens:.0f} µs a token")


if __name__ == "__main__":
    main()
