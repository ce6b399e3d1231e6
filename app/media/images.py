"""From bytes to a picture: told by content, checked before it is decoded, brought to 8-bit RGB upright.

Only formats that people send are let in: the decoders of rare ones are where the holes were. The size is
checked from the header, before a pixel is unpacked, since a small file can unpack into gigabytes.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from app.errors import InvalidRequest
from app.media.trim import trimmed

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
MAX_ASPECT_RATIO = 40
"""Longer pictures are padded to so many times their width: Qwen-VL's processors refuse those over 200, and
the demo model sees in thin ones what is not there."""
MAX_PADDED_SIDE = 4096
"""The length to which such a picture is scaled first: a padded line of a million pixels takes gigabytes."""
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
STRIP = 1 << 20
"""Pixels that are converted at a time."""
# Pillow's own limit warns, then raises, at numbers of its own; ours is checked first.
Image.MAX_IMAGE_PIXELS = None
# Its warnings are about odd metadata and palettes' transparency, which is laid over white here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def pixels(data: bytes, param: str, max_pixels: int) -> int:
    """How many pixels the header of a picture announces, 0 where there is no readable one; raises
    InvalidRequest if they are more than `max_pixels`, or in more pieces than pictures have.
    """
    try:
        with Image.open(io.BytesIO(trimmed(data, param)), formats=FORMATS) as image:
            _check_size(image, param, max_pixels)
            return image.width * image.height
    except InvalidRequest:
        raise
    except Exception:  # decode will say what is wrong
        return 0


def decode(data: bytes, param: str, max_pixels: int) -> Image.Image:
    """A picture as 8-bit RGB, upright, transparency over white; raises InvalidRequest naming `param`."""
    try:
        with Image.open(io.BytesIO(trimmed(data, param)), formats=FORMATS) as image:
            _check_size(image, param, max_pixels)
            _scale_transparency(image)
            image.load()
            with contextlib.suppress(Exception):  # broken Exif: as it is, as browsers show it
                ImageOps.exif_transpose(image, in_place=True)
            plain = rgb(image)
            plain.info = {}  # texts, profiles, Exif: up to all of the file, and copies would have them too
            return plain
    except InvalidRequest:
        raise
    except UnidentifiedImageError:
        raise unknown(param) from None
    except Exception:  # Pillow raises nearly anything on broken files
        raise InvalidRequest("The picture is broken or cut off.", param=param, code="invalid_image") from None


def _scale_transparency(image: Any) -> None:
    """Bring a transparent value of other than 8 bits to the 8 that Pillow brings the pixels to."""
    form, value = str(image.tile[0].args) if image.tile else "", image.info.get("transparency")
    if form in ("L;2", "L;4") and isinstance(value, int):
        image.info["transparency"] = value * 255 // (2 ** int(form[-1]) - 1)
    elif form == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(one >> 8 for one in value)


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


def rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, transparency over white; in strips, since what is between takes several times the memory."""
    if image.mode not in SIXTEEN_BITS and not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        strip = (_eight_bit(strip) if image.mode in SIXTEEN_BITS else strip).convert("RGBA")
        white.paste(strip, (0, top), strip.getchannel("A"))
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
