"""What a grammar costs: compiling it, and each token's mask, for a small and for a large vocabulary.

usage: python benchmarks/grammar.py [--tokens 150000] [--tokenizer FOLDER_OR_FILE]

Without --tokenizer the large vocabulary is trained on the Python files of this environment (minutes, once:
it is kept beside the results). Random tokens are drawn from each mask, so the figures do not depend on a
model. Prints a table in ms: compiling (the check in the other process included), then the first, the mean,
the 99th percentile and the longest time of a token, mask and its use on the logits included.
"""

import argparse
import json
import pathlib
import platform
import statistics
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import transformers  # noqa: E402

from app.engine.grammar import Grammars  # noqa: E402
from app.engine.types import Grammar  # noqa: E402

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mail": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5},
    },
    "required": ["name", "age", "mail", "tags"],
    "additionalProperties": False,
}
GRAMMARS = {
    "any object": Grammar("json", '{"type": "object"}', ""),
    "a person": Grammar("json", json.dumps(PERSON), ""),
    "100 optional properties": Grammar(
        "json",
        json.dumps({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(100)}}),
        "",
    ),
    "a choice of 1000": Grammar("choice", json.dumps([f"value number {n}" for n in range(1000)]), ""),
    "an expression": Grammar("regex", r"[A-Z][a-z]{2,20}( [A-Z][a-z]{2,20}){0,30}", ""),
}
ROUNDS, TOKENS = 8, 60
END = "<|im_end|>"


def large(size: int) -> Any:
    """A byte-level BPE of so many tokens, trained once."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    kept = ROOT / "benchmarks" / "results" / f"vocabulary-{size}.json"
    if not kept.exists():
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        files = [str(file) for file in pathlib.Path(sys.prefix).rglob("*.py")]
        made.train(files, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
        made.add_special_tokens([END])
        made.save(str(kept))
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(kept), eos_token=END)


def measure(grammars: Grammars, grammar: Grammar, width: int, stop: int) -> tuple[float, list[float]]:
    """Seconds of compiling, and of each token."""
    start = time.perf_counter()
    grammars.guide(grammar)
    compiling = time.perf_counter() - start
    generator, times = torch.Generator().manual_seed(0), []
    for _ in range(ROUNDS):
        guide, ids = grammars.guide(grammar), torch.zeros((1, 5), dtype=torch.long)
        for _ in range(TOKENS):
            scores = torch.randn((1, width), generator=generator)
            start = time.perf_counter()
            scores = guide(ids, scores)
            times.append(time.perf_counter() - start)
            token = int(scores.argmax())
            if token == stop:
                break
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return compiling, times


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--tokenizer")
    given = parser.parse_args()
    auto: Any = transformers.AutoTokenizer
    if given.tokenizer and given.tokenizer.endswith(".json"):
        big = transformers.PreTrainedTokenizerFast(tokenizer_file=given.tokenizer, eos_token=END)
    else:
        big = auto.from_pretrained(given.tokenizer) if given.tokenizer else large(given.tokens)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, times in ms")
    for tokenizer in (auto.from_pretrained(ROOT / "models" / "demo" / "weights"), big):
        grammars = Grammars(tokenizer, frozenset({tokenizer.eos_token_id}))
        start = time.perf_counter()
        grammars.guide(Grammar("regex", "a", ""))
        ready = 1000 * (time.perf_counter() - start)
        print(f"\n{len(tokenizer)} tokens; the first grammar of all takes {ready:.0f}")
        print("| grammar | compile | first | mean | p99 | max |\n|---|---|---|---|---|---|")
        for name, grammar in GRAMMARS.items():
            compiling, times = measure(grammars, grammar, len(tokenizer), tokenizer.eos_token_id)
            longest = sorted(times)
            row = (compiling, times[0], statistics.mean(times), longest[int(0.99 * len(times))], longest[-1])
            print(f"| {name} | " + " | ".join(f"{1000 * value:.2f}" for value in row) + " |")
        grammars.close()


if __name__ == "__main__":
    main()
