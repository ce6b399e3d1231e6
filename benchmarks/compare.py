"""Side by side with other servers, on one machine, in alternating runs: tokens/s and time to the first token.

usage: python benchmarks/compare.py --text FOLDER --vision FOLDER [--runs 3] [--out FILE]
           [--peer NAME=COMMAND …] [--also NAME=FLAGS …] [--points 1 8 …] [--flags "FLAGS OF OURS"]

A peer's COMMAND gets the model's folder and a port appended, serves the model on 127.0.0.1 and prints its
process id when it answers. --also is another server of ours, with other flags. All servers are started once;
peers that are not being measured are stopped by signal (ours has nothing to do then, and its arbiter would
take a stopped worker for a hung one).
Prints a table of medians with the ratio to ours, and appends every run to --out as JSON lines.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOAD = ROOT / "benchmarks" / "load.py"
OURS = "vlserve"
POINTS = {"text": (1, 8, 32), "vision": (1, 8, 16)}
START = 300.0  # seconds that a server may take to start


@dataclass
class Server:
    """A running server; `model` is its name for what it serves."""

    name: str
    url: str
    model: str
    process: psutil.Process
    plain: bool = False
    own: bool = False

    def pause(self, number: signal.Signals) -> None:
        """Stop or continue a peer."""
        if not self.own:
            self.signal(number)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all its children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in (*self.process.children(recursive=True), self.process):
                one.send_signal(number)


def ours(folder: str, port: int, flags: list[str], name: str = OURS) -> Server:
    """Our server, with the model loaded."""
    command = [sys.executable, "-m", "app", "serve", "--port", str(port), "--model", folder, *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
            headers = {"Content-Type": "application/json"}
            data = json.dumps(body).encode()
            request = urllib.request.Request(f"{url}/v1/chat/completions", data, headers)  # noqa: S310
            urllib.request.urlopen(request, timeout=START).read()  # noqa: S310 - our own server
            return Server(name, url, pathlib.Path(folder).name, psutil.Process(process.pid), own=True)
        time.sleep(0.2)
    raise RuntimeError("our server did not start")


def peer(name: str, command: str, folder: str, port: int) -> Server:
    """Another server, started by a command that prints its process id."""
    done = subprocess.run(
        [*shlex.split(command), folder, str(port)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=START,
        check=True,
    )
    plain = "transformers" in name
    model = folder if plain else "m"
    pid = int(done.stdout.split()[-1])
    return Server(name, f"http://127.0.0.1:{port}", model, psutil.Process(pid), plain)


@contextlib.contextmanager
def running(arguments: argparse.Namespace, kind: str) -> Iterator[list[Server]]:
    """All servers for a kind of model, stopped by signal until one is wanted."""
    folder = str(pathlib.Path(getattr(arguments, kind)).resolve())
    servers: list[Server] = []
    try:
        servers.append(ours(folder, 8701, shlex.split(arguments.flags)))
        for index, given in enumerate(arguments.also):
            name, _, flags = given.partition("=")
            servers.append(ours(folder, 8702 + index, shlex.split(flags), name))
        for index, given in enumerate(arguments.peer):
            name, _, command = given.partition("=")
            servers.append(peer(name, command, folder, 8711 + index))
            servers[-1].pause(signal.SIGSTOP)
        yield servers
    finally:
        for server in servers:
            server.signal(signal.SIGCONT)
            server.signal(signal.SIGTERM)


def load(
    server: Server, streams: int, arguments: argparse.Namespace, vision: bool, run: int
) -> dict[str, Any]:
    """One run of the load at a server, which runs for just so long; nothing of it was asked before."""
    command = [sys.executable, str(LOAD), server.url, server.model, str(streams), "64"]
    command += ["--seed", str(1000 * run + streams)]
    command += ["--image-size", "448"] if vision else []
    command += ["--plain"] if server.plain else []
    command += ["--requests", str(max(4, 2 * streams))]
    server.pause(signal.SIGCONT)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=900, check=True)
    finally:
        server.pause(signal.SIGSTOP)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def machine() -> str:
    """What this was measured on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{model}, {os.cpu_count()} cores"


def report(kind: str, rows: list[dict[str, Any]]) -> None:
    """Medians, and what ours is of each peer's."""
    names = list(dict.fromkeys(row["server"] for row in rows))
    print(f"\n{kind}: tokens/s (TTFT p50 in ms, ms between tokens); vlserve's share of it")
    for streams in sorted({row["streams"] for row in rows}):
        median = {
            name: {
                key: statistics.median(
                    row[key] for row in rows if row["server"] == name and row["streams"] == streams
                )
                for key in ("tok_s", "ttft_p50_ms", "itl_p50_ms")
            }
            for name in names
        }
        for name, found in median.items():
            speed = median[OURS]["tok_s"] / found["tok_s"]
            first = median[OURS]["ttft_p50_ms"] / found["ttft_p50_ms"]
            print(
                f"{streams:4} streams  {name:24} {found['tok_s']:7.1f} ({found['ttft_p50_ms']:8.1f} "
                f"{found['itl_p50_ms']:7.1f})  {speed:5.2f} x, TTFT {first:5.2f} x"
            )


def main() -> None:
    """Start all, measure in turn, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", help="folder of the text model")
    parser.add_argument("--vision", help="folder of the vision model")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FLAGS")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--points", type=int, nargs="+", help="streams at once, instead of the usual ones")
    parser.add_argument("--flags", default="", help="of our server")
    parser.add_argument("--out", type=pathlib.Path, help="file that every run is appended to")
    arguments = parser.parse_args()
    print(machine())
    for kind in ("text", "vision"):
        if not getattr(arguments, kind):
            continue
        rows: list[dict[str, Any]] = []
        with running(arguments, kind) as servers:
            for run in range(arguments.runs):
                for streams in arguments.points or POINTS[kind]:
                    for server in servers:
                        row = load(server, streams, arguments, kind == "vision", run)
                        row |= {"server": server.name, "kind": kind, "run": run, "machine": machine()}
                        rows.append(row)
                        print(json.dumps(row), flush=True)
                        if arguments.out:
                            with arguments.out.open("a", encoding="utf-8") as out:
                                out.write(json.dumps(row) + "\n")
        report(kind, rows)


if __name__ == "__main__":
    main()
