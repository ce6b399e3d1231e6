"""Turns dialogues into training examples: token ids, which of them are answers, M-RoPE positions and image
patches.

Everything is as the Hugging Face processor does it at inference (the unit tests compare the two).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from models.demo import hints
from models.demo import tokenizer as settings
from models.demo.dialogues import Dialogue, tools_json
from models.demo.draw import draw_clip, draw_scene
from models.demo.scenes import Clip, Scene

FACTOR = 32  # pixels of a token's side: patch 16, merged 2 × 2
PATCH = 16
TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, '
    '"arguments": <args-json-object>}\n</tool_call>'
)
Grid = tuple[int, int, int]  # frames / 2, height / 16, width / 16


@dataclass
class Example:
    """One dialogue: ``tokens`` and ``answer`` (1 where a token is to be learnt) and ``positions`` (3,
    tokens); ``patches`` (patches, 3 · 2 · 16 · 16) in 0..255 with the ``grids`` of its pictures and clip;
    ``visual`` marks their tokens, ``hints`` (visual tokens, columns) say what they show.
    """

    tokens: npt.NDArray[np.int64]
    answer: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    visual: npt.NDArray[np.bool_]
    patches: npt.NDArray[np.uint8]
    grids: list[Grid]
    hints: npt.NDArray[np.int16]


def fitted(height: int, width: int, pixels: float) -> tuple[int, int]:
    """The height and width to which a picture is scaled: multiples of 32 with about so many pixels in all."""
    high, wide = round(height / FACTOR) * FACTOR, round(width / FACTOR) * FACTOR
    beta = math.sqrt(height * width / pixels)
    return _scaled(height, width, high * wide - pixels, beta)


def _scaled(height: int, width: int, excess: float, beta: float) -> tuple[int, int]:
    """Divide a size by beta and round it to multiples of 32: down if there are too many pixels, else up."""
    if excess > 0:
        high, wide = (max(FACTOR, math.floor(side / beta / FACTOR) * FACTOR) for side in (height, width))
    elif excess < 0:
        high, wide = (math.ceil(side / beta / FACTOR) * FACTOR for side in (height, width))
    else:
        high, wide = (round(side / FACTOR) * FACTOR for side in (height, width))
    return high, wide


def patchify(frames: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], Grid]:
    """Cut frames (an even number, height, width, 3) into patches in the order of 2 × 2 merged blocks."""
    count, height, width, _ = frames.shape
    grid = count // 2, height // PATCH, width // PATCH
    blocks = frames.reshape(grid[0], 2, grid[1] // 2, 2, PATCH, grid[2] // 2, 2, PATCH, 3)
    ordered = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return np.ascontiguousarray(ordered).reshape(grid[0] * grid[1] * grid[2], -1), grid


def picture_patches(picture: Image.Image) -> tuple[npt.NDArray[np.uint8], Grid]:
    """The patches of a picture, which counts as two equal frames."""
    height, width = fitted(picture.height, picture.width, settings.PICTURE_PIXELS)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    return patchify(np.stack([pixels, pixels]))


def clip_patches(clip: Clip) -> tuple[npt.NDArray[np.uint8], Grid]:
    """The patches of a clip; an odd last frame is repeated."""
    frames = draw_clip(clip)
    count = len(frames)
    height, width = fitted_clip(count, frames[0].height, frames[0].width)
    scaled = [np.asarray(frame.resize((width, height), Image.Resampling.BICUBIC)) for frame in frames]
    return patchify(np.stack(scaled + scaled[-1:] * (count % 2)))


def fitted_clip(count: int, height: int, width: int) -> tuple[int, int]:
    """The height and width to which the frames of a clip are scaled, as Qwen3-VL's video processor does."""
    high, wide = round(height / FACTOR) * FACTOR, round(width / FACTOR) * FACTOR
    even = round(count / 2) * 2
    beta = math.sqrt(count * height * width / settings.CLIP_PIXELS)
    return _scaled(height, width, even * high * wide - settings.CLIP_PIXELS, beta)


def timestamps(clip: Clip) -> list[str]:
    """When each pair of frames is, as Qwen3-VL writes it."""
    indices = list(clip.indices)
    if len(indices) % 2:
        indices.append(indices[-1])
    times = [index / clip.fps for index in indices]
    return [f"<{(times[index] + times[index + 1]) / 2:.1f} seconds>" for index in range(0, len(times), 2)]


class Encoder:
    """Encodes dialogues with a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = tokenizer.get_vocab()

    def encode(self, dialogue: Dialogue) -> Example:
        """Draw the pictures of a dialogue and make its training example."""
        drawn = [picture_patches(draw_scene(scene)) for scene in dialogue.pictures]
        if dialogue.clip is not None:
            drawn.append(clip_patches(dialogue.clip))
        grids = [grid for _, grid in drawn]
        patches = (
            np.concatenate([pixels for pixels, _ in drawn])
            if drawn
            else np.zeros((0, 6 * PATCH**2), np.uint8)
        )
        pieces = self._pieces(dialogue, grids)
        tokens = np.array([token for ids, _ in pieces for token in ids], np.int64)
        answer = np.array([learnt for ids, learnt in pieces for _ in ids], np.int64)
        pads = self._vocabulary["<|image_pad|>"], self._vocabulary["<|video_pad|>"]
        visual = (tokens == pads[0]) | (tokens == pads[1])
        return Example(tokens, answer, mrope(visual, grids), visual, patches, grids, _hints(dialogue, grids))

    def crowd(self, scene: Scene) -> Example:
        """The example of a picture without words about it: only its hints are learnt."""
        patches, grid = picture_patches(draw_scene(scene))
        nothing = np.zeros(0, np.int64)
        shown = hints.labels(scene, grid[1] // 2, grid[2] // 2)
        return Example(nothing, nothing, np.zeros((3, 0), np.int64), nothing == 1, patches, [grid], shown)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _pieces(self, dialogue: Dialogue, grids: list[Grid]) -> list[tuple[list[int], int]]:
        """Token ids in pieces, each with whether it is to be learnt."""
        pieces: list[tuple[list[int], int]] = []
        if dialogue.tools:
            head = f"{dialogue.system}\n\n" if dialogue.system else ""
            system = f"{head}{TOOLS_HEAD}{tools_json(dialogue)}{TOOLS_TAIL}"
            pieces.append((self._ids(f"<|im_start|>system\n{system}<|im_end|>\n"), 0))
        elif dialogue.system:
            pieces.append((self._ids(f"<|im_start|>system\n{dialogue.system}<|im_end|>\n"), 0))
        for index, turn in enumerate(dialogue.turns):
            shown = self._shown(dialogue, grids) if index == dialogue.shown_at and grids else []
            content = [self._ids("<|im_start|>user\n"), shown, self._ids(turn.question)]
            if dialogue.text_first and shown:
                content = [self._ids(f"<|im_start|>user\n{turn.question}"), shown]
            pieces += [(ids, 0) for ids in content]
            pieces.append((self._ids("<|im_end|>\n<|im_start|>assistant\n"), 0))
            answer = turn.answer
            if dialogue.thinking and index == len(dialogue.turns) - 1:
                pieces.append((self._ids("<think>\n"), 0))
                answer = f"{turn.thought}\n</think>\n\n{turn.answer}"
            pieces += [(self._ids(f"{answer}<|im_end|>"), 1), (self._ids("\n"), 0)]
        return pieces

    def _shown(self, dialogue: Dialogue, grids: list[Grid]) -> list[int]:
        start, end = self._vocabulary["<|vision_start|>"], self._vocabulary["<|vision_end|>"]
        image, video = self._vocabulary["<|image_pad|>"], self._vocabulary["<|video_pad|>"]
        shown: list[int] = []
        for frames, height, width in grids[: len(dialogue.pictures)]:
            shown += [start, *[image] * (frames * height * width // 4), end]
        if dialogue.clip is not None:
            _, height, width = grids[-1]
            for time in timestamps(dialogue.clip):
                shown += [*self._ids(time), start, *[video] * (height * width // 4), end]
            shown = [start, *shown, end]
        return shown


def _hints(dialogue: Dialogue, grids: list[Grid]) -> npt.NDArray[np.int16]:
    """What every visual token shows, in order; of a pair of frames, what the first one shows."""
    shown = [(scene, grid) for scene, grid in zip(dialogue.pictures, grids, strict=False)]
    if dialogue.clip is not None:
        shown += [(frame, grids[-1]) for frame in dialogue.clip.frames[::2]]
    rows = [hints.labels(scene, height // 2, width // 2) for scene, (_, height, width) in shown]
    return np.concatenate(rows) if rows else np.zeros((0, sum(hints.COLUMNS)), np.int16)


def mrope(visual: npt.NDArray[np.bool_], grids: list[Grid]) -> npt.NDArray[np.int64]:
    """The M-RoPE positions (time, height, width) of every token, (3, tokens)."""
    spans = [(height // 2, width // 2) for frames, height, width in grids for _ in range(frames)]
    result = np.zeros((3, len(visual)), np.int64)
    current, index = 0, 0
    remaining = iter(spans)
    while index < len(visual):
        if not visual[index]:
            result[:, index] = current
            current, index = current + 1, index + 1
            continue
        height, width = next(remaining)
        size = height * width
        result[0, index : index + size] = current
        result[1, index : index + size] = current + np.repeat(np.arange(height), width)
        result[2, index : index + size] = current + np.tile(np.arange(width), height)
        current, index = current + max(height, width), index + size
    return result
