"""What the host computes for a TPU's networks: a prompt's positions, and the inputs of the vision tower.

The formulas are those of transformers' Qwen3-VL and Qwen2.5-VL (get_rope_index, vision_utils), in numpy; the
tests compare them number for number.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HIDDEN = -10000.0
"""What a mask adds to the scores of what must not be seen, as the networks are compiled for."""


@dataclass(frozen=True)
class Vision:
    """A model's conventions for pictures, from its config.json. `windows` is the side of an attention window
    in merged cells, 0 where there are none; without `slices_apart` a clip's slices follow each other and are
    `tokens_per_second` positions apart.
    """

    image_token: int
    video_token: int
    merge: int = 2
    patch: int = 16
    grid: int = 48
    windows: int = 0
    slices_apart: bool = True
    tokens_per_second: float = 2.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Vision | None":
        """That of a configuration; None for a model of text. Raises KeyError for an incomplete one."""
        tower = config.get("vision_config")
        if tower is None:
            return None
        patch, merge = int(tower["patch_size"]), int(tower["spatial_merge_size"])
        tokens = int(config["image_token_id"]), int(config["video_token_id"])
        if "window_size" not in tower:
            return cls(*tokens, merge, patch, round(int(tower["num_position_embeddings"]) ** 0.5))
        windows = int(tower["window_size"]) // merge // patch
        speed = float(tower.get("tokens_per_second", 2))
        return cls(*tokens, merge, patch, 0, windows, slices_apart=False, tokens_per_second=speed)


@dataclass(frozen=True)
class Picture:
    """A picture, or two frames of a clip: `pixels` (rows x columns, width) float32, in the order of merged
    cells; `start` is the place of its first token.
    """

    start: int
    rows: int
    columns: int
    pixels: Array = field(repr=False)

    @property
    def patches(self) -> int:
        """How many patches the tower looks at."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Prompt:
    """A prompt as the networks take it: ids (tokens,), positions (axes, tokens), both int32."""

    ids: Array = field(repr=False)
    positions: Array = field(repr=False)
    pictures: tuple[Picture, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def next_position(self) -> int:
        """That of the first generated token."""
        return int(self.positions.max()) + 1

    @cached_property
    def key(self) -> bytes:
        """What tells it from all others: pictures count by their pixels."""
        name = hashlib.blake2b(self.ids.tobytes(), digest_size=16)
        for picture in self.pictures:
            name.update(repr((picture.start, picture.rows, picture.columns)).encode())
            name.update(picture.pixels.tobytes())
        return name.digest()


def prompt(inputs: Mapping[str, Array], vision: Vision | None, axes: int) -> Prompt:
    """A prompt from what a processor made: input_ids (1, tokens), pixel_values and image_grid_thw, and the
    same of clips. Raises ValueError where its tokens and its pictures do not match.
    """
    ids = np.ascontiguousarray(inputs["input_ids"][0], np.int32)
    if vision is None or axes == 1:
        return Prompt(ids, np.tile(np.arange(len(ids), dtype=np.int32), (axes, 1)))
    pictures: list[Picture] = []
    positions = np.empty((3, len(ids)), np.int32)
    apart = vision.slices_apart
    items = {
        vision.image_token: _items(inputs, "pixel_values", "image_grid_thw", apart),
        vision.video_token: _items(inputs, "pixel_values_videos", "video_grid_thw", apart),
    }
    seconds = iter(np.ravel(inputs.get("second_per_grid_ts", ())).tolist())
    place = position = 0
    while place < len(ids):
        token = int(ids[place])
        if token not in items:
            positions[:, place] = position
            place, position = place + 1, position + 1
            continue
        frames = next(items[token], None)
        if frames is None:
            raise ValueError("more picture tokens than pictures")
        moves = not apart and token == vision.video_token
        step = vision.tokens_per_second * next(seconds, 1.0) if moves else 0.0
        for number, (rows, columns, pixels) in enumerate(frames):
            end = place + rows * columns // vision.merge**2
            if end > len(ids) or (ids[place:end] != token).any():
                raise ValueError("a picture's tokens are not as many as its cells")
            pictures.append(Picture(place, rows, columns, pixels))
            cells = np.indices((rows // vision.merge, columns // vision.merge)).reshape(2, -1)
            positions[0, place:end] = position + int(number * step)
            positions[1:, place:end] = position + cells
            place = end
        position += max(frames[0][:2]) // vision.merge
    if any(next(one, None) is not None for one in items.values()):
        raise ValueError("more pictures than picture tokens")
    return Prompt(ids, positions, tuple(pictures))


def _items(
    inputs: Mapping[str, Array], pixels: str, grids: str, apart: bool
) -> Iterator[list[tuple[int, int, Array]]]:
    """Rows, columns and pixels of the slices of each picture or clip, or with `apart` of each slice."""
    if grids not in inputs:
        return
    start = 0
    for times, rows, columns in np.asarray(inputs[grids]).tolist():
        slices = []
        for _ in range(times):
            end = start + rows * columns
            slices.append((rows, columns, np.ascontiguousarray(inputs[pixels][start:end], np.float32)))
            start = end
        yield from ([one] for one in slices) if apart else [slices]


def places(picture: Picture, merge: int) -> Array:
    """The row and column of each patch, (patches, 2) int32, in the order of merged cells."""
    rows, columns = np.indices((picture.rows, picture.columns))
    block = (picture.rows // merge, merge, picture.columns // merge, merge)
    ordered = [axis.reshape(block).transpose(0, 2, 1, 3).ravel() for axis in (rows, columns)]
    return np.stack(ordered, axis=1).astype(np.int32)


def interpolation(picture: Picture, merge: int, grid: int) -> tuple[Array, Array]:
    """How a learned grid x grid of positions is resampled to a picture: for each patch four indices, int32,
    and their bilinear weights, float32, both (patches, 4).
    """
    where = places(picture, merge).astype(np.float32)
    taps, weights = [], []
    for axis, size in enumerate((picture.rows, picture.columns)):
        source = where[:, axis] * np.float32(grid - 1) / np.float32(max(size - 1, 1))
        low = np.floor(source)
        above = source - low
        taps.append((low.astype(np.int32), np.minimum(low.astype(np.int32) + 1, grid - 1)))
        weights.append((1 - above, above))
    corners = [(row, column) for row in (0, 1) for column in (0, 1)]
    indices = [taps[0][row] * grid + taps[1][column] for row, column in corners]
    shares = [weights[0][row] * weights[1][column] for row, column in corners]
    return np.stack(indices, axis=1), np.stack(shares, axis=1).astype(np.float32)


def windows(picture: Picture, merge: int, side: int) -> tuple[Array, Array]:
    """Qwen2.5-VL's order of the merged cells by attention windows of side x side, and the number of each
    cell's window in that order.
    """
    high, wide = picture.rows // merge, picture.columns // merge
    rows, columns = np.indices((high, wide)).reshape(2, -1)
    number = (rows // side) * -(-wide // side) + columns // side
    order = np.argsort(number, kind="stable")
    return order, number[order]


def causal_mask(seen: int, rows: int, columns: int, past: int = 0, room: int = 0) -> Array:
    """A prefill's mask (rows, columns): row i of the first `seen` sees `past` of the first `room` columns,
    and those after them up to its own.
    """
    mask = np.full((rows, columns), HIDDEN, np.float32)
    row, column = np.indices((seen, columns - room))
    mask[:seen, room:][column <= row] = 0
    mask[:seen, :past] = 0
    return mask
