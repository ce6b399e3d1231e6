"""The kind of a medium is told from how its bytes begin, and from nothing else."""

import io

import pytest
from PIL import Image

from app.media import kinds
from tests import clips

CONTAINERS = {
    "mp4": "mov",
    "mov": "mov",
    "mkv": "matroska",
    "webm": "matroska",
    "avi": "avi",
    "flv": "flv",
    "wmv": "asf",
}


@pytest.mark.parametrize("name", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_pictures_are_told(name: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, name)
    head = file.getvalue()[:4096]
    assert (kinds.picture_format(head), kinds.container(head), kinds.kind(head)) == (name, None, "image")


@pytest.mark.parametrize("name", CONTAINERS)
def test_videos_are_told(name: str) -> None:
    head = clips.video(clips.moving(count=2), name)[:4096]
    assert (kinds.picture_format(head), kinds.container(head)) == (None, CONTAINERS[name])
    assert kinds.kind(head) == "video"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"GIF88a",
        b"\x89PNG",
        b"OggS",
        b"ID3\4",
        b"\0\0\1\xba",
        b"\x47" * 4096,
    ]
    + [b"\0\0\0\x20ftyp" + brand for brand in (b"heic", b"avif", b"avis", b"mif1", b"crx ")],
)
def test_all_else_is_nothing(head: bytes) -> None:
    assert (kinds.kind(head), kinds.picture_format(head), kinds.container(head)) == (None, None, None)
