"""Hints for the vision tower while it is trained: what lies under each of its tokens, which the generator
knows exactly.

A linear probe on the tower's output is trained to say it. This teaches the tower to see several times
faster than the answers alone do. The probe is thrown away at the end; the shipped model is the plain
architecture.
"""

import math
import string

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from models.demo import fonts
from models.demo.palette import BACKGROUNDS, COLOURS, SHAPES
from models.demo.scenes import Item, Scene

IGNORED = -100
NONE = 0
SLOTS = 4  # letters of a token, from left to right
SHAPE_CLASSES = {name: index + 1 for index, name in enumerate([*SHAPES, "text"])}
COLOUR_CLASSES = {name: index + 1 for index, name in enumerate(COLOURS)}
SIZE_CLASSES = {"large": 1, "small": 2}
CELL_CLASSES = range(9)
GROUND_CLASSES = {name: index + 1 for index, name in enumerate([*BACKGROUNDS, "gradient"])}
LETTER_CLASSES = {letter: index + 1 for index, letter in enumerate(string.ascii_letters + string.digits)}
CLASSES: tuple[int, ...] = (
    len(SHAPE_CLASSES) + 1,
    len(COLOUR_CLASSES) + 1,
    len(SIZE_CLASSES) + 1,
    len(CELL_CLASSES) + 1,
    len(GROUND_CLASSES) + 1,
    *([len(LETTER_CLASSES) + 1] * SLOTS),
)
LETTER_WEIGHT = 3.0  # of letters, the hardest to tell
NONE_WEIGHT = 0.05  # of tokens where there is nothing to say, which are by far the most


def labels(scene: Scene, rows: int, columns: int) -> npt.NDArray[np.int64]:
    """What lies under each token of a picture, (rows · columns, heads); ``IGNORED`` everywhere for unknown
    pictures.
    """
    if not scene.known:
        return np.full((rows * columns, len(CLASSES)), IGNORED, np.int64)
    result = np.full((rows, columns, len(CLASSES)), NONE, np.int64)
    result[:, :, 4] = GROUND_CLASSES[scene.background]
    down, across = rows / scene.height, columns / scene.width  # tokens per pixel
    for item in scene.items:
        (x, y), (w, h) = item.centre, item.extent
        middle = min(rows - 1, max(0, int(y * down))), min(columns - 1, max(0, int(x * across)))
        first = max(0, math.ceil((y - h / 2) * down - 0.5)), max(0, math.ceil((x - w / 2) * across - 0.5))
        last = math.floor((y + h / 2) * down - 0.5), math.floor((x + w / 2) * across - 0.5)
        kind = SHAPE_CLASSES[item.shape], COLOUR_CLASSES[item.colour]
        said = (*kind, SIZE_CLASSES[item.size], item.cell + 1)
        result[first[0] : last[0] + 1, first[1] : last[1] + 1, :4] = said
        result[middle[0], middle[1], :4] = said
        if item.shape == "text":
            _spell(item, result, down, across)
    return result.reshape(rows * columns, -1)


def _spell(item: Item, result: npt.NDArray[np.int64], down: float, across: float) -> None:
    """Write each letter into the next free slot of the token under its middle."""
    pixels, path = item.font.split(":", 1)
    font = fonts.load(path, int(pixels))
    box = font.getbbox(item.text)
    angle = math.radians(item.angle)
    before = 0.0
    for index, letter in enumerate(item.text):
        after = font.getlength(item.text[: index + 1])
        offset = (before + after) / 2 - (box[0] + box[2]) / 2
        x, y = item.centre[0] + offset * math.cos(angle), item.centre[1] - offset * math.sin(angle)
        row = min(result.shape[0] - 1, max(0, int(y * down)))
        column = min(result.shape[1] - 1, max(0, int(x * across)))
        slots = result[row, column, 5:]
        free = np.flatnonzero(slots == NONE)
        if free.size:
            slots[free[0]] = LETTER_CLASSES[letter]
        before = after


class Probe(torch.nn.Module):
    """Says what lies under each token, from the tower's output (tokens, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(width, sum(CLASSES))
        weights = torch.ones(max(CLASSES))
        weights[NONE] = NONE_WEIGHT
        self._weights = weights

    def forward(self, features: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The summed cross-entropy (nats) of all hints, those of nothing with less weight."""
        scores = self.head(features).float().split(list(CLASSES), dim=1)
        losses = []
        for index, score in enumerate(scores):
            weights = self._weights[: score.shape[1]] * (LETTER_WEIGHT if index >= 5 else 1.0)
            target = wanted[:, index]
            loss = functional.cross_entropy(score, target, weights, reduction="sum", ignore_index=IGNORED)
            losses.append(loss)
        return torch.stack(losses).sum()


def mass(wanted: torch.Tensor) -> float:
    """By what the summed loss of hints (tokens, heads) is divided: about the number of those that say
    something.
    """
    something, nothing = int((wanted[:, 0] > 0).sum()), int((wanted[:, 0] == 0).sum())
    return len(CLASSES) * max(1.0, something + NONE_WEIGHT * nothing)
