"""Pictures: every mode becomes upright 8-bit RGB, and what is too large or broken is refused by name."""

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from app.errors import InvalidRequest
from app.media import images
from tests.harmful import chunk, scans

MANY = 100_000_000
WHITE, BLACK, RED, GREEN, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)
Colour = tuple[int, int, int]


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes, max_pixels: int = MANY) -> Image.Image:
    return images.padded(images.decode(data, "place", max_pixels))


def colour(image: Image.Image, x: int = 0, y: int = 0) -> Colour:
    pixel = image.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return pixel[0], pixel[1], pixel[2]


def near(found: Colour, expected: Colour, within: int = 2) -> bool:
    return all(abs(one - other) <= within for one, other in zip(found, expected, strict=True))


def grey16(*values: int, transparent: int | None = None) -> bytes:
    """A PNG of one row of 16-bit grey pixels."""
    header = struct.pack(">IIBBBBB", len(values), 1, 16, 0, 0, 0, 0)
    row = zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values))
    alpha = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + alpha + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def transparent_rgb16() -> bytes:
    """A PNG of 16-bit pixels whose colour is the transparent one."""
    value = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress((b"\0" + 4 * value) * 4))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", value) + data + chunk(b"IEND", b"")


def palette(*, transparent: bool) -> bytes:
    """Two palette pixels, red and green; the green one may be transparent."""
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    return saved(image, transparency=1) if transparent else saved(image)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved(Image.new("RGB", (4, 4), RED)), RED),
        (saved(Image.new("RGBA", (4, 4), (255, 0, 0, 255))), RED),
        (saved(Image.new("RGBA", (4, 4), (255, 0, 0, 0))), WHITE),
        (saved(Image.new("RGBA", (4, 4), (0, 0, 0, 51))), (204, 204, 204)),
        (saved(Image.new("LA", (4, 4), (0, 255))), BLACK),
        (saved(Image.new("LA", (4, 4), (0, 0))), WHITE),
        (saved(Image.new("LA", (4, 4), (0, 51))), (204, 204, 204)),
        (saved(Image.new("L", (4, 4), 77)), (77, 77, 77)),
        (saved(Image.new("1", (4, 4), 1)), WHITE),
        (saved(Image.new("1", (4, 4), 0)), BLACK),
        (saved(Image.new("L", (4, 4), 77), transparency=77), WHITE),
        (transparent_rgb16(), WHITE),
        (saved(Image.new("RGB", (4, 4), RED), transparency=RED), WHITE),
        (saved(Image.new("RGB", (4, 4), RED), "JPEG"), RED),
        (saved(Image.new("L", (4, 4), 77), "JPEG"), (77, 77, 77)),
        (saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"), RED),
        (saved(Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "JPEG"), BLACK),
        (saved(Image.new("RGB", (4, 4), BLUE), "BMP"), BLUE),
        (saved(Image.new("RGB", (4, 4), BLUE), "GIF"), BLUE),
        (saved(Image.new("RGB", (4, 4), BLUE), "WEBP", lossless=True), BLUE),
        (saved(Image.new("RGBA", (4, 4), (0, 0, 255, 0)), "WEBP", lossless=True), WHITE),
    ],
    ids=[
        "RGB",
        "RGBA",
        "RGBA-clear",
        "RGBA-half",
        "LA",
        "LA-clear",
        "LA-half",
        "L",
        "1-white",
        "1-black",
        "L-key",
        "RGB16-key",
        "RGB-key",
        "JPEG",
        "JPEG-grey",
        "CMYK",
        "CMYK-black",
        "BMP",
        "GIF",
        "WEBP",
        "WEBP-clear",
    ],
)
def test_every_mode_becomes_rgb_over_white(data: bytes, expected: Colour) -> None:
    image = decoded(data)
    assert (image.mode, image.size) == ("RGB", (4, 4))
    assert near(colour(image), expected)


@pytest.mark.parametrize(("transparent", "second"), [(False, GREEN), (True, WHITE)])
def test_a_palette_is_resolved(transparent: bool, second: Colour) -> None:
    image = decoded(palette(transparent=transparent))
    assert [colour(image, x) for x in (0, 1)] == [RED, second]


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    image = decoded(grey16(0, 257, 32_768, 65_535))
    assert [colour(image, x)[0] for x in range(4)] == pytest.approx([0, 1, 128, 255], abs=1)


def test_a_transparent_value_of_sixteen_bits_is_white() -> None:
    image = decoded(grey16(0, 30_000, transparent=30_000))
    assert [colour(image, x) for x in (0, 1)] == [BLACK, WHITE]


@pytest.mark.parametrize("bits", [2, 4])
def test_a_transparent_value_of_few_bits_is_white(bits: int) -> None:
    row = bytes([0, 0b1000_0000])  # of the first pixel the highest bit is set
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0))
    key = chunk(b"tRNS", struct.pack(">H", 2 ** (bits - 1)))
    data = b"\x89PNG\r\n\x1a\n" + header + key + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    image = decoded(data)
    assert [colour(image, x) for x in (0, 1)] == [WHITE, BLACK]


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [(1, (8, 4), (0, 0)), (2, (8, 4), (7, 0)), (3, (8, 4), (7, 3)), (6, (4, 8), (3, 0)), (8, (4, 8), (0, 7))],
)
def test_a_turned_photo_is_made_upright(
    orientation: int, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = Image.new("RGB", (8, 4), WHITE)
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decoded(saved(image, "PNG", exif=exif))
    assert upright.size == size
    assert colour(upright, *corner) == RED


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01", b"Exif\0\0MM\0*\xff\xff\xff\xff"]
)
def test_broken_exif_does_not_spoil_a_picture(exif: bytes) -> None:
    assert near(colour(decoded(saved(Image.new("RGB", (4, 4), RED), "JPEG", exif=exif))), RED)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), one) for one in (RED, GREEN, BLUE)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(colour(decoded(data)), RED)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (1, 1)),
        ((40, 1), (40, 1)),
        ((41, 1), (41, 2)),
        ((1, 41), (2, 41)),
        ((3000, 2), (3000, 75)),
        ((1, 1000), (25, 1000)),
    ],
)
def test_extreme_shapes_are_padded_with_white(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = decoded(saved(Image.new("RGB", size, RED)))
    assert image.size == expected
    assert max(expected) <= images.MAX_ASPECT_RATIO * min(expected)
    counts = {pixel: count for count, pixel in image.getcolors() or []}
    assert counts[RED] == size[0] * size[1]
    assert sum(counts.values()) == counts[RED] + counts.get(WHITE, 0)


@pytest.mark.parametrize("size", [(1, 1_000_000), (400_000, 1), (3, 200_000)])
def test_a_line_of_many_pixels_is_scaled_before_it_is_padded(size: tuple[int, int]) -> None:
    image = decoded(saved(Image.new("1", size, 1)))
    assert max(image.size) == images.MAX_PADDED_SIDE
    assert max(image.size) <= images.MAX_ASPECT_RATIO * min(image.size)


def test_a_large_picture_within_the_limit_is_taken() -> None:
    image = decoded(saved(Image.new("1", (8000, 8000), 1)))
    assert image.size == (8000, 8000)
    assert colour(image, 7999, 7999) == WHITE


@pytest.mark.parametrize(("pixels", "good"), [(16, True), (15, False)])
def test_the_limit_counts_pixels(pixels: int, good: bool) -> None:
    data = saved(Image.new("RGB", (4, 4)))
    if good:
        decoded(data, pixels)
    else:
        with pytest.raises(InvalidRequest, match="4 × 4"):
            decoded(data, pixels)


def declared(width: int, height: int) -> list[bytes]:
    """Pictures whose headers say so, and that hold no pixels to decode."""
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    small = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00\x3b"
    bmp = bytearray(saved(Image.new("RGB", (1, 1)), "BMP"))
    bmp[18:26] = struct.pack("<ii", width, height)
    return [png + chunk(b"IDAT", zlib.compress(bytes(99))), screen + frame, small + frame, bytes(bmp)]


@pytest.mark.parametrize("number", range(4), ids=["PNG", "GIF", "GIF frame", "BMP"])
def test_the_size_is_checked_from_the_header(number: int) -> None:
    with pytest.raises(
        InvalidRequest, match=r"40000 × 50000 = 2000\.0 megapixels; at most 100 are taken"
    ) as caught:
        decoded(declared(40_000, 50_000)[number])
    assert (caught.value.code, caught.value.param) == ("image_too_large", "place")


JPEG = saved(Image.effect_noise((64, 64), 50), "JPEG")
TIFF = saved(Image.new("RGB", (4, 4)), "TIFF")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no picture of a known kind"),
        (b"hello", "no picture of a known kind"),
        (b"%PDF-1.7", "no picture of a known kind"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture of a known kind"),
        (TIFF, "no picture of a known kind"),
        (JPEG[: len(JPEG) // 2], "broken or cut off"),
        (saved(Image.new("RGB", (9, 9)))[:44], "broken or cut off"),
        (declared(9, 9)[0], "broken or cut off"),
        (saved(Image.effect_noise((64, 64), 50))[:-100], "broken or cut off"),
    ],
    ids=range(9),
)
def test_broken_data_is_refused_as_what_it_is(data: bytes, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text) as caught:
        decoded(data)
    assert (caught.value.code, caught.value.param) == ("invalid_image", "place")


def test_a_picture_of_many_scans_is_refused_before_it_is_decoded() -> None:
    """Of 64 megapixels each scan takes 50 ms, and nothing can stop it: a small file would take hours."""
    thumbnail = b"\xff\xe1\x04\0" + scans(10)[:0x3FE].ljust(0x3FE, b"\xff")
    assert decoded(scans(50, before=thumbnail, after=scans(90))).size == (64, 64)
    for hidden in (b"", b"\xff\x01\xff\xff", b"\xff\xff\xfe\0\x04\xff\xd9"):
        with pytest.raises(InvalidRequest, match="more than 100 scans") as caught:
            images.pixels(scans(101, between=hidden), "place", MANY)
        assert (caught.value.code, caught.value.param) == ("invalid_image", "place")


def test_a_jpeg_of_filling_is_refused_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over it Pillow and libjpeg go byte by byte, or time and again: 62 MiB took a minute."""
    end = JPEG.index(b"\xff\xda")
    inside = b"\xff\xe1\xff\xff" + b"\xff" * 65_533
    for harmless in (
        JPEG[:-2] + b"\xff" * 99 + JPEG[-2:],
        JPEG[:2] + inside + JPEG[2:],
        JPEG + b"\xff" * 9999,
    ):
        assert images.pixels(harmless, "place", MANY) == 64 * 64
        assert decoded(harmless).size == (64, 64)
    stuffed = JPEG[:-2] + b"\xff\0" * 200_000 + JPEG[-2:]
    assert images.pixels(stuffed, "place", MANY) == 64 * 64
    monkeypatch.setattr(Image, "open", None)
    for where in (2, end, len(JPEG) - 2):
        for before in (0, 65_000, 200_000):
            data = JPEG[:where] + b"\0" * (before if where > end else 0) + b"\xff" * 5000 + JPEG[where:]
            with pytest.raises(InvalidRequest, match="4096 bytes of filling"):
                images.pixels(data, "place", MANY)
    with pytest.raises(InvalidRequest, match="4096 bytes of filling"):
        images.pixels(JPEG[:end] + b"\0" * 5000 + JPEG[end:], "place", MANY)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_of_a_picture_nothing_but_its_pixels_is_held(kind: str, mode: str) -> None:
    """What is prepared is kept, and counted by its pixels."""
    texts, exif = PngImagePlugin.PngInfo(), Image.Exif()
    texts.add_text("note", "words" * 1000)
    exif[0x010E] = "words" * 1000
    known: dict[str, Any] = {"icc_profile": b"profile" * 1000, "exif": exif}
    more = {"pnginfo": texts} if kind == "PNG" else {"comment": b"words"} if kind == "JPEG" else {}
    data = saved(Image.new("L" if kind == "JPEG" else mode, (4, 4)), kind, **known, **more)
    image = decoded(data).resize((2, 2))
    assert image.info == {}
    assert all(len(value) < 100 for value in vars(image).values() if hasattr(value, "__len__"))


def test_bytes_flipped_at_random_give_a_picture_or_a_refusal() -> None:
    from random import Random

    random = Random(5)
    originals = [
        saved(Image.effect_noise((16, 16), 50), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP")
    ]
    outcomes = set()
    for turn in range(300):
        data = bytearray(originals[turn % 5])
        for _ in range(random.randint(1, 6)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            outcomes.add(images.decode(bytes(data), "place", 1_000_000).mode)
        except InvalidRequest as error:
            outcomes.add(error.code)
    assert outcomes <= {"RGB", "invalid_image", "image_too_large"}
    assert {"RGB", "invalid_image"} <= outcomes
