"""What bytes are, told from how they begin: never from a name, a header or a data: URL's own words."""

from typing import Literal

Kind = Literal["image", "video"]

PICTURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
STILL_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"jxl ", b"crx ")
"""Pictures that look like MP4 and are not taken."""
ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
"""How MP4 and MOV may begin, after a length."""
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


def picture_format(head: bytes) -> str | None:
    """Pillow's name of a picture's format, of those that are taken."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in PICTURES.items() if head.startswith(magic)), None)


def container(head: bytes) -> str | None:
    """FFmpeg's name of a video file's container, of those that are taken."""
    if head[4:8] in ATOMS and not (head[4:8] == b"ftyp" and head[8:12] in STILL_BRANDS):
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"FLV"):
        return "flv"
    return "asf" if head.startswith(ASF) else None


def kind(head: bytes) -> Kind | None:
    """Whether bytes that begin so are a picture or a video."""
    return "image" if picture_format(head) else "video" if container(head) else None
