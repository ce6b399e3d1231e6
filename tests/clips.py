"""Clips that the tests make: a red circle that moves, in every container, with PyAV and Pillow."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

FORMATS = {
    "mp4": ("mp4", "libx264", "yuv420p"),
    "mov": ("mov", "mpeg4", "yuv420p"),
    "mkv": ("matroska", "libx264", "yuv420p"),
    "webm": ("webm", "libvpx-vp9", "yuv420p"),
    "avi": ("avi", "mpeg4", "yuv420p"),
    "flv": ("flv", "flv", "yuv420p"),
    "wmv": ("asf", "wmv2", "yuv420p"),
    "gif": ("gif", "gif", "rgb8"),
}
"""FFmpeg's container, codec and pixels of each kind of file."""
PATHS = {
    "to the right": ((56, 112), (168, 112)),
    "to the left": ((168, 112), (56, 112)),
    "up": ((112, 168), (112, 56)),
    "down": ((112, 56), (112, 168)),
}


def moving(
    direction: str = "to the right", count: int = 24, size: tuple[int, int] = (224, 224), colour: str = "red"
) -> list[Image.Image]:
    """The frames of a clip in which a circle moves over a white picture."""
    start, end = PATHS[direction]
    frames = []
    for number in range(count):
        share = number / max(1, count - 1)
        x, y = (
            (first + (last - first) * share) / 224 * side
            for first, last, side in zip(start, end, size, strict=True)
        )
        reach = 0.17 * min(size)
        image = Image.new("RGB", size, "white")
        ImageDraw.Draw(image).ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
        frames.append(image)
    return frames


def video(
    frames: Sequence[Image.Image],
    kind: str = "mp4",
    *,
    fps: int = 12,
    times: Sequence[int] | None = None,
    **options: str,
) -> bytes:
    """A video file of these frames; `times` are when each is shown, in 1/fps seconds, for a variable rate."""
    container, codec, pixels = FORMATS[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, fps)
        if codec in ("mpeg4", "flv", "wmv2"):
            stream.bit_rate = 2_000_000
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            frame.pts = number if times is None else times[number]
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def webp(frames: Sequence[Image.Image], *, fps: int = 12) -> bytes:
    """An animated WEBP."""
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=1000 // fps, lossless=True)
    return file.getvalue()


def turned(data: bytes, degrees: int) -> bytes:
    """An MP4 with a display matrix that turns it clockwise, as phones write it (ISO 14496-12, 8.3.2)."""
    one, none = 0x10000, 0
    a, b, c, d = {90: (none, one, -one, none), 180: (-one, none, none, -one), 270: (none, -one, one, none)}[
        degrees
    ]
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[at : at + 36])[::4] == (one, one, 0x40000000)
    return data[:at] + matrix + data[at + 36 :]
