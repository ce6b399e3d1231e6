"""What was tried to get in by pictures and videos, each with the answer that it gets.

`tests/api/test_media_attacks.py` tries all of it against a real server, and `scripts/doc_tables.py` writes
the same list into docs/attacks.md. In a source, {inside} is the port of a server on loopback that nobody may
reach, {web} one that may be reached and does its worst (media_server.py), {root} the folder that may be read.
"""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tests.conftest import as_url, png, scene

SECONDS = 4
"""The server's --media-timeout."""


@dataclass(frozen=True)
class Attack:
    """A source, or what makes its bytes; and the answer."""

    what: str
    code: str
    message: str
    make: Callable[[], bytes] | None = None
    status: int = 400

    def url(self, **places: object) -> str:
        """What is sent as a picture's URL."""
        return self.what.format(**places) if self.make is None else as_url(self.make())


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


@functools.cache
def _clip() -> bytes:
    from tests import clips

    return clips.video(clips.moving())


@functools.cache
def _picture() -> bytes:
    return png(scene())


def _all(answer: tuple[str, str], *sources: str) -> list[Attack]:
    return [Attack(source, *answer) for source in sources]


def _bytes(answer: tuple[str, str], **made: Callable[[], bytes]) -> list[Attack]:
    return [Attack(name.replace("_", " "), *answer, make) for name, make in made.items()]


INSIDE = (
    "media_not_allowed",
    "The URL's host is not on the public net, and --allowed-media-domain does not name it.",
)
OUTSIDE = (
    "media_not_allowed",
    "The path names no file that may be read: only files under --allowed-media-path are.",
)
NO_FILE = ("media_not_allowed", "The path names no ordinary file.")
NO_URL = (
    "invalid_media_url",
    "The URL, or one that it redirects to, is no plain http or https URL without user and password.",
)
NO_SCHEME = (
    "invalid_media_url",
    "Media come as data:, http:, https: or file: URLs, or as paths; this is neither.",
)
NO_MACHINE = ("invalid_media_url", "The file: URL is none of this machine's, as file:///folder/file is.")
NO_BASE64 = ("invalid_base64", "The data: URL's base64 is broken.")
BROKE = ("media_download_failed", "The download could not be made or broke.")
SHORT = ("media_download_failed", "The download ended too early.")
LOST = ("media_download_failed", "The URL redirects more than 5 times.")
COMPRESSED = ("media_download_failed", "The URL's server sent a compressed body, which was not asked for.")
LATE = ("media_timeout", f"Fetching took longer than {SECONDS} seconds.")
UNKNOWN = (
    "invalid_image",
    "The data is no picture of a known kind (JPEG, PNG, BMP, GIF, WEBP), nor a video.",
)
BROKEN = ("invalid_image", "The picture is broken or cut off.")
BROKEN_VIDEO = ("invalid_video", "The video is broken or cut off.")

ADDRESSES = _all(
    INSIDE,
    "http://127.0.0.1:{inside}/secret.png",
    "http://localhost:{inside}/secret.png",
    "http://LOCALHOST:{inside}/secret.png",
    "http://127.1:{inside}/secret.png",
    "http://2130706433:{inside}/secret.png",
    "http://0x7f000001:{inside}/secret.png",
    "http://0177.0.0.1:{inside}/secret.png",
    "http://0:{inside}/secret.png",
    "http://[::1]:{inside}/secret.png",
    "http://[::ffff:127.0.0.1]:{inside}/secret.png",
    "http://[::ffff:7f00:1]:{inside}/secret.png",
    "http://[::127.0.0.1]:{inside}/secret.png",
    "http://[64:ff9b::7f00:1]:{inside}/secret.png",
    "http://[2002:7f00:1::]:{inside}/secret.png",
    "http://[fec0::1]:{inside}/secret.png",
    "http://[fe80::1]:{inside}/secret.png",
    "http://10.0.0.1:{inside}/secret.png",
    "http://192.168.1.1:{inside}/secret.png",
    "http://172.16.0.1:{inside}/secret.png",
    "http://100.64.0.1:{inside}/secret.png",
    "http://169.254.169.254/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://100.100.100.200/latest/meta-data/",
    "http://192.0.0.192/opc/v2/instance/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[::ffff:168.63.129.16]/machine",
    "http://224.0.0.1:{inside}/secret.png",
    "http://255.255.255.255:{inside}/secret.png",
    "http://127.0.0.1:1/closed",
    "https://127.0.0.1:{inside}/secret.png",
    "http://127.0.0.1:{web}/redirect/http://127.0.0.1:{inside}/secret.png",
    "http://127.0.0.1:{web}/redirect/http://localhost:{inside}/secret.png",
    "http://127.0.0.1:{web}/redirect/http://0x7f000001:{inside}/secret.png",
    "http://127.0.0.1:{web}/redirect/http://168.63.129.16/machine",
    "http://127.0.0.1:{web}/redirect///127.0.0.1:{inside}/secret.png",
)
URLS = [
    *_all(NO_SCHEME, "ftp://example.com/a.png", "gopher://127.0.0.1:6379/_INFO", "javascript:alert(1)"),
    *_all(
        NO_URL,
        "http://user:password@example.com/a.png",
        "http://example.com\\@127.0.0.1/a.png",
        "http://exam ple.com/a.png",
        "http:///a.png",
        "http://[::1/a.png",
        "http://127.0.0.1:99999/a.png",
        "http://a\r\nHost: b/",
        "http://127.0.0.1:{web}/redirect/file:///etc/passwd",
        "http://127.0.0.1:{web}/redirect/ftp://example.com/a.png",
        "http://127.0.0.1:{web}/redirect/data:image/png;base64,AAAA",
    ),
    *_all(
        BROKE,
        "http://no-such-host.invalid/a.png",
        "http://127.0.0.1:{web}/raw-redirect/http://%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1:{inside}/secret.png",
        "http://127.0.0.1:{web}/raw-redirect/http://127%EF%BC%8E0.0.1:{inside}/secret.png",
        "http://127.0.0.1:{web}/raw-redirect//%E9.png",
    ),
    *_all(NO_MACHINE, "file://otherhost/etc/passwd", "file://LOCALHOST.example/etc/passwd"),
    *_all(("invalid_media_url", "The data: URL is not in base64."), "data:image/png,%89PNG"),
    *_all(NO_BASE64, "data:image/png;base64,!!!!", "data:image/png;base64,iVBORw0KGgo"),
]
SERVERS = [
    *(
        Attack(
            f"http://127.0.0.1:{{web}}{path}", "media_download_failed", f"The URL's server answered {status}."
        )
        for path, status in (
            ("/missing.png", 404),
            ("/endless-error/", 404),
            ("/status/500", 500),
            ("/status/204", 204),
        )
    ),
    *_all(LOST, "http://127.0.0.1:{web}/loop/0", "http://127.0.0.1:{web}/circle"),
    *_all(
        UNKNOWN,
        "http://127.0.0.1:{web}/zipped-redirect//html",
        "http://127.0.0.1:{web}/endless-redirect//html",
    ),
    *_all(SHORT, "http://127.0.0.1:{web}/long/scene.png"),
    *_all(BROKEN, "http://127.0.0.1:{web}/short/scene.png"),
    *_all(COMPRESSED, "http://127.0.0.1:{web}/gzip"),
    *_all(BROKE, "http://127.0.0.1:{web}/headers", "http://127.0.0.1:{web}/nonsense"),
    *_all(UNKNOWN, "http://127.0.0.1:{web}/html"),
    *(
        Attack(
            f"http://127.0.0.1:{{web}}{path}", "media_too_large", "The medium has more than 8 MiB.", None, 413
        )
        for path in ("/endless", "/vast")
    ),
]
SLOW = _all(
    LATE,
    "http://127.0.0.1:{web}/drip",
    "http://127.0.0.1:{web}/drip-header",
    "http://127.0.0.1:{web}/drip-chunks",
    "http://127.0.0.1:{web}/silent",
    "http://127.0.0.1:{web}/continue",
)
PATHS = [
    *_all(
        OUTSIDE,
        "/etc/passwd",
        "/etc/no-such-file",
        "file:///etc/passwd",
        "file:///etc/no-such-file",
        "file://LOCALHOST/etc/passwd",
        "file://{root}/../root-evil/scene.png",
        "file://{root}/%2e%2e/root-evil/scene.png",
        "{root}/../root-evil/scene.png",
        "{root}-evil/scene.png",
        "../root-evil/scene.png",
        "below/../../root-evil/scene.png",
        "out.png",
        "away/scene.png",
        "loop.png",
        "missing.png",
        "{root}",
        ".",
        "/dev/zero",
        "/proc/self/environ",
        "scene.png\0.txt",
        "//server/share/scene.png",
        "\\\\server\\share\\scene.png",
        "\\\\.\\PhysicalDrive0",
        "C:\\Windows\\win.ini",
        "NUL",
        "~/scene.png",
    ),
    *_all(NO_FILE, "pipe", "below"),
]
FILES = [
    *_bytes(
        UNKNOWN,
        nothing=lambda: b"",
        SVG=lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        PDF=lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
        HTML=lambda: b"<!DOCTYPE html><html></html>",
        PostScript=lambda: b"%!PS-Adobe-3.0 EPSF-3.0",
        ZIP=lambda: b"PK\x03\x04" + bytes(100),
        TIFF=lambda: b"II*\0\x08\0\0\0" + bytes(100),
        an_HLS_playlist=lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        a_list_of_files_for_FFmpeg=lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
        SDP=lambda: b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
        AVIF=lambda: b"\0\0\0\x20ftypavif" + bytes(100),
    ),
    *_bytes(BROKEN, half_of_a_PNG=lambda: _picture()[: len(_picture()) // 2]),
    *_bytes(
        BROKEN_VIDEO,
        half_of_an_MP4=lambda: _clip()[: len(_clip()) // 2],
        an_MP4_with_sound_only=audio,
        an_MP4_of_nothing=lambda: b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(16),
        an_MKV_of_nothing=lambda: b"\x1aE\xdf\xa3" + bytes(200),
        an_MP4_of_random_bytes=lambda: _clip()[:40] + bytes(range(256)) * 40,
    ),
    *_bytes(
        (
            "image_too_large",
            "The picture has 30000 × 30000 = 900.0 megapixels; at most 70 are taken.",
        ),
        a_PNG_of_30000_by_30000_in_a_few_kilobytes=lambda: bomb(30_000, 30_000),
    ),
    *_bytes(
        ("image_too_large", "The picture has 10000 × 10000 = 100.0 megapixels; at most 70 are taken."),
        a_PNG_of_10000_by_10000=lambda: bomb(10_000, 10_000),
    ),
    *_bytes(
        ("invalid_image", "The JPEG has more than 100 scans, or 2000 segments."),
        a_JPEG_of_thousands_of_scans=lambda: scans(5000),
    ),
]
GROUPS: dict[str, Sequence[Attack]] = {
    "Addresses inside": ADDRESSES,
    "URLs that mean something else": URLS,
    "Servers that misbehave": SERVERS,
    "Servers that take their time": SLOW,
    "Files of the server": PATHS,
    "Bytes that are something else": FILES,
}


def table() -> str:
    """All of it in Markdown."""
    lines: list[str] = []
    for title, attacks in GROUPS.items():
        lines += ["", f"## {title}", "", "| what is sent | answer | |", "|---|---|---|"]
        for attack in attacks:
            shown = attack.what if attack.make else f"`{repr(attack.what)[1:-1]}`"
            lines.append(f"| {shown} | {attack.status} `{attack.code}` | {attack.message} |")
    return "\n".join(lines[1:])
