"""Steps of the batch loop without HTTP: how long, who takes what, and the memory's own speed beside it.

usage: python benchmarks/steps.py FOLDER [--rows 1 8 32] [--at 100 4000] [--quantization int8] [--profile]

A row is a sequence with one new token. The floor is the time to read the weights' files once (half of them
for int8) at the speed that the memory shows in the same run; right for tied embeddings.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.engine import loader
from app.engine.types import ModelSpec

STEPS = 20
KINDS = {
    "products": ("linear", "mm", "qlinear", "matmul"),
    "attention": ("scaled_dot", "flash", "softmax", "bmm"),
    "KV cache": ("index_copy", "index_select"),
    "choosing": ("max", "topk", "logsumexp", "argmax"),
}


def median(work: Callable[[], Any], count: int = STEPS) -> float:
    """Median seconds of some work, after three tries that are not counted."""
    times = []
    for _ in range(count + 3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def memory_speed() -> float:
    """Bytes a second that all cores together read."""
    import torch

    many = torch.ones(2**26)
    return many.numel() * many.element_size() / median(many.sum, 10)


class Bench:
    """A loaded model's decoder and cache, without its loop."""

    def __init__(self, folder: str, quantization: str) -> None:
        spec = ModelSpec("bench", str(Path(folder).resolve()), quantization=quantization)
        self.engine: Any = loader.load(spec, lambda what, share: None, max_concurrent=32)
        loop = vars(self.engine)["_loop"]
        if loop is None:
            raise SystemExit("this model is not batched")
        self.decoder, self.cache = loop._decoder, loop._cache
        self.weights = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))

    def fill(self, tokens: int) -> None:
        """Write to the cache: memory that never was is one page of zeros, however much is read of it."""
        self.cache.store[:, :tokens].uniform_(-1, 1)

    def step(self, rows: int, done: int) -> None:
        """A decode step of so many rows, each with so many tokens before, and the greedy choice."""
        stride = min(done + 64, self.cache.tokens // rows)
        tokens = self.decoder.embedder.tokens([5 + row for row in range(rows)], [done] * rows)
        places = [(row * stride, done) for row in range(rows)]
        logits = self.decoder.forward(places, tokens, [], 0, self.cache)
        logits.max(dim=-1)[1].tolist()

    def prefill(self, count: int) -> None:
        """A prompt of so many tokens in one chunk."""
        from app.engine.decoder import Chunk

        some = self.decoder.embedder
        chunk = Chunk(0, 0, some.tokens([5 + place % 1000 for place in range(count)], range(count)))
        self.decoder.forward([], some.tokens([], []), [chunk], 1, self.cache)


def profile(bench: Bench, rows: int) -> None:
    """Print the share of each kind of operator in a step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(5):
            bench.step(rows, 100)
    shares: dict[str, float] = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for event in found.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), "")
        shares[kind or "everything else"] += event.self_cpu_time_total
    whole = sum(shares.values())
    print(
        f"  {rows} rows: "
        + ", ".join(f"{kind} {100 * share / whole:.0f} %" for kind, share in shares.items())
    )


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--at", type=int, nargs="+", default=[100], help="tokens before, a table each")
    parser.add_argument("--quantization", choices=("none", "int8"), default="none")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(arguments.folder, arguments.quantization)
    import torch

    with torch.inference_mode():
        speed = memory_speed()
        size = bench.weights * (0.5 if arguments.quantization == "int8" else 1.0)
        floor = f"floor {1e3 * size / speed:.1f} ms"
        print(f"memory {speed / 1e9:.1f} GB/s, a step reads {size / 1e9:.2f} GB: {floor}")
        for done in arguments.at:
            bench.fill(max(arguments.rows) * (done + 64))
            for rows in arguments.rows:
                seconds = median(lambda rows=rows, done=done: bench.step(rows, done))  # type: ignore[misc]
                print(f"{rows:4} rows at {done}: {1e3 * seconds:7.1f} ms, {rows / seconds:7.1f} tokens/s")
        for count in (128, 1024):
            seconds = median(lambda count=count: bench.prefill(count), 3)  # type: ignore[misc]
            print(f"prefill of {count}: {count / seconds:.0f} tokens/s")
        if arguments.profile:
            for rows in arguments.rows:
                profile(bench, rows)
    bench.engine.close()


if __name__ == "__main__":
    main()
