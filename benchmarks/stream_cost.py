"""What a token costs between generate() and the client's bytes, early and late in a long answer.

usage: python benchmarks/stream_cost.py [TOKENIZER_FOLDER]
Pushes 8000 tokens of text through TokenStream, and the same through transformers' TextIteratorStreamer, and
prints microseconds a token over the first and the last 500; then the cost of chunk and SSE bytes.
"""

import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.engine import torchvision_cpu  # noqa: E402

torchvision_cpu.prepare()

import torch  # noqa: E402
from transformers import AutoTokenizer, TextIteratorStreamer  # noqa: E402

from app.engine.generate import TokenStream  # noqa: E402
from app.services import wire  # noqa: E402

TOKENS, PART = 8000, 500
TEXT = "There is a large red circle at the top left, and 三个小的蓝色方块 on the right 😀. "


def timed(put: Callable[[Any], None], ids: list[int]) -> tuple[float, float]:
    """Microseconds a token over the first and the last part."""
    stamps = [time.perf_counter()]
    for token in ids:
        put(torch.tensor([token]))
        stamps.append(time.perf_counter())
    return 1e6 * (stamps[PART] - stamps[0]) / PART, 1e6 * (stamps[-1] - stamps[-1 - PART]) / PART


def main() -> None:
    """Print the table."""
    folder = sys.argv[1] if len(sys.argv) > 1 else ROOT / "models" / "demo" / "weights"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(TEXT * TOKENS, add_special_tokens=False)[:TOKENS]
    ours = TokenStream(tokenizer, frozenset(), prompt_tokens=1)
    theirs = TextIteratorStreamer(tokenizer, skip_prompt=True)
    for name, streamer in (("TokenStream", ours), ("TextIteratorStreamer", theirs)):
        streamer.put(torch.tensor([[0]]))
        first, last = timed(streamer.put, ids)
        print(f"{name:22} first {PART}: {first:7.1f} µs a token, last {PART} of {TOKENS}: {last:7.1f}")
    chat = wire.ChatWire("chatcmpl-0", 0, "demo")
    start = time.perf_counter()
    for _ in range(TOKENS):
        wire.encode(chat.delta(" circle")).encode()
    print(f"{'chunk and JSON':22} {1e6 * (time.perf_counter() - start) / TOKENS:7.1f} µs a token")


if __name__ == "__main__":
    main()
