"""How many frames are kept and how large: by the reference's rule, or within bounds by a model's own."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.engine import torchvision_cpu

torchvision_cpu.prepare()

from app.engine.fitting import CLIP_PIXELS, PlainFitter, QwenFitter, of  # noqa: E402
from app.engine.media_types import MediaOptions  # noqa: E402

SIZES = {"longest_edge": 100_000, "shortest_edge": 4_000}


def qwen(**video: Any) -> QwenFitter:
    return QwenFitter(SimpleNamespace(patch_size=16, merge_size=2, size=SIZES), SimpleNamespace(**video))


def test_a_processor_of_another_kind_gets_pictures_as_they_are() -> None:
    fitter = of(SimpleNamespace(image_processor=object()))
    image = Image.new("RGB", (1000, 500))
    assert isinstance(fitter, PlainFitter)
    assert fitter.picture(image, MediaOptions()) is image
    small = fitter.picture(image, MediaOptions(max_pixels=5000))
    assert small.size == (100, 50)


@pytest.mark.parametrize(
    ("total", "options", "kept"),
    [
        (240, {}, 16),  # ten seconds, two a second, not less than four
        (240, {"ratio": 0.5}, 8),
        (240, {"ratio": 0.0}, 4),
        (240, {"fps": 1.0}, 8),
        (240, {"num_frames": 7}, 8),  # as qwen-vl-utils rounds
        (7, {"num_frames": 7}, 6),
        (240, {"num_frames": 10**9}, 240),
        (240, {"num_frames": 100, "most_frames": 10}, 10),
        (240, {"most_frames": 6}, 6),
        (1, {}, 2),
        (2, {}, 2),
        (5, {}, 4),
        (3, {"num_frames": 1}, 2),
    ],
)
def test_so_many_frames_are_kept_for_qwen(total: int, options: dict[str, Any], kept: int) -> None:
    plan = qwen().clip(total, 30.0, (64, 64), MediaOptions(**options))
    assert len(plan.indices) == kept
    assert (plan.indices[0], plan.indices[-1]) == (0, total - 1)


def test_a_budget_of_the_whole_clip_is_shared_by_its_frames() -> None:
    fitter = qwen(cap_pixels_per_frame=False, size={"longest_edge": 64_000, "shortest_edge": 1_000})
    plan = fitter.clip(240, 30.0, (640, 480), MediaOptions(num_frames=16))
    height, width = plan.fit(np.zeros((480, 640, 3), np.uint8)).shape[:2]
    assert 16 * height * width <= 64_000
    assert plan.tokens == 8 * (height // 32) * (width // 32)


def test_frames_for_a_models_own_processor_are_bounded_together() -> None:
    fitter = PlainFitter(None)
    for count, size in ((32, (1920, 1080)), (768, (2000, 1500)), (1, (8000, 1))):
        plan = fitter.clip(10**5, 30.0, size, MediaOptions(num_frames=count, most_frames=768))
        height, width = plan.fit(np.zeros((size[1], size[0], 3), np.uint8)).shape[:2]
        assert len(plan.indices) == count
        assert count * height * width <= CLIP_PIXELS
        assert (count * size[0] * size[1] <= CLIP_PIXELS) == ((width, height) == size)


def test_frames_of_several_sizes_become_one() -> None:
    plan = PlainFitter(None).clip(2, 2.0, (40, 20), MediaOptions(num_frames=2))
    assert plan.fit(np.zeros((20, 40, 3), np.uint8)).shape == (20, 40, 3)
    assert plan.fit(np.zeros((99, 33, 3), np.uint8)).shape == (20, 40, 3)


def test_a_processor_that_says_how_many_frames_it_takes_gets_those() -> None:
    plan = PlainFitter(SimpleNamespace(num_frames=8)).clip(240, 30.0, (40, 20), MediaOptions())
    assert len(plan.indices) == 8
