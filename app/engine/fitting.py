"""How a model sees pictures and clips: to what size they are brought, and which frames are kept.

Qwen's models go by the numbers and the rounding of qwen-vl-utils, their reference code, with the budgets of
the model's own processor files; their processors then only pack. All others get pictures as they are, and
their own processor resizes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from qwen_vl_utils import vision_process as qwen
from torchvision.transforms import InterpolationMode, functional

from app.engine.media_types import ClipPlan, Fitter, MediaOptions

CLIP_PIXELS = 64 * 10**6
"""Of all frames of a clip for a model whose own processor resizes them; larger ones become smaller before."""
Size = tuple[int, int]


def of(processor: Any) -> Fitter:
    """The fitter of a model's processor."""
    own = getattr(processor, "image_processor", None)
    if type(own).__name__.startswith("Qwen2VLImageProcessor"):
        return QwenFitter(own, getattr(processor, "video_processor", None))
    return PlainFitter(getattr(processor, "video_processor", None))


class QwenFitter:
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL: sides that are multiples of a merged patch, pixels within a budget."""

    def __init__(self, image_processor: Any, video_processor: Any) -> None:
        self._factor = int(image_processor.patch_size * image_processor.merge_size)
        self._size = image_processor.size
        self._video = video_processor

    def picture(self, image: Any, options: MediaOptions) -> Any:
        """A picture as the model sees it: qwen-vl-utils' fetch_image."""
        high = _least(self._size["longest_edge"], options.max_pixels)
        low = min(options.min_pixels or self._size["shortest_edge"], high)
        height, width = self._resized(image.height, image.width, low, high)
        return image.resize((width, height))

    def clip(self, total: int, fps: float, size: Size, options: MediaOptions) -> ClipPlan:
        """What is kept of a video: qwen-vl-utils' smart_nframes and fetch_video."""
        count = self._count(total, fps, options)
        indices = torch.linspace(0, total - 1, count).round().long().tolist()
        height, width = self._frame_size(count, size[1], size[0], options)
        tokens = count // 2 * (height // self._factor) * (width // self._factor)
        return ClipPlan(tuple(indices), _resizer(height, width), tokens)

    def _count(self, total: int, fps: float, options: MediaOptions) -> int:
        most = int(_least(getattr(self._video, "max_frames", qwen.FPS_MAX_FRAMES), options.most_frames))
        if total <= qwen.FRAME_FACTOR:  # a frame is shown twice rather than refused
            return int(qwen.FRAME_FACTOR)
        if options.num_frames is not None:
            wanted = min(qwen.round_by_factor(options.num_frames, qwen.FRAME_FACTOR), most, total)
            return int(max(qwen.FRAME_FACTOR, qwen.floor_by_factor(wanted, qwen.FRAME_FACTOR)))
        least = getattr(self._video, "min_frames", qwen.FPS_MIN_FRAMES)
        bounds = {"min_frames": min(least, most, total - total % 2), "max_frames": min(most, total)}
        found = qwen.smart_nframes({"fps": options.fps or qwen.FPS} | bounds, total, fps)
        kept = qwen.floor_by_factor(found * options.ratio, qwen.FRAME_FACTOR)
        return int(max(kept, min(found, qwen.ceil_by_factor(least, qwen.FRAME_FACTOR))))

    def _frame_size(self, count: int, height: int, width: int, options: MediaOptions) -> Size:
        """Height and width of each frame."""
        area = self._factor**2
        if getattr(self._video, "cap_pixels_per_frame", None) is False:  # a budget for the whole clip
            size = self._video.size
            high = _least(size["longest_edge"], options.max_pixels and options.max_pixels * count)
            low = min((options.min_pixels and options.min_pixels * count) or size["shortest_edge"], high)
            return self._whole(count, height, width, low, high)
        low = options.min_pixels or qwen.VIDEO_MIN_TOKEN_NUM * area
        share = qwen.MODEL_SEQ_LEN * area * 0.9 / count * qwen.FRAME_FACTOR
        high = max(min(qwen.VIDEO_MAX_TOKEN_NUM * area, share), int(low * 1.05))
        high = _least(high, options.max_pixels)
        return self._resized(height, width, min(low, high), high)

    def _whole(self, count: int, height: int, width: int, low: int, high: int) -> Size:
        from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

        found: Size = smart_resize(
            count, height, width, factor=self._factor, min_pixels=low, max_pixels=max(low, high)
        )
        return found

    def _resized(self, height: int, width: int, low: float, high: float) -> Size:
        found = qwen.smart_resize(height, width, self._factor, low, high)
        return max(self._factor, found[0]), max(self._factor, found[1])


class PlainFitter:
    """Any other model: its own processor resizes; here what is over a ceiling becomes smaller, and frames of
    several sizes become one.
    """

    def __init__(self, video_processor: Any) -> None:
        self._video = video_processor

    def picture(self, image: Any, options: MediaOptions) -> Any:
        """The picture, with at most `max_pixels`."""
        height, width = _within(image.height, image.width, options.max_pixels)
        return image if (width, height) == image.size else image.resize((width, height))

    def clip(self, total: int, fps: float, size: Size, options: MediaOptions) -> ClipPlan:
        """Frames at equal distances: as many as the model's processor says, or by the same rule as Qwen's."""
        own = getattr(self._video, "num_frames", None)
        if options.num_frames is not None or own:
            count = options.num_frames or int(own or 1)
        else:
            count = int(max(total / fps * (options.fps or qwen.FPS) * options.ratio, qwen.FPS_MIN_FRAMES))
        count = max(1, min(count, options.most_frames or qwen.FPS_MAX_FRAMES, total))
        indices = np.linspace(0, total - 1, count).round().astype(int).tolist()
        height, width = _within(size[1], size[0], _least(CLIP_PIXELS // count, options.max_pixels))
        resized = _resizer(height, width)
        return ClipPlan(
            tuple(indices), lambda frame: frame if frame.shape[:2] == (height, width) else resized(frame)
        )


def _least(own: float, asked: float | None) -> Any:
    return own if asked is None else min(own, asked)


def _within(height: int, width: int, most: int | None) -> Size:
    scale = 1.0 if most is None else min(1.0, (most / (height * width)) ** 0.5)
    return max(1, int(height * scale)), max(1, int(width * scale))


def _resizer(height: int, width: int) -> Callable[[Any], Any]:
    """Brings a frame to a size as qwen-vl-utils does."""

    def fit(frame: Any) -> Any:
        image = torch.from_numpy(np.array(frame)).permute(2, 0, 1)
        resized = functional.resize(
            image, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        return resized.permute(1, 2, 0).numpy()

    return fit
