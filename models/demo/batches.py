"""Endless batches of training examples, drawn ahead in a worker process. A batch is a function of seed and
number.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset

from models.demo.curriculum import lesson
from models.demo.dialogues import DialogueSampler
from models.demo.encode import Encoder, Example

PART = 8  # dialogues that are computed together on one core
MAX_TOKENS = 420  # of a dialogue; longer ones are drawn anew


@dataclass
class Batch:
    """Dialogues one after another in one row. Shapes: tokens, answer, visual (row,); positions (3, row);
    patches (patches, 1536) in 0..255; grids (pictures, 3); hints (visual tokens, columns)."""

    tokens: torch.Tensor
    answer: torch.Tensor
    positions: torch.Tensor
    visual: torch.Tensor
    patches: torch.Tensor
    grids: torch.Tensor
    lengths: list[int]
    frames: list[int]
    hints: torch.Tensor


def collate(examples: list[Example]) -> Batch:
    """Put examples one after another."""
    grids = [grid for example in examples for grid in example.grids]
    return Batch(
        tokens=torch.from_numpy(np.concatenate([example.tokens for example in examples])),
        answer=torch.from_numpy(np.concatenate([example.answer for example in examples])),
        positions=torch.from_numpy(np.concatenate([example.positions for example in examples], axis=1)),
        visual=torch.from_numpy(np.concatenate([example.visual for example in examples])),
        patches=torch.from_numpy(np.concatenate([example.patches for example in examples])),
        grids=torch.tensor(grids, dtype=torch.long).reshape(-1, 3),
        lengths=[len(example.tokens) for example in examples if len(example.tokens)],
        frames=[height * width for count, height, width in grids for _ in range(count)],
        hints=torch.from_numpy(np.concatenate([example.hints for example in examples])),
    )


class Batches(IterableDataset[list[Batch]]):
    """Batch after batch, from batch number ``start`` of ``steps``, which decide the lessons."""

    def __init__(self, tokenizer_json: str, seed: int, size: int, steps: int, start: int = 0) -> None:
        self._tokenizer_json = tokenizer_json
        self._seed, self._size, self._steps, self._start = seed, size, steps, start

    def __iter__(self) -> Iterator[list[Batch]]:
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer ends this process
        encoder = Encoder(Tokenizer.from_str(self._tokenizer_json))
        number = self._start
        while True:
            yield self.batch(encoder, number)
            number += 1

    def batch(self, encoder: Encoder, number: int) -> list[Batch]:
        """The batch of a number, in parts: always the same for the same seed and fonts."""
        progress = number / self._steps
        sampler = DialogueSampler(f"{self._seed}/{number}", progress=progress)
        examples: list[Example] = []
        wanted = lesson(progress)
        while wanted.kinds and len(examples) < self._size:
            example = encoder.encode(sampler.draw())
            if len(example.tokens) <= MAX_TOKENS:
                examples.append(example)
        scenes = DialogueSampler(f"{self._seed}/{number}/crowd").scenes
        crowd = [encoder.crowd(scenes.crowded(wanted.crowd_words)) for _ in range(wanted.crowd)]
        examples.sort(key=lambda example: -len(example.tokens))  # similar lengths are padded least
        return [
            collate(some[first : first + PART])
            for some in (examples, crowd)
            for first in range(0, len(some), PART)
        ]


def loader(tokenizer_json: str, seed: int, size: int, steps: int, start: int) -> Iterator[list[Batch]]:
    """Batches from one worker process that draws ahead."""
    source = Batches(tokenizer_json, seed, size, steps, start)
    return iter(
        DataLoader(source, batch_size=None, num_workers=1, prefetch_factor=12, persistent_workers=False)
    )
