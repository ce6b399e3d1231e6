"""From bytes to a picture: told by content, checked before it is decoded, brought to 8-bit RGB upright.

Only formats that people send are let in: the decoders of rare ones are where the holes were. The size is
checked from the header, before a pixel is unpacked, since a small file can unpack into gigabytes.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from app.errors import InvalidRequest

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
MAX_ASPECT_RATIO = 40
"""Longer pictures are padded to so many times their width: Qwen-VL's processors refuse those over 200, and
the demo model sees in thin ones what is not there."""
MAX_PADDED_SIDE = 4096
"""The length to which such a picture is scaled first: a padded line of a million pixels takes gigabytes."""
MOST_SCANS = 100
"""Of a JPEG; ten are usual. Each goes over the whole picture, takes a few bytes, and nothing can stop it."""
MOST_SEGMENTS = 2000
MOST_FILL = 4096
"""Bytes FF in a row between segments, over which libjpeg goes again for each piece that it is fed, and of
anything before the first scan, over which Pillow goes byte by byte."""
STEP = 1 << 16
JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
"""Those that have a length behind them, and the end (D9)."""
# Pillow's own limit warns, then raises, at numbers of its own; ours is checked first.
Image.MAX_IMAGE_PIXELS = None
# Its warnings are about odd metadata and palettes' transparency, which is laid over white here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def pixels(data: bytes, param: str, max_pixels: int) -> int:
    """How many pixels the header of a picture announces, 0 where there is no readable one; raises
    InvalidRequest if they are more than `max_pixels`, or would be gone over too often.
    """
    try:
        check_scans(data, param)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, param, max_pixels)
            return image.width * image.height
    except InvalidRequest:
        raise
    except Exception:  # decode will say what is wrong
        return 0


def decode(data: bytes, param: str, max_pixels: int) -> Image.Image:
    """A picture that `pixels` let through, as 8-bit RGB, upright, transparency over white; raises
    InvalidRequest naming `param`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, param, max_pixels)
            _scale_transparency(image)
            image.load()
            plain = rgb(ImageOps.exif_transpose(image))
            plain.info = {}  # texts, profiles, Exif: up to all of the file, and copies would have them too
            return plain
    except InvalidRequest:
        raise
    except UnidentifiedImageError:
        raise unknown(param) from None
    except Exception:  # Pillow raises nearly anything on broken files
        raise InvalidRequest("The picture is broken or cut off.", param=param, code="invalid_image") from None


def _scale_transparency(image: Any) -> None:
    """Bring the transparent value of 2- or 4-bit grey to the 8 bits that Pillow brings the pixels to."""
    bits = {"L;2": 2, "L;4": 4}.get(str(image.tile[0].args)) if image.tile else None
    if bits and isinstance(value := image.info.get("transparency"), int):
        image.info["transparency"] = value * 255 // (2**bits - 1)


def unknown(param: str) -> InvalidRequest:
    """The refusal of what is neither a picture nor a video."""
    return InvalidRequest(
        f"The data is no picture of a known kind ({', '.join(FORMATS)}), nor a video.",
        param=param,
        code="invalid_image",
    )


@contextlib.contextmanager
def animated(file: Any, param: str, max_pixels: int) -> Iterator[Image.Image]:
    """A picture that may have several frames, opened and its size checked; raises InvalidRequest."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image, param, max_pixels)
            yield image
    except InvalidRequest:
        raise
    except Exception:
        raise InvalidRequest(
            "The animation is broken or cut off.", param=param, code="invalid_video"
        ) from None


def _check_size(image: Image.Image, param: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidRequest(
            f"The picture has {width} × {height} = {width * height / 1e6:.1f} megapixels; "
            f"at most {max_pixels / 1e6:g} are taken.",
            param=param,
            code="image_too_large",
        )


def check_scans(data: bytes, param: str) -> None:
    """Raise InvalidRequest for a JPEG of more scans, or more filling, than any picture has; other data have
    none.
    """
    if not data.startswith(b"\xff\xd8"):
        return
    at = 2
    scans = 0
    for _ in range(MOST_SEGMENTS):
        marker = _marker(data, at)
        end = len(data) if marker is None else marker.start()
        if (not scans and end - at > MOST_FILL) or _is_filled(data, at, end):
            raise InvalidRequest(
                f"The JPEG has more than {MOST_FILL} bytes of filling in a row.",
                param=param,
                code="invalid_image",
            )
        if marker is None or marker[1] == b"\xd9":
            return
        scans += marker[1] == b"\xda"
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
        if scans > MOST_SCANS:
            break
    raise InvalidRequest(
        f"The JPEG has more than {MOST_SCANS} scans, or {MOST_SEGMENTS} segments.",
        param=param,
        code="invalid_image",
    )


def _marker(data: bytes, at: int) -> re.Match[bytes] | None:
    """The next marker, looked for in steps: nothing else runs in Python while a search does."""
    for start in range(at, len(data), STEP):
        if found := JPEG_MARKER.search(data, start, start + STEP + 1):
            return found
    return None


def _is_filled(data: bytes, at: int, end: int) -> bool:
    fill = bytes([255]) * MOST_FILL
    return any(
        data.find(fill, start, min(end, start + STEP + MOST_FILL)) >= 0 for start in range(at, end, STEP)
    )


def rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, transparency over white."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        image = _eight_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, where Pillow would clip it, with its one transparent value as alpha."""
    import numpy as np

    values = np.asarray(image)
    grey = Image.fromarray((values // 257).clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def padded(image: Image.Image) -> Image.Image:
    """The picture, or a very long one in the middle of a white one that is less so."""
    width, height = image.size
    shape = max(width, -(-height // MAX_ASPECT_RATIO)), max(height, -(-width // MAX_ASPECT_RATIO))
    if shape == image.size:
        return image
    if max(shape) > MAX_PADDED_SIDE:
        scale = MAX_PADDED_SIDE / max(shape)
        return padded(image.resize((max(1, round(width * scale)), max(1, round(height * scale)))))
    canvas = Image.new("RGB", shape, "white")
    canvas.paste(image, ((shape[0] - width) // 2, (shape[1] - height) // 2))
    return canvas
