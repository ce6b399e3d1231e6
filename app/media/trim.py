"""A picture's file as its decoder gets it: without what does not show, in no more pieces than pictures have.

Pillow goes over the pieces of a PNG or GIF, and the runs of a BMP, in Python, and refuses a PNG for long
texts; libjpeg goes over the whole picture for each scan.
"""

import re
import struct

from app.errors import InvalidRequest

MOST_PIECES = 50_000
"""Chunks of a PNG, or blocks of a GIF before its picture: those of 64 MiB are usually 8 KiB each."""
PNG = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
MOST_RUNS = 4 * 2**20
"""Bytes, and pixels, of a BMP that is compressed by runs."""
MOST_SCANS = 100
"""Of a JPEG; ten are usual. Each goes over the whole picture, takes a few bytes, and nothing can stop it."""
MOST_SEGMENTS = 2000
MOST_FILL = 4096
"""Bytes FF in a row between segments, over which libjpeg goes again for each piece that it is fed, and of
anything before the first scan, over which Pillow goes byte by byte."""
STEP = 1 << 16
JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
"""Those that have a length behind them, and the end (D9)."""


def trimmed(data: bytes, param: str) -> bytes:
    """The bytes without texts and profiles; raises InvalidRequest for what would take for ever."""
    if data.startswith(PNG):
        return _png(data, param)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif(data, param)
    if data.startswith(b"BM"):
        _check_runs(data, param)
    elif data.startswith(b"\xff\xd8"):
        _check_scans(data, param)
    return data


def _refused(text: str, param: str) -> InvalidRequest:
    return InvalidRequest(text, param=param, code="invalid_image")


def _png(data: bytes, param: str) -> bytes:
    whole = memoryview(data)
    kept, at = [whole[: len(PNG)]], len(PNG)
    for _ in range(MOST_PIECES):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if kind in PNG_KEPT:
            kept.append(whole[at:end])
        if end >= len(data) or kind == b"IEND":
            return b"".join(kept)
        at = end
    raise _refused(f"The PNG has more than {MOST_PIECES} chunks.", param)


def _gif(data: bytes, param: str) -> bytes:
    """Of what stands before the first picture only its size, its colours and what of it is transparent."""
    at = 13 + (6 << (data[10] & 7) if data[10:11] >= b"\x80" else 0)
    kept, extension = [data[:at]], -1
    for _ in range(MOST_PIECES):
        first = data[at : at + 1]
        if extension >= 0:  # a block of so many bytes, the last one of none
            at += 1 + int.from_bytes(first)
            if first in (b"", b"\0"):
                if data[extension + 1 : extension + 2] == b"\xf9":
                    kept.append(data[extension:at])
                extension = -1
        elif first in (b",", b";", b""):
            return b"".join(kept) + data[at:]
        else:  # a stray byte, where it is no extension
            extension = at if first == b"!" else -1
            at += 2 if first == b"!" else 1
    raise _refused(f"The GIF has more than {MOST_PIECES} blocks before its picture.", param)


def _check_runs(data: bytes, param: str) -> None:
    """Raise InvalidRequest for a large BMP that is compressed by runs."""
    if len(data) < 34:
        return
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (1, 2) and max(len(data), abs(width * height)) > MOST_RUNS:
        raise _refused(f"The BMP is compressed by runs and has more than {MOST_RUNS} bytes or pixels.", param)


def _check_scans(data: bytes, param: str) -> None:
    """Raise InvalidRequest for a JPEG of more scans, or more filling, than any picture has."""
    at = 2
    scans = 0
    for _ in range(MOST_SEGMENTS):
        marker = _marker(data, at)
        end = len(data) if marker is None else marker.start()
        if (not scans and end - at > MOST_FILL) or _is_filled(data, at, end):
            raise _refused(f"The JPEG has more than {MOST_FILL} bytes of filling in a row.", param)
        if marker is None or marker[1] == b"\xd9":
            return
        scans += marker[1] == b"\xda"
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
        if scans > MOST_SCANS:
            break
    raise _refused(f"The JPEG has more than {MOST_SCANS} scans, or {MOST_SEGMENTS} segments.", param)


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
