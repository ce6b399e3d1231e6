"""Files that are made to do harm: small ones that take much memory or time, and forms of too many parts."""

import base64
import functools
import io
import struct
import zlib
from fractions import Fraction
from typing import Any

from PIL import Image, PngImagePlugin

from tests.conftest import as_url, png, scene


@functools.cache
def picture() -> bytes:
    """What the attacks that are pictures show."""
    return png(scene())


def after(blank: str, count: int) -> str:
    """The data: URL of a picture behind so many blanks."""
    return as_url(b"") + blank * count + base64.b64encode(picture()).decode()


def filled() -> bytes:
    """A JPEG with 6 MiB of nothing behind its scan."""
    file = io.BytesIO()
    scene().save(file, "JPEG")
    return file.getvalue()[:-2] + b"\xff" * (6 * 2**20) + b"\xff\xd9"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many white pixels in a few kilobytes."""
    packer = zlib.compressobj(9)
    row = bytes(1) + b"\xff" * -(-width // 8)
    rows = b"".join(packer.compress(row * min(1000, height - done)) for done in range(0, height, 1000))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")


def crumbs(count: int) -> bytes:
    """A picture as a PNG with so many empty chunks."""
    return picture()[:33] + chunk(b"vpAg", b"") * count + picture()[33:]


def scans(count: int, *, before: bytes = b"", between: bytes = b"", after: bytes = b"") -> bytes:
    """A progressive JPEG whose smallest scan is there so often more, for some forty bytes each time."""
    file = io.BytesIO()
    Image.new("L", (64, 64), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    first = data.index(b"\xff\xda")
    pieces = [b"\xff\xda" + piece for piece in data[first + 2 : -2].split(b"\xff\xda")]
    more = between + min(pieces[1:], key=len) * count
    return data[:2] + before + data[2:-2] + more + data[-2:] + after


def webp(count: int, side: int) -> bytes:
    """An animated WEBP: so many frames of a few pixels on a canvas of so many pixels a side."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "WEBP", lossless=True)

    def number(value: int) -> bytes:
        return value.to_bytes(3, "little")

    def part(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data

    frame = part(b"ANMF", bytes(6) + number(15) * 2 + number(100) + b"\0" + file.getvalue()[12:])
    head = part(b"VP8X", b"\2\0\0\0" + number(side - 1) * 2) + part(b"ANIM", bytes(6))
    return part(b"RIFF", b"WEBP" + head + frame * count)


def gif(count: int, side: int) -> bytes:
    """A GIF of the same kind."""
    file = io.BytesIO()
    Image.new("P", (16, 16)).save(file, "GIF")
    data = file.getvalue()
    frame = data.index(b",\0\0\0\0\x10\0\x10")
    size, delay = struct.pack("<HH", side, side), b"!\xf9\4\0\4\0\0\0"
    return data[:6] + size + data[10:frame] + (delay + data[frame:-1]) * count + b";"


def streams(count: int, size: int, said: int) -> bytes:
    """An MKV of so many streams of one JPEG, whose header says that it is smaller than it is."""
    import av

    picture, file = io.BytesIO(), io.BytesIO()
    Image.new("L", (size, size), 128).save(picture, "JPEG", quality=1)
    with av.open(file, "w", format="matroska") as output:
        for _ in range(count):
            stream: Any = output.add_stream("mjpeg", rate=1)
            stream.width = stream.height = said
            stream.pix_fmt = "yuvj420p"
        output.start_encoding()
        for stream in output.streams:
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1), True
            packet.pts = packet.dts = 0
            output.mux(packet)
    return file.getvalue()


def promised(samples: int, tracks: int) -> bytes:
    """An MP4 of a few hundred bytes a track that says it has so many samples: FFmpeg makes tables of them."""

    def atom(name: bytes, *parts: bytes) -> bytes:
        return struct.pack(">I", 8 + sum(map(len, parts))) + name + b"".join(parts)

    def full(name: bytes, *numbers: int) -> bytes:
        return atom(name, bytes(4), struct.pack(f">{len(numbers)}I", *numbers))

    entry = struct.pack(">6xH16xHHIIIH32sHh", 1, 64, 64, 0x480000, 0x480000, 0, 1, b"", 24, -1)
    table = (
        atom(b"stsd", bytes(4), struct.pack(">I", 1), atom(b"mp4v", entry)), full(b"stts", 1, samples, 1),
        full(b"stsc", 1, 1, samples, 1), full(b"stsz", 1, samples), full(b"stco", 1, 40), full(b"stss", 1, 1),
    )  # fmt: skip
    handler = atom(b"hdlr", bytes(8), b"vide", bytes(12), b"x\0")
    found = atom(b"minf", full(b"vmhd", 0, 0), atom(b"stbl", *table))
    track = atom(b"trak", atom(b"mdia", full(b"mdhd", 0, 0, 1000, 1000, 0x55C40000), handler, found))
    header = full(b"mvhd", 0, 0, 1000, 1000, 0x10000, *[0] * 19)
    start = atom(b"ftyp", b"isom" + bytes(4) + b"isom") + atom(b"mdat", bytes(100))
    return start + atom(b"moov", header, track * tracks)


def wordy(number: int = 0) -> bytes:
    """A picture with 7 MiB of text."""
    texts = PngImagePlugin.PngInfo()
    texts.add(b"tEXt", b"Comment\0" + str(number).encode() + b" " * (7 * 2**20))
    file = io.BytesIO()
    scene().save(file, "PNG", pnginfo=texts)
    return file.getvalue()


def form(*parts: tuple[str, bytes]) -> bytes:
    """A form of these parts: what stands in and behind a name's quotes, and the content."""
    head = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
    return b"".join(head.format(name).encode() + data + b"\r\n" for name, data in parts) + b"--x--\r\n"


def upload(*parts: tuple[str, bytes]) -> bytes:
    """A form of a picture and these parts."""
    return form(('file"; filename="a.png', picture()), *parts)


def audio() -> bytes:
    """A second of silence in an MP4."""
    import av
    import numpy as np

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream: Any = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()
