"""Files of pictures: what does not show is passed over, and what is made of too many pieces is refused."""

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from app.errors import InvalidRequest
from app.media import images, trim
from tests import harmful
from tests.harmful import chunk

RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), RED).save(file, kind, **options)
    return file.getvalue()


def seen(data: bytes, at: tuple[int, int] = (0, 0)) -> Any:
    assert images.pixels(data, "place", 10**6) == 16
    return images.decode(data, "place", 10**6).getpixel(at)


def refused(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as first:
        images.pixels(data, "place", 10**9)
    with pytest.raises(InvalidRequest) as second:
        images.decode(data, "place", 10**9)
    for caught in (first, second):
        assert (caught.value.code, caught.value.param) == ("invalid_image", "place")
    assert str(first.value) == str(second.value)
    return str(first.value)


LONG = zlib.compress(bytes(3 * 2**20))
EXTRAS = {
    "profile": chunk(b"iCCP", b"profile\0\0" + LONG),
    "text": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "other text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG),
    "broken text": chunk(b"zTXt", b"Comment\0\0garbage"),
    "broken Exif": chunk(b"eXIf", b"garbage"),
}


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
def test_what_stands_beside_the_pixels_of_a_png_spoils_nothing(extra: bytes) -> None:
    data = saved("PNG")
    assert seen(data[:33] + extra + data[33:]) == RED


def test_broken_exif_does_not_spoil_a_webp() -> None:
    assert seen(saved("WEBP", lossless=True, exif=b"Exif\0\0garbage")) == RED


def test_a_png_of_more_chunks_than_pictures_have_is_refused() -> None:
    data = saved("PNG")
    assert seen(data[:33] + chunk(b"vpAg", b"") * (trim.MOST_PIECES - 10) + data[33:]) == RED
    assert "more than 50000 chunks" in refused(harmful.crumbs(trim.MOST_PIECES))


def gif() -> bytes:
    """A transparent pixel first, then red ones."""
    image, file = Image.new("P", (4, 4), 1), io.BytesIO()
    image.putpalette([0, 0, 255, *RED])
    image.putpixel((0, 0), 0)
    image.save(file, "GIF", transparency=0)
    return file.getvalue()


def test_comments_of_a_gif_are_passed_over_and_what_is_transparent_is_not() -> None:
    data = gif()
    at = data.index(b"!\xf9")
    comment = b"!\xfe" + b"\x02hi" * 1000 + b"\0"
    data = data[:at] + comment + b"\0\0" + data[at : at + 8] + comment + data[at + 8 :]
    assert len(trim.trimmed(data, "place")) == len(gif())
    assert (seen(data), seen(data, (1, 1))) == (WHITE, RED)


@pytest.mark.parametrize(
    "blocks",
    [b"!\xfe\0" * trim.MOST_PIECES, b"\0" * trim.MOST_PIECES, b"!\xfe" + b"\x01a" * trim.MOST_PIECES + b"\0"],
    ids=["empty", "stray", "one"],
)
def test_a_gif_of_more_blocks_than_pictures_have_is_refused(blocks: bytes) -> None:
    data = gif()
    at = data.index(b"!\xf9")
    assert "more than 50000 blocks" in refused(data[:at] + blocks + data[at:])


def test_a_gif_that_ends_in_a_comment_is_no_picture() -> None:
    data = gif()[: gif().index(b"!\xf9")]
    assert images.pixels(data + b"!\xfe\x09hi", "place", 10**6) == 0
    with pytest.raises(InvalidRequest, match="no picture"):
        images.decode(data + b"!\xfe\x09hi", "place", 10**6)


def runs(width: int, height: int, more: int = 0) -> bytes:
    """A BMP of white pixels by runs of 100 at most."""
    row = b"".join(bytes([min(100, width - at), 0]) for at in range(0, width, 100)) + b"\0\0"
    data = row * height + b"\0\1" + bytes(more)
    size = 54 + 4
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 1, 0)
    return b"BM" + struct.pack("<IHHI", size + len(data), 0, 0, size) + header + b"\xff\xff\xff\0" + data


def test_a_large_bmp_of_runs_is_refused() -> None:
    assert seen(runs(4, 4)) == WHITE
    for data in (runs(3000, 2000), runs(4, 4, trim.MOST_RUNS)):
        assert "compressed by runs" in refused(data)
    plain = io.BytesIO()
    Image.new("RGB", (2000, 3000)).save(plain, "BMP")
    assert images.pixels(plain.getvalue(), "place", 10**9) == 6_000_000
