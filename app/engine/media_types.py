"""What passes between the layers of pictures and clips: parts of messages, and a model's way to see them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class MediaOptions:
    """How a picture or a clip is prepared; None leaves it to the model. Pixels are those of a picture or of
    each frame, after resizing, `most_pixels` whatever `max_pixels` says; of the frames that `fps` takes, the
    share `ratio` is kept, at most `most_frames`.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    num_frames: int | None = None
    ratio: float = 1.0
    most_frames: int | None = None
    most_pixels: int | None = None


@dataclass(frozen=True)
class Clip:
    """The frames that were kept of a video: `frames` is an array (frames, height, width, 3) of bytes, as the
    model sees them; `indices` are their numbers among the `total` of the video at `fps` frames per second;
    `size` is the video's own (width, height), upright.
    """

    frames: Any = field(repr=False, compare=False)
    indices: tuple[int, ...]
    fps: float
    total: int
    size: tuple[int, int]


@dataclass(frozen=True)
class ImagePart:
    """A picture: where it comes from (`source`, a text or an open file, in a ChatRequest) or what it is
    (`image`, RGB, decoded; `is_fitted` says that it has been resized for the model).

    `param` is its place in the request, such as messages[0].content[1].image_url.url.
    """

    source: Any = field(repr=False)
    param: str
    image: Any = None
    options: MediaOptions = MediaOptions()
    is_fitted: bool = False


@dataclass(frozen=True)
class VideoPart:
    """A video, likewise: `source` may also be a list of pictures, its frames."""

    source: Any = field(repr=False)
    param: str
    clip: Clip | None = None
    options: MediaOptions = MediaOptions()


MediaPart = ImagePart | VideoPart


@dataclass(frozen=True)
class ClipPlan:
    """Which frames of a video are kept, and `fit`, which makes of one, an array (height, width, 3) of bytes,
    what the model sees of it; `tokens` they become at the least.
    """

    indices: tuple[int, ...]
    fit: Callable[[Any], Any]
    tokens: int = 0


class Fitter(Protocol):
    """A model's way to resize pictures and to choose frames; safe for many threads."""

    def picture(self, image: Any, options: MediaOptions) -> Any:
        """A picture as the model sees it."""

    def clip(self, total: int, fps: float, size: tuple[int, int], options: MediaOptions) -> ClipPlan:
        """What is kept of a video of so many frames, at so many per second, of a width and height."""
