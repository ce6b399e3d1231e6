"""What pictures and clips cost the server's memory: the peak of large ones, and what is left of many.

    python benchmarks/media.py --requests 2000

First the worker's peak for a clip of 60 seconds in 1080p, for a picture of 10000 × 10000 pixels, which is
refused, and for one that is taken. Then requests with pictures that are all different, on a small KV cache,
and what the worker holds after each quarter of them. The caches of pictures are full after half of 2000 (64
MiB of prepared ones, 256 MiB of features): exits with 1 if memory grows after that.
"""

import argparse
import base64
import io
import random
import sys
import threading
from typing import Any

import av
import numpy as np
import psutil
import requests
from PIL import Image
from soak import MEGABYTE, PATH, serving

FLAGS = ("--kv-cache-gb", "0.05", "--max-concurrent", "4")
GROWTH = 24
"""MiB by which the last quarter may differ from the one before."""


def clip(seconds: int = 60, rate: int = 24) -> bytes:
    """A clip of 1920 × 1080 in which a square moves."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream: Any = output.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for number in range(seconds * rate):
            frame = np.full((1080, 1920, 3), 255, np.uint8)
            frame[400:600, number : number + 200] = (255, 0, 0)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def peak(url: str, worker: psutil.Process, name: str, data: bytes, status: int) -> bool:
    """Upload a file and print by how much the worker's memory rose; whether the answer is right."""
    with open(f"/proc/{worker.pid}/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak is now what is held now
    before = worker.memory_info().rss
    answer = requests.post(
        f"{url}/v1/media/describe", files={"file": data}, data={"prompt": "What is this?"}, timeout=300
    )
    with open(f"/proc/{worker.pid}/status", encoding="ascii") as file:
        highest = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    rise = (highest - before) / MEGABYTE
    taken = answer.elapsed.total_seconds()
    print(f"{name:28} {len(data) / MEGABYTE:5.1f} MiB, {answer.status_code}, {taken:5.2f} s, ", end="")
    print(f"{before / MEGABYTE:.0f} MiB before, {rise:.0f} more at the peak", flush=True)
    return answer.status_code == status


def pictures(chance: random.Random, count: int) -> dict[str, Any]:
    """A request with pictures that nobody has sent before."""
    parts: list[dict[str, Any]] = []
    for _ in range(count):
        small = Image.frombytes("RGB", (12, 12), chance.randbytes(432))
        image = small.resize((160, 160), Image.Resampling.NEAREST)
        url = f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    parts.append({"type": "text", "text": "What is in these pictures?"})
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 4}


def send(url: str, seeds: range, each: int, wrong: list[str]) -> None:
    """So many requests, one after another."""
    for seed in seeds:
        answer = requests.post(url + PATH, json=pictures(random.Random(seed), each), timeout=300)
        if answer.status_code != 200:
            wrong.append(f"{answer.status_code}: {answer.text[:200]}")


def level(url: str, worker: psutil.Process, count: int, each: int, clients: int) -> bool:
    """Send the requests, print what the worker holds after each quarter; whether all went well."""
    wrong: list[str] = []
    held = []
    for quarter in range(4):
        first, last = quarter * count // 4, (quarter + 1) * count // 4
        threads = [
            threading.Thread(target=send, args=(url, range(first + client, last, clients), each, wrong))
            for client in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held.append(worker.memory_info().rss / MEGABYTE)
        print(f"after {last:5} requests, {last * each:6} pictures: {held[-1]:.0f} MiB", flush=True)
    print("wrong:", wrong[0] if wrong else "nothing")
    return not wrong and held[3] < held[2] + GROWTH


def main() -> int:
    """Start a server, measure it, end it."""
    parser = argparse.ArgumentParser(description="What pictures and clips cost the server's memory.")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--pictures", type=int, default=8, help="in each of them")
    parser.add_argument("--clients", type=int, default=4)
    asked = parser.parse_args()
    with serving(*FLAGS) as (url, worker, _):
        requests.post(url + PATH, json=pictures(random.Random(-1), 1), timeout=300).raise_for_status()
        well = peak(url, worker, "a clip of 60 s, 1920 × 1080", clip(), 200)
        well &= peak(url, worker, "10000 × 10000, refused", png(Image.new("RGB", (10_000, 10_000))), 400)
        well &= peak(url, worker, "8000 × 8000", png(Image.new("RGB", (8000, 8000))), 200)
        well &= level(url, worker, asked.requests, asked.pictures, asked.clients)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
