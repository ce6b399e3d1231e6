"""Load an OpenAI-compatible server with streamed chats; prints one line of JSON.

usage: python benchmarks/load.py URL MODEL STREAMS MAX_TOKENS [--requests N] [--words N] [--image-size PIXELS]
           [--same-image] [--seed N] [--plain]

`tok_s` counts the server's own usage.completion_tokens where the stream has it, else chunks with text
(--plain: without fields beyond OpenAI's). Times are in ms.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
from PIL import Image, ImageDraw

WORDS = ("model", "server", "image", "token", "stream", "cache", "thread", "memory", "python", "answer")


@dataclass
class Answer:
    """What became of one request."""

    ttft: float | None = None
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""


def picture(size: int, seed: str) -> str:
    """A square PNG with some discs, as a data: URL."""
    rng = random.Random(seed)
    image = Image.new("RGB", (size, size), (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, r = rng.randrange(size), rng.randrange(size), rng.randrange(size // 10, size // 3)
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def body(arguments: argparse.Namespace, number: int) -> dict[str, Any]:
    """The request of a number: always the same for the same seed and number."""
    rng = random.Random(f"{arguments.seed}/{number}")
    text = " ".join(rng.choice(WORDS) for _ in range(arguments.words)) + f" {number}"
    content: Any = text
    if arguments.image_size:
        url = picture(arguments.image_size, f"{arguments.seed}/{0 if arguments.same_image else number}")
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    request: dict[str, Any] = {
        "model": arguments.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": arguments.max_tokens,
        "temperature": 0.0,
        "stream": True,
    }
    if not arguments.plain:
        request |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
    return request


async def ask(client: httpx.AsyncClient, arguments: argparse.Namespace, number: int) -> Answer:
    """One streamed chat."""
    request = body(arguments, number)
    answer, last = Answer(), 0.0
    start = time.perf_counter()
    url = arguments.url.rstrip("/") + "/v1/chat/completions"
    async with client.stream("POST", url, json=request) as response:
        if response.status_code != 200:
            answer.error = f"{response.status_code} {(await response.aread())[:200]!r}"
            return answer
        async for line in response.aiter_lines():
            if not line.startswith("data:") or line[5:].strip() == "[DONE]":
                continue
            chunk = json.loads(line[5:])
            if chunk.get("error"):
                answer.error = str(chunk["error"])[:200]
                return answer
            texts = [(choice.get("delta") or {}).get("content") for choice in chunk.get("choices") or []]
            if any(texts):
                now = time.perf_counter()
                if answer.ttft is None:
                    answer.ttft = now - start
                else:
                    answer.gaps.append(now - last)
                last = now
                answer.tokens += bool(arguments.plain)
            if not arguments.plain and chunk.get("usage"):
                answer.tokens = chunk["usage"]["completion_tokens"]
    return answer


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All requests, so many at once."""
    total = arguments.requests or 2 * arguments.streams
    gate = asyncio.Semaphore(arguments.streams)
    async with httpx.AsyncClient(timeout=900, limits=httpx.Limits(max_connections=None)) as client:

        async def guarded(number: int) -> Answer:
            async with gate:
                try:
                    return await ask(client, arguments, number)
                except httpx.HTTPError as error:
                    return Answer(error=repr(error))

        start = time.perf_counter()
        answers = await asyncio.gather(*[guarded(number) for number in range(total)])
        wall = time.perf_counter() - start
    good = [answer for answer in answers if not answer.error]
    first = [answer.ttft for answer in good if answer.ttft is not None]
    gaps = [gap for answer in good for gap in answer.gaps]
    return {
        "streams": arguments.streams,
        "requests": total,
        "good": len(good),
        "tok_s": round(sum(answer.tokens for answer in good) / wall, 1),
        "ttft_p50_ms": at(first, 0.5),
        "ttft_p95_ms": at(first, 0.95),
        "itl_p50_ms": at(gaps, 0.5),
        "itl_p95_ms": at(gaps, 0.95),
        "errors": [answer.error for answer in answers if answer.error][:2],
    }


def at(values: list[float], share: float) -> float | None:
    """A quantile in ms."""
    ordered = sorted(values)
    place = min(len(ordered) - 1, int(share * len(ordered)))
    return round(1000 * ordered[place], 1) if ordered else None


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
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
