"""How large and how long a video may be; a refusal names the place, the limit and what is over it."""

from dataclasses import dataclass

from app.errors import InvalidRequest

MOST_FRAMES = 300_000
"""In a file, kept or not: an hour and twenty minutes at 60 a second."""
THINNEST = 200
"""How many times as long as its other side a side may be."""


@dataclass(frozen=True)
class Limits:
    """Of one video: pixels of a frame, seconds, and pixels of all frames together of an animated picture, in
    which a few bytes make a frame, and none can be decoded without those before it.
    """

    pixels: int
    seconds: float
    animated: int

    def check_size(self, width: int, height: int, param: str) -> None:
        """Raise InvalidRequest for frames that are too large or too thin."""
        if width * height > self.pixels:
            raise InvalidRequest(
                f"The video has {width} × {height} = {width * height / 1e6:.1f} megapixels; "
                f"at most {self.pixels / 1e6:g} are taken.",
                param=param,
                code="video_too_large",
            )
        if max(width, height) > THINNEST * min(width, height):
            raise InvalidRequest(
                f"The video is {width} × {height} pixels; "
                f"one side may be {THINNEST} times the other at most.",
                param=param,
                code="invalid_video",
            )

    def check_animation(self, count: int, width: int, height: int, param: str) -> None:
        """Raise InvalidRequest for an animated picture of too many pixels in so many frames."""
        if (total := count * width * height) > self.animated:
            raise InvalidRequest(
                f"The animation has {count} frames of {width} × {height} = {total / 1e6:.1f} megapixels "
                f"together; at most {self.animated / 1e6:g} are taken.",
                param=param,
                code="video_too_large",
            )

    def check_seconds(self, seconds: float, param: str) -> None:
        """Raise InvalidRequest for so many seconds."""
        if seconds > self.seconds:
            raise InvalidRequest(
                f"The video is {seconds:.0f} seconds long; the most is {self.seconds:g}.",
                param=param,
                code="video_too_long",
            )


def check_count(count: int, param: str) -> None:
    """Raise InvalidRequest for more frames than any video has."""
    if count > MOST_FRAMES:
        text = f"The video has more than {MOST_FRAMES} frames."
        raise InvalidRequest(text, param=param, code="video_too_long")
