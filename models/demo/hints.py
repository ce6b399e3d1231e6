"""Hints for the vision tower while it is trained: what lies under each of its tokens, which the generator
knows exactly.

Linear probes on the tower's outputs are trained to say it: names, the outline within the token, and the
outline of the whole object that the token belongs to, both without colours. This teaches the tower to see
many times faster than the answers alone do. The probes are thrown away at the end; the shipped model is the
plain architecture.
"""

import math
import string

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from models.demo import fonts
from models.demo.draw import draw_mask
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
TOKEN_SIDE = 16  # cells of the outline within a token, which is 32 × 32 pixels
WHOLE_SIDE = 12  # cells of the outline of a whole object
COLUMNS = len(CLASSES), TOKEN_SIDE**2, WHOLE_SIDE**2
TOKEN_WEIGHT, WHOLE_WEIGHT = 10.0, 4.0  # of the outlines' losses
LETTER_WEIGHT = 3.0  # of letters, the hardest to tell
NONE_WEIGHT = 0.05  # of tokens where there is nothing to say, which are by far the most


def labels(scene: Scene, rows: int, columns: int) -> npt.NDArray[np.int16]:
    """What lies under each token of a picture, (rows · columns, sum(COLUMNS)): the classes, then the cells
    (0..255) of the two outlines; the classes are ``IGNORED`` everywhere for unknown pictures.
    """
    names, within, whole = COLUMNS
    result = np.zeros((rows, columns, names + within + whole), np.int16)
    if not scene.known:
        result[:, :, :names] = IGNORED
        return result.reshape(rows * columns, -1)
    result[:, :, 4] = GROUND_CLASSES[scene.background]
    mask = draw_mask(scene)
    cells = mask.resize((columns * TOKEN_SIDE, rows * TOKEN_SIDE), Image.Resampling.BOX)
    tokens = np.asarray(cells).reshape(rows, TOKEN_SIDE, columns, TOKEN_SIDE).transpose(0, 2, 1, 3)
    result[:, :, names : names + within] = tokens.reshape(rows, columns, within)
    down, across = rows / scene.height, columns / scene.width  # tokens per pixel
    for item in scene.items:
        (x, y), (w, h) = item.centre, item.extent
        middle = min(rows - 1, max(0, int(y * down))), min(columns - 1, max(0, int(x * across)))
        first = max(0, math.ceil((y - h / 2) * down - 0.5)), max(0, math.ceil((x - w / 2) * across - 0.5))
        last = math.floor((y + h / 2) * down - 0.5), math.floor((x + w / 2) * across - 0.5)
        kind = SHAPE_CLASSES[item.shape], COLOUR_CLASSES[item.colour]
        said = (*kind, SIZE_CLASSES[item.size], item.cell + 1)
        under = result[first[0] : last[0] + 1, first[1] : last[1] + 1], result[middle[0], middle[1]]
        for place in under:
            place[..., :4] = said
        if item.shape == "text":
            _spell(item, result, down, across)
            continue
        half = max(w, h) / 2
        square = mask.crop((round(x - half), round(y - half), round(x + half), round(y + half)))
        outline = square.resize((WHOLE_SIDE, WHOLE_SIDE), Image.Resampling.BOX)
        for place in under:
            place[..., names + within :] = np.asarray(outline).reshape(-1)
    return result.reshape(rows * columns, -1)


def _spell(item: Item, result: npt.NDArray[np.int16], down: float, across: float) -> None:
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
        slots = result[row, column, 5 : len(CLASSES)]
        free = np.flatnonzero(slots == NONE)
        if free.size:
            slots[free[0]] = LETTER_CLASSES[letter]
        before = after


class Probe(torch.nn.Module):
    """Says what lies under each token, from the tower's outputs (tokens, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        within, whole = COLUMNS[1:]
        self.head = torch.nn.Linear(width, sum(CLASSES))
        self.early, self.late = torch.nn.Linear(width, within), torch.nn.Linear(width, within)
        self.whole = torch.nn.Linear(width, whole)
        weights = torch.ones(max(CLASSES))
        weights[NONE] = NONE_WEIGHT
        self._weights = weights

    def forward(self, early: torch.Tensor, late: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The summed cross-entropy (nats) of all hints, those of nothing with less weight; ``early`` is the
        deepstack's output, ``late`` the last one, ``wanted`` (tokens, columns) the labels.
        """
        classes, within, whole = wanted.split(list(COLUMNS), dim=1)
        classes = classes.long()
        losses = []
        for index, score in enumerate(self.head(late).float().split(list(CLASSES), dim=1)):
            weights = self._weights[: score.shape[1]] * (LETTER_WEIGHT if index >= 5 else 1.0)
            target = classes[:, index]
            loss = functional.cross_entropy(score, target, weights, reduction="sum", ignore_index=IGNORED)
            losses.append(loss)
        known = (classes[:, 0] != IGNORED).nonzero()[:, 0]
        for head, features in ((self.early, early), (self.late, late)):
            losses.append(TOKEN_WEIGHT * _outline_loss(head(features[known]), within[known]))
        objects = ((classes[:, 0] != SHAPE_CLASSES["text"]) & (classes[:, 0] > NONE)).nonzero()[:, 0]
        losses.append(WHOLE_WEIGHT * len(CLASSES) * _outline_loss(self.whole(late[objects]), whole[objects]))
        return torch.stack(losses).sum()


def _outline_loss(scores: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """The cross-entropy (nats) of an outline's cells (tokens, cells), summed over tokens, mean over cells."""
    losses = functional.binary_cross_entropy_with_logits(
        scores.float(), cells.float() / 255, reduction="none"
    )
    return losses.mean(1).sum()


def mass(wanted: torch.Tensor) -> float:
    """By what the summed loss of hints (tokens, heads) is divided: about the number of those that say
    something.
    """
    something, nothing = int((wanted[:, 0] > 0).sum()), int((wanted[:, 0] == 0).sum())
    return len(CLASSES) * max(1.0, something + NONE_WEIGHT * nothing)
