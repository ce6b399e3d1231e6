"""What was tried to get in by pictures and videos, each with the answer that it gets.

`tests/api/test_media_attacks.py` tries all of it against a real server, and `scripts/doc_tables.py` writes
the same list into docs/attacks.md. In a source, {inside} is the port of a server on loopback that nobody may
reach, {web} one that may be reached and does its worst (media_server.py), {root} the folder that may be read.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests import harmful
from tests.conftest import as_url

SECONDS = 4
"""The server's --media-timeout."""


@dataclass(frozen=True)
class Attack:
    """A source, or what makes its bytes or the whole URL, of a part of a message; and the answer."""

    what: str
    code: str
    message: str
    make: Callable[[], bytes | str] | None = None
    status: int = 400
    part: str = "image_url"
    more: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the request."""
    param: str | None = "messages[0].content[0].{part}.url"

    def url(self, **places: object) -> str:
        """What is sent as the part's URL."""
        made = self.what.format(**places) if self.make is None else self.make()
        return made if isinstance(made, str) else as_url(made)

    def error(self) -> dict[str, str | None]:
        """The answer's error."""
        param = self.param and self.param.format(part=self.part)
        kind = "invalid_request_error"
        return {"message": self.message, "type": kind, "param": param, "code": self.code}


@functools.cache
def _clip() -> bytes:
    from tests import clips

    return clips.video(clips.moving())


def _all(answer: tuple[str, str], *sources: str) -> list[Attack]:
    return [Attack(source, *answer) for source in sources]


def _bytes(
    answer: tuple[str, str], status: int = 400, part: str = "image_url", /, **made: Callable[[], bytes | str]
) -> list[Attack]:
    return [Attack(name.replace("_", " "), *answer, make, status, part) for name, make in made.items()]


def _form(what: str, status: int, code: str, message: str, param: str | None, *parts: Any) -> Attack:
    return Attack(what, code, message, lambda: harmful.upload(*parts), status, param=param)


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
SEEN = ("", "A large red circle in the center, on a white background.")
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
        "/proc/1/cwd",
        "file:///proc/1/cwd/scene.png",
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
    *_bytes(BROKEN, half_of_a_PNG=lambda: harmful.picture()[: len(harmful.picture()) // 2]),
    *_bytes(
        BROKEN_VIDEO,
        half_of_an_MP4=lambda: _clip()[: len(_clip()) // 2],
        an_MP4_with_sound_only=harmful.audio,
        an_MP4_of_nothing=lambda: b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(16),
        an_MKV_of_nothing=lambda: b"\x1aE\xdf\xa3" + bytes(200),
        an_MP4_of_random_bytes=lambda: _clip()[:40] + bytes(range(256)) * 40,
    ),
    *_bytes(
        (
            "image_too_large",
            "The picture has 30000 × 30000 = 900.0 megapixels; at most 70 are taken.",
        ),
        a_PNG_of_30000_by_30000_in_a_few_kilobytes=lambda: harmful.bomb(30_000, 30_000),
    ),
    *_bytes(
        ("image_too_large", "The picture has 10000 × 10000 = 100.0 megapixels; at most 70 are taken."),
        a_PNG_of_10000_by_10000=lambda: harmful.bomb(10_000, 10_000),
    ),
    *_bytes(
        ("invalid_image", "The JPEG has more than 100 scans, or 2000 segments."),
        a_JPEG_of_thousands_of_scans=lambda: harmful.scans(5000),
    ),
]
ANIMATION = (
    "video_too_large",
    "The animation has 1000 frames of 4000 × 4000 = 16000.0 megapixels together; at most 200 are taken.",
)
HEAVY = [
    *_bytes(
        ANIMATION,
        400,
        "video_url",
        a_WEBP_of_1000_frames_of_4000_by_4000=lambda: harmful.webp(1000, 4000),
        a_GIF_of_1000_frames_of_4000_by_4000=lambda: harmful.gif(1000, 4000),
    ),
    *_bytes(
        ("invalid_video", "The video has more than 4 streams of pictures."),
        an_MKV_of_12_streams_of_4000_by_4000_under_a_header_of_64_by_64=lambda: harmful.streams(12, 4000, 64),
    ),
    *_bytes(
        ("invalid_video", "The video has no frames of at most 70 megapixels."),
        an_MKV_of_9000_by_9000_under_a_header_of_64_by_64=lambda: harmful.streams(1, 9000, 64),
    ),
    *_bytes(
        ("invalid_video", "Opening the video takes too long or too much memory."),
        an_MP4_that_promises_30_million_frames_in_each_of_4_tracks=lambda: harmful.promised(3 * 10**7, 4),
    ),
    *_bytes(
        ("invalid_image", "The JPEG has more than 4096 bytes of filling in a row."),
        a_JPEG_with_6_MiB_of_filling_behind_its_scan=harmful.filled,
    ),
    *_bytes(
        ("invalid_image", "The PNG has more than 50000 chunks."),
        a_PNG_with_600000_empty_chunks=lambda: harmful.crumbs(600_000),
    ),
    *_bytes(
        ("media_too_large", "The medium has more than 8 MiB."),
        413,
        a_data_URL_of_9_MiB=lambda: bytes(9 * 2**20),
    ),
    *_bytes(
        SEEN,
        200,
        a_data_URL_with_4_million_escaped_blanks=lambda: harmful.after("%20", 4_000_000),
        a_data_URL_with_12_million_blanks=lambda: harmful.after(" ", 12_000_000),
        a_PNG_with_7_MiB_of_text=harmful.wordy,
    ),
    Attack(
        "a picture, with `fps` of 1e-308",
        "invalid_value",
        "mm_processor_kwargs.fps is 1e-308; it must be 0.001 to 1000000000.",
        harmful.picture,
        more={"mm_processor_kwargs": {"fps": 1e-308}},
        param="mm_processor_kwargs.fps",
    ),
]
PROMPT = ("prompt", b"What is in this picture?")
TWICE = (400, "invalid_value", "The form has 2 parts of this name.")
LIMITS = "The form has more than 100 parts, a text of more than 1 MiB, or more than 9 MiB."
TOO_MUCH = (413, "body_too_large", LIMITS, None)
FORMS = [
    _form("two files", *TWICE, "file", ('file"; filename="b.png', b""), PROMPT),
    _form("two prompts", *TWICE, "prompt", PROMPT, PROMPT),
    _form(
        "a prompt that is a file",
        400,
        "invalid_value",
        "prompt is a file, where a text without a filename is expected.",
        "prompt",
        ('prompt"; filename="p.json', b"hi"),
    ),
    _form("a prompt of more than a MiB", *TOO_MUCH, ("prompt", b"a" * (2**20 + 1))),
    _form("200 parts that nobody asked for", *TOO_MUCH, *[(f"a{number}", b"") for number in range(200)]),
]
GROUPS: dict[str, Sequence[Attack]] = {
    "Addresses inside": ADDRESSES,
    "URLs that mean something else": URLS,
    "Servers that misbehave": SERVERS,
    "Servers that take their time": SLOW,
    "Files of the server": PATHS,
    "Bytes that are something else": FILES,
    "More work than it looks": HEAVY,
    "Uploads": FORMS,
}
