"""Mixed load with faults on a server of its own: what it holds idle, warm and after, and what it answered.

    python benchmarks/soak.py --seconds 600

Clients ask for text and pictures, whole and streamed; others vanish, read nothing, send garbage or
bodies that are too large; now and then 200 ask at once. Exits with 1 if anything was answered otherwise than
it should have been, or if threads, files, places or memory are lost.
"""

import argparse
import base64
import collections
import contextlib
import io
import json
import os
import pathlib
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import requests
from PIL import Image, ImageDraw

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = ("--max-concurrent", "8", "--max-queue", "32", "--kv-cache-gb", "0.03")
"""A small KV cache, so that it is full before the first figures are taken."""
WARM_UP = 0.3
"""Of the time, before the first figures: caches fill, and the pool begins all of its threads."""
PATH = "/v1/chat/completions"
BURST = 200
MEGABYTE = 2**20
LIMITS = {"RSS, MiB": 64.0, "threads": 2, "files": 2, "places taken": 0, "5xx": 0}
"""By how much each may grow: allocators keep some of what bursts needed."""


@dataclass
class Load:
    """The clients and what they have seen; a status of 0 is a connection that ended without an answer."""

    url: str
    statuses: collections.Counter[tuple[str, int]] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self, seed: float) -> None:
        """Ask in random ways until told to stop."""
        rng = random.Random(seed)
        kinds = (self.whole, self.streamed, self.picture, self.vanish, self.unread, self.garbage, self.huge)
        while not self.stop.is_set():
            kind = rng.choices(kinds, (6, 6, 3, 4, 1, 3, 1))[0]
            self.attempt(kind.__name__, kind, rng)

    def attempt(self, name: str, kind: object, rng: random.Random) -> None:
        """One request; what it should not have got is kept."""
        try:
            status, allowed = kind(rng)  # type: ignore[operator]
        except (OSError, requests.RequestException) as error:
            status, allowed = 0, ()
            self.wrong.append(f"{name}: {error!r}"[:300])
        self.statuses[name, status] += 1
        if status and status not in allowed:
            self.wrong.append(f"{name}: {status}")

    def whole(self, rng: random.Random) -> tuple[int, tuple[int, ...]]:
        return self._post(text(rng)), (200, 429)

    def picture(self, rng: random.Random) -> tuple[int, tuple[int, ...]]:
        return self._post(picture(rng)), (200, 429)

    def streamed(self, rng: random.Random) -> tuple[int, tuple[int, ...]]:
        body = text(rng) | {"stream": True}
        with requests.post(self.url + PATH, json=body, stream=True, timeout=300) as answer:
            last = b"".join(answer.iter_content(None))[-14:]
        if answer.ok and last != b"data: [DONE]\n\n":
            raise OSError(f"a stream ended with {last!r}")
        return answer.status_code, (200, 429)

    def vanish(self, rng: random.Random) -> tuple[int, tuple[int, ...]]:
        connection = self._send(text(rng) | {"stream": rng.random() < 0.7, "max_tokens": 200})
        connection.settimeout(rng.random())
        with contextlib.suppress(OSError):
            connection.recv(rng.randint(1, 2000))
        if rng.random() < 0.5:  # a reset and not an end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        return 1, (1,)

    def unread(self, rng: random.Random) -> tuple[int, tuple[int, ...]]:
        connection = self._send(text(rng) | {"stream": True, "max_tokens": 100, "logprobs": True})
        self.stop.wait(8)
        connection.close()
        return 1, (1,)

    def garbage(self, rng: random.Random) -> tuple[int, tuple[int, ...]]:
        kind = rng.randrange(4)
        if kind == 0:
            connection = self._connect()
            connection.sendall(rng.randbytes(rng.randint(1, 3000)) + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                connection.recv(4096)
            connection.close()
            return 1, (1,)
        data = (b"[" * 50_000, b'{"messages": [{"role": "user", "cont', b'{"messages": 3, "n": 1e999}')[
            kind - 1
        ]
        sent = requests.post(
            self.url + PATH, data=data, headers={"Content-Type": "application/json"}, timeout=300
        )
        return sent.status_code, (400,)

    def huge(self, rng: random.Random) -> tuple[int, tuple[int, ...]]:
        data = b" " * (17 * MEGABYTE)
        headers = {"Content-Type": "application/json"}
        return requests.post(self.url + PATH, data=data, headers=headers, timeout=300).status_code, (413,)

    def burst(self, rng: random.Random) -> None:
        """200 requests at once, of which 40 have a place."""
        threads = [
            threading.Thread(target=self.attempt, args=("burst", self.whole, random.Random(rng.random())))
            for _ in range(BURST)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _post(self, body: dict[str, object]) -> int:
        return requests.post(self.url + PATH, json=body, timeout=300).status_code

    def _connect(self) -> socket.socket:
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def _send(self, body: dict[str, object]) -> socket.socket:
        data = json.dumps(body).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection = self._connect()
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return connection


def text(rng: random.Random) -> dict[str, object]:
    """A short question."""
    words = rng.choice(("hello", "Who are you?", "你好", "What can you see? " * 10))
    return {"messages": [{"role": "user", "content": words}], "max_tokens": rng.randint(1, 24)}


def picture(rng: random.Random) -> dict[str, object]:
    """A question about a drawn shape."""
    image = Image.new("RGB", (rng.choice((224, 448)), 224), "white")
    ImageDraw.Draw(image).ellipse((50, 50, 150, 150), fill=rng.choice(("red", "blue", "green")))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 12}


def held(url: str, worker: psutil.Process) -> dict[str, float]:
    """What the server holds."""
    scrape = requests.get(f"{url}/metrics", timeout=60).text
    inside = re.search(r"^vlserve_active_generations (\S+)", scrape, re.MULTILINE)
    failed = re.findall(r'^vlserve_requests_total\{.*status="5\d\d"\} (\S+)', scrape, re.MULTILINE)
    return {
        "RSS, MiB": round(worker.memory_info().rss / MEGABYTE),
        "threads": worker.num_threads(),
        "files": worker.num_fds(),
        "places taken": float(inside[1]) if inside else -1,
        "5xx": sum(map(float, failed)),
    }


def settled(url: str, worker: psutil.Process, files: float = 0) -> dict[str, float]:
    """What it holds when all have left and closed; waits for that for a minute at most."""
    for _ in range(60):
        now = held(url, worker)
        if now["places taken"] == 0 and (not files or now["files"] <= files):
            break
        time.sleep(1)
    return now


def run(load: Load, seconds: float, clients: int) -> float:
    """Some time of load with a burst every 30 s; how long the slowest /health took, in seconds."""
    threads = [threading.Thread(target=load.client, args=(random.random(),)) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    slowest, burst = 0.0, 0.0
    while (passed := time.monotonic() - began) < seconds:
        asked = time.monotonic()
        requests.get(f"{load.url}/health", timeout=60).raise_for_status()
        slowest = max(slowest, time.monotonic() - asked)
        if passed >= burst:
            load.burst(random.Random(passed))
            burst += 30
        time.sleep(1)
    load.stop.set()
    for thread in threads:
        thread.join(310)
    return slowest


def soak(url: str, worker: psutil.Process, seconds: float, clients: int) -> bool:
    """Load the server and print what came of it; whether all is well."""
    load = Load(url)
    for body in (text, picture):  # the model is loaded, and nothing else has happened
        load._post(body(random.Random(0)))
    idle = settled(url, worker)
    began = time.monotonic()
    slowest = run(load, WARM_UP * seconds, clients)
    before = settled(url, worker)
    load.stop.clear()
    slowest = max(slowest, run(load, (1 - WARM_UP) * seconds, clients))
    after = settled(url, worker, before["files"] + 2)
    for (name, status), count in sorted(load.statuses.items()):
        print(f"{name:10} {'left' if status == 1 else status or 'no answer':>9} {count:7}")
    print(f"{sum(load.statuses.values())} requests in {time.monotonic() - began:.0f} s, ", end="")
    print(f"{clients} clients; /health {slowest:.2f} s at the slowest")
    print(f"{'':14} {'idle':>8} {'warm':>8} {'after':>8}")
    for name in before:
        print(f"{name:14} {idle[name]:8g} {before[name]:8g} {after[name]:8g}")
    for problem in load.wrong[:10]:
        print("wrong:", problem)
    lost = [name for name, most in LIMITS.items() if after[name] > before[name] + most]
    print("lost:", ", ".join(lost) or "nothing")
    return not lost and not load.wrong


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[tuple[str, psutil.Process, pathlib.Path]]:
    """A server with these flags: its address, its worker, its log. It is ended with the block."""
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "log"
        with log.open("w", encoding="utf-8") as sink:
            server = subprocess.Popen(
                [sys.executable, "-m", "app", "serve", *flags, "--port=0", f"--database={folder}/vlserve.db"],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if not name.startswith("VLSERVE_")},
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            address, pid = _started(server, log)
            yield address, psutil.Process(pid), log
        finally:
            server.send_signal(signal.SIGTERM)
            print("exit code of the server:", server.wait(60))


def _started(server: subprocess.Popen[bytes], log: pathlib.Path) -> tuple[str, int]:
    """The server's address and its worker's process id; raises RuntimeError if it does not start."""
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        lines = log.read_text(encoding="utf-8")
        address, pid = re.search(r"on (http://\S+)", lines), re.search(r"worker with pid: (\d+)", lines)
        if address and pid:
            return address[1], int(pid[1])
        time.sleep(0.1)
    raise RuntimeError(log.read_text(encoding="utf-8"))


def main() -> int:
    """Start a server, soak it, end it."""
    parser = argparse.ArgumentParser(description="Mixed load with faults on a server of its own.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=12)
    about = "MiB by which it may grow; of a short run more, since allocators are level late"
    parser.add_argument("--memory", type=float, default=LIMITS["RSS, MiB"], help=about)
    asked = parser.parse_args()
    LIMITS["RSS, MiB"] = asked.memory
    with serving(*FLAGS) as (address, worker, log):
        well = soak(address, worker, asked.seconds, asked.clients)
        if "Traceback" in log.read_text():
            print("wrong: a traceback in the log\n", log.read_text().partition("Traceback")[2][:3000])
            well = False
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
