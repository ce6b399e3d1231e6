"""What the host computes for a TPU, number for number as transformers does."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
import transformers
from transformers import vision_utils

from app.engine.tpu_prompt import HIDDEN, Picture, Vision, causal_mask, interpolation, places, prompt, windows
from tests.conftest import ROOT

assert tiny_models
GRIDS = [(10, 10), (4, 6), (16, 2), (2, 2), (6, 38), (34, 22)]


def picture(rows: int, columns: int) -> Picture:
    return Picture(0, rows, columns, np.zeros((rows * columns, 4), np.float32))


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_patches_are_placed_as_the_reference_places_them(rows: int, columns: int) -> None:
    grid = torch.tensor([[1, rows, columns]])
    assert (places(picture(rows, columns), 2) == vision_utils.get_vision_position_ids(grid, 2).numpy()).all()


@pytest.mark.parametrize("side", [16, 48])
@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_the_learned_grid_is_resampled_as_by_the_reference(rows: int, columns: int, side: int) -> None:
    found, weights = interpolation(picture(rows, columns), 2, side)
    wanted, shares = vision_utils.get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, rows, columns]]), side, align_corners=True, spatial_merge_size=2
    )
    assert (found == wanted.numpy()).all()
    assert np.abs(weights - shares.numpy()).max() < 1e-6


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_cells_are_put_into_the_references_windows(rows: int, columns: int) -> None:
    grid = torch.tensor([[1, rows, columns]])
    wanted, ends = vision_utils.get_vision_window_index(grid, 2, 112, 14)
    order, number = windows(picture(rows, columns), 2, 4)
    assert (order == wanted.numpy()).all()
    lengths = np.unique(number, return_counts=True)[1]
    assert (4 * lengths == np.diff(ends.numpy())).all()


def arrays(
    model: Any, pieces: list[tuple[str, Any]], seconds: float | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs with these texts (numbers of tokens), pictures (rows, columns), clips (times, rows, columns);
    the same for the reference.
    """
    config, ids, types = model.config, [], []
    grids: dict[str, list[tuple[int, ...]]] = {"image_grid_thw": [], "video_grid_thw": []}
    apart = config.model_type == "qwen3_vl"
    for kind, what in pieces:
        if kind == "text":
            ids += [5] * what
            types += [0] * what
            continue
        clip = kind == "clip"
        token = config.video_token_id if clip else config.image_token_id
        times, rows, columns = what if clip else (1, *what)
        grids["video_grid_thw" if clip else "image_grid_thw"].append((times, rows, columns))
        for number in range(times):
            between = 3 if apart and number else 0  # a time stamp
            ids += [5] * between + [token] * (rows * columns // 4)
            types += [0] * between + [1 + clip] * (rows * columns // 4)
    inputs: dict[str, Any] = {"input_ids": np.array([ids])}
    own: dict[str, Any] = {"mm_token_type_ids": torch.tensor([types])}
    for name, values in grids.items():
        if values:
            inputs[name] = np.array(values)
            own[name] = torch.tensor(values)
            pixels = "pixel_values" if name.startswith("image") else "pixel_values_videos"
            inputs[pixels] = np.arange(sum(map(np.prod, values)) * 2.0).reshape(-1, 2)
    if seconds is not None:
        inputs["second_per_grid_ts"] = own["second_per_grid_ts"] = [seconds]
    return inputs, own


MIXED = [
    [("text", 7)],
    [("text", 3), ("picture", (10, 10)), ("text", 5)],
    [("picture", (4, 6)), ("text", 1), ("picture", (12, 2)), ("text", 4)],
    [("text", 2), ("clip", (3, 4, 6)), ("text", 2), ("picture", (2, 8)), ("text", 1), ("clip", (1, 2, 2))],
]


@pytest.mark.parametrize("pieces", MIXED, ids=["text", "picture", "pictures", "all"])
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_positions_are_those_of_get_rope_index(
    family: str, pieces: list[tuple[str, Any]], tiny: Callable[[str], pathlib.Path]
) -> None:
    config = transformers.AutoConfig.from_pretrained(tiny(family))
    with torch.device("meta"):
        model: Any = transformers.AutoModelForImageTextToText.from_config(config)
    seconds = 1.5 if family == "qwen2_5_vl" and any(kind == "clip" for kind, _ in pieces) else None
    inputs, own = arrays(model, pieces, seconds)
    if seconds is not None:
        inputs["second_per_grid_ts"] = own["second_per_grid_ts"] = [seconds] * 2
    vision = Vision.of(config.to_dict())
    assert vision is not None
    found = prompt(inputs, vision, 3)
    wanted, delta = model.model.get_rope_index(torch.from_numpy(inputs["input_ids"]), **own)
    assert (found.positions == wanted[:, 0].numpy()).all()
    assert found.next_position == len(found) + int(delta)
    pixels = [picture.pixels for picture in found.pictures]
    shown = [kind for kind, _ in pieces if kind != "text"]
    assert sum(len(one) for one in pixels) == sum(
        len(inputs[name]) for name in ("pixel_values", "pixel_values_videos") if name in inputs
    )
    assert bool(pixels) == bool(shown)


def demo_vision() -> Vision:
    import json

    raw = json.loads((ROOT / "models/demo/weights/config.json").read_text(encoding="utf-8"))
    vision = Vision.of(raw)
    assert vision == Vision(2392, 2393, 2, 16, 16)
    return vision


def test_tokens_that_do_not_match_the_pictures_are_refused() -> None:
    vision = demo_vision()
    grid, pixels = np.array([[1, 4, 4]]), np.zeros((16, 4))
    four = [[1, *[vision.image_token] * 4, 2]]
    shown = {"image_grid_thw": grid, "pixel_values": pixels}
    assert len(prompt({"input_ids": np.array(four), **shown}, vision, 3).pictures) == 1
    with pytest.raises(ValueError, match="not as many"):
        prompt({"input_ids": np.array([[1, *[vision.image_token] * 3, 2]]), **shown}, vision, 3)
    with pytest.raises(ValueError, match="more picture tokens"):
        prompt({"input_ids": np.array(four)}, vision, 3)
    with pytest.raises(ValueError, match="more pictures"):
        prompt({"input_ids": np.array([[1, 2]]), **shown}, vision, 3)


def test_a_text_has_one_row_of_positions() -> None:
    found = prompt({"input_ids": np.array([[4, 5, 6]])}, None, 1)
    assert (found.ids.tolist(), found.positions.tolist(), found.next_position) == ([4, 5, 6], [[0, 1, 2]], 3)


def test_prompts_are_told_apart_by_their_pixels() -> None:
    vision = demo_vision()
    ids = np.array([[1, *[vision.image_token] * 4, 2]])

    def key(value: float) -> bytes:
        shown = {"image_grid_thw": np.array([[1, 4, 4]]), "pixel_values": np.full((16, 4), value)}
        return prompt({"input_ids": ids, **shown}, vision, 3).key

    assert key(0.5) == key(0.5) != key(0.25)


def test_a_mask_shows_what_came_before() -> None:
    plain = causal_mask(2, 3, 3)
    assert (plain == 0).tolist() == [[True, False, False], [True, True, False], [False, False, False]]
    assert set(np.unique(plain)) == {0.0, HIDDEN}
    later = causal_mask(2, 2, 5, past=1, room=3)
    assert (later == 0).tolist() == [[True, False, False, True, False], [True, False, False, True, True]]
