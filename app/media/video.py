"""Video files to the few frames that a model sees: counted from the packets, decoded only where kept.

What a header says of length and rate is believed of nothing: the packets are counted first, which decodes
none. The container is named to FFmpeg (kinds.py), which is never left to guess: playlists and the like, which
open other files, are no containers here. One frame is in memory at a time, beside those that were shrunk.
"""

import bisect
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

from app.errors import InvalidRequest, Unavailable
from app.media import kinds, probe, trim
from app.media.limits import Limits, check_count

log = logging.getLogger(__name__)

CODECS = (
    "h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4", "msmpeg4", "msmpeg4v2",
    "msmpeg4v1", "mpeg1video", "mpeg2video", "h263", "h263p", "flv", "vp6", "vp6f", "vp6a", "wmv1", "wmv2",
    "wmv3", "vc1", "mjpeg", "prores", "dvvideo", "theora", "gif", "rawvideo", "flashsv", "ffv1", "huffyuv",
)  # fmt: skip
"""Decoders that may be opened at all."""
REFERRING = ("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9")
"""Those that hold up to 16 frames, which may have as many bytes each as `Limits.pixels`."""
FASTEST = 1000.0
"""Frames per second beyond which a rate is a lie."""
LOOK_EVERY = 64
MOST_STREAMS = 4
"""Of video in a file, cover pictures too: FFmpeg decodes a frame of each to open it."""
JPEG_SCAN = b"\xff\xda"
Size = tuple[int, int]


class Plan(Protocol):
    """Which frames are kept, by number, and what is made of one, an array (height, width, 3) of bytes."""

    @property
    def indices(self) -> Sequence[int]: ...

    @property
    def fit(self) -> Callable[[Any], Any]: ...


Planner = Callable[[int, float, Size], Plan]
"""Plans for so many frames, at so many per second, of a width and height."""


@dataclass(frozen=True)
class Video:
    """What was kept: `frames` (frames, height, width, 3), those with the numbers `indices` of the file's
    `total`, at `fps` per second; `size` is the file's own width and height, upright.
    """

    frames: Any
    indices: tuple[int, ...]
    fps: float
    total: int
    size: Size


@dataclass(frozen=True)
class Packets:
    """What a file really has: `times` of its frames in order, in `base` seconds (only numbers, where
    `is_timed` is false), and `keys` of those that can be decoded without others.
    """

    times: tuple[int, ...]
    keys: tuple[int, ...]
    base: float
    rate: float
    is_timed: bool


def decode(file: Any, head: bytes, planner: Planner, limits: Limits, param: str, stopped: Event) -> Video:
    """The frames that the plan keeps; raises InvalidRequest for what is no video or over a limit."""
    import av
    import numpy as np

    container = "gif" if head.startswith(b"GIF8") else kinds.container(head)
    if container is None:
        raise _broken(
            param, "The data is no video of a known kind (MP4, MOV, MKV, AVI, FLV, WMV, GIF, WEBP)."
        )
    try:
        if told := _trouble(file, container, limits, stopped):
            raise _broken(param, told)
        _check_streams(file, container, limits, param)
        with _opened(file, container, limits) as (source, stream):
            size = _size(stream, limits, param)
            packets = _packets(source, stream, container, param, stopped)
            _check(packets, stream, limits, param)
            if container == "gif":
                limits.check_animation(len(packets.times), *size, param)
        turn = _rotation(file, container, limits)
        upright = size[::-1] if turn % 180 else size
        plan = planner(len(packets.times), packets.rate, upright)
        picks = _picks(packets, plan.indices)
        shrunk = _kept(file, container, picks, packets, limits, plan, turn, param, stopped)
    except (av.error.FFmpegError, OSError, ValueError, IndexError, EOFError) as error:
        log.debug("a video was refused: %r", error)
        raise _broken(param, probe.BROKEN) from None
    frames = np.stack([shrunk[pick] for pick in picks])
    return Video(frames, tuple(plan.indices), packets.rate, len(packets.times), upright)


def _trouble(file: Any, container: str, limits: Limits, stopped: Event) -> str | None:
    try:
        return probe.trouble(file, container, _options(container, "none", limits), stopped)
    except OSError:  # no disk, no memory, no descriptors
        raise Unavailable("The server cannot look at videos now.") from None


def _check_streams(file: Any, container: str, limits: Limits, param: str) -> None:
    """Look at the header with no decoder: opening a file decodes, before anything can be asked."""
    with _container(file, container, "none", limits) as source:
        if len(source.streams.video) > MOST_STREAMS:
            raise _broken(param, f"The video has more than {MOST_STREAMS} streams of pictures.")
        for stream in source.streams.video:
            if (context := stream.codec_context) and context.width:
                limits.check_size(context.width, context.height, param)


def _container(file: Any, container: str, codecs: str, limits: Limits) -> Any:
    """The file as FFmpeg reads it, by these decoders."""
    import av

    file.seek(0)
    options = _options(container, codecs, limits)
    return av.open(file, "r", format=container, options=options, metadata_errors="ignore")


def _options(container: str, codecs: str, limits: Limits) -> dict[str, str]:
    options = {"codec_whitelist": codecs, "protocol_whitelist": "", "max_pixels": str(limits.pixels)}
    return options | ({"enable_drefs": "0"} if container == "mov" else {})


@contextlib.contextmanager
def _opened(file: Any, container: str, limits: Limits) -> Iterator[tuple[Any, Any]]:
    """The file open, and its first video stream that is no cover picture."""
    import av

    with _container(file, container, ",".join(CODECS), limits) as source:
        attached = av.stream.Disposition.attached_pic
        streams = [one for one in source.streams.video if not one.disposition & attached]
        if not streams:
            raise ValueError("no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise ValueError("no decoder")
        stream.codec_context.thread_type = "SLICE"
        stream.codec_context.options = {"max_pixels": str(limits.pixels)}
        yield source, stream


def _size(stream: Any, limits: Limits, param: str) -> Size:
    """Width and height as the header says; raises InvalidRequest for too many pixels or another codec."""
    context = stream.codec_context
    if context.name not in CODECS:
        raise _broken(param, "The video's codec is none that is decoded here.")
    if not context.width:  # FFmpeg, opening the file, met frames over max_pixels, or none
        raise _broken(param, f"The video has no frames of at most {limits.pixels / 1e6:g} megapixels.")
    limits.check_size(context.width, context.height, param)
    bits = context.format.padded_bits_per_pixel if context.format else 12  # as 8-bit 4:2:0 has
    if context.name in REFERRING and context.width * context.height * bits > 8 * limits.pixels:
        raise _broken(param, f"The video has frames of more than {limits.pixels / 1e6:g} MB.")
    return context.width, context.height


def _packets(source: Any, stream: Any, container: str, param: str, stopped: Event) -> Packets:
    """What the file has, from reading it through without decoding."""
    times: list[int | None] = []
    keys: list[int] = []
    ends = 0
    for packet in source.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        if stream.codec_context.name == "mjpeg" and bytes(packet).count(JPEG_SCAN) > trim.MOST_SCANS:
            raise _broken(param, "The video has a frame of too many scans.")
        times.append(packet.pts)
        ends = max(ends, (packet.pts or 0) + (packet.duration or 0))
        if packet.is_keyframe and packet.pts is not None:
            keys.append(packet.pts)
        check_count(len(times), param)
        if len(times) % LOOK_EVERY == 0 and stopped.is_set():
            raise ValueError("stopped")
    if not times:
        raise _broken(param, "The video has no frames.")
    known = sorted(time for time in times if time is not None)
    timed = len(set(known)) == len(times)
    base = float(stream.time_base or 0)
    is_gif = container == "gif"  # whose frames need all before, and whose last one may be shown for long
    shown = [*known, ends] if is_gif else known
    return Packets(
        tuple(known) if len(known) == len(times) else tuple(range(len(times))),
        () if is_gif else tuple(sorted(keys)),
        base,
        _rate(shown, base, stream.average_rate, len(times) + is_gif),
        timed,
    )


def _rate(times: Sequence[int], base: float, said: Any, count: int) -> float:
    """Frames per second: as the header says where that is about what the times say, else the latter."""
    told = float(said) if said else 0.0
    span = (times[-1] - times[0]) * base if len(times) == count and count > 1 else 0.0
    if span > 0 and not (told and abs((count - 1) / span / told - 1) < 0.02):
        told = (count - 1) / span
    return told if 0 < told <= FASTEST else 24.0


def _check(packets: Packets, stream: Any, limits: Limits, param: str) -> None:
    count = len(packets.times)
    length = count / packets.rate
    if packets.is_timed:
        length = max(length, (packets.times[-1] - packets.times[0]) * packets.base)
    limits.check_seconds(length, param)
    said = int(stream.frames or 0)
    if said - count > max(2, 0.02 * said):
        raise _broken(param, probe.BROKEN)


def _picks(packets: Packets, indices: Sequence[int]) -> list[int]:
    """Which of the frames, by their times or else numbers, are shown when those with these numbers would be,
    were all equally long.
    """
    if not packets.is_timed:
        return [min(index, len(packets.times) - 1) for index in indices]
    times, first = packets.times, packets.times[0]
    found = []
    for index in indices:
        time = first + (index + 0.5) / packets.rate / packets.base
        found.append(times[max(0, bisect.bisect_right(times, time) - 1)])
    return found


def _rotation(file: Any, container: str, limits: Limits) -> int:
    """By how much frames are to be turned counterclockwise, from the first of them."""
    with _opened(file, container, limits) as (source, stream):
        return int(getattr(next(source.decode(stream), None), "rotation", 0) or 0) % 360


class _MissedError(Exception):
    """A seek came out behind what was sought."""


def _kept(
    file: Any,
    container: str,
    picks: Sequence[int],
    packets: Packets,
    limits: Limits,
    plan: Plan,
    turn: int,
    param: str,
    stopped: Event,
) -> dict[int, Any]:
    """The frames that were picked, shrunk."""
    import numpy as np

    def shrunk(frame: Any) -> Any:
        limits.check_size(frame.width, frame.height, param)
        array = _array(frame)
        return plan.fit(np.ascontiguousarray(np.rot90(array, turn // 90)) if turn else array)

    for seeks in (True, False) if packets.is_timed and packets.keys else (False,):
        with _opened(file, container, limits) as (source, stream), contextlib.suppress(_MissedError):
            kept: dict[int, Any] = {}
            for found, frame in _decoded(source, stream, picks, packets, seeks, stopped):
                kept |= dict.fromkeys(found, shrunk(frame))
            return kept
    raise ValueError("not all frames could be decoded")


def _decoded(
    source: Any, stream: Any, picks: Sequence[int], packets: Packets, seeks: bool, stopped: Event
) -> Iterator[tuple[list[int], Any]]:
    """The picked frames in order, each with what it was picked as; jumps to the key frame before the next."""
    left = deque(sorted(set(picks)))
    keys = packets.keys if seeks else ()
    reached = goal = -1 if not packets.is_timed else packets.times[0] - 1
    number = -1
    last: Any = None

    def next_key() -> int:
        before = bisect.bisect_right(keys, left[0]) - 1 if left else -1
        return keys[before] if before >= 0 else reached

    while left:
        if jumped := next_key() > max(reached, goal):
            goal = next_key()
            source.seek(goal, stream=stream, backward=True)
        for frame in (frame for packet in source.demux(stream) for frame in packet.decode()):
            number += 1
            time = frame.pts if packets.is_timed else number
            if stopped.is_set() or time is None:
                raise ValueError("stopped")
            if jumped and time > goal:
                raise _MissedError
            jumped, reached, last = False, time, frame
            found = list(_taken(left, time))
            if found:
                yield found, frame
            if not left or next_key() > max(reached, goal):
                break
        else:  # its last frames do not decode
            if last is None:
                raise ValueError("frames are missing")
            yield list(_taken(left, left[-1])), last


def _taken(left: deque[int], time: int) -> Iterator[int]:
    while left and left[0] <= time:
        yield left.popleft()


def _array(frame: Any) -> Any:
    """A frame as (height, width, 3), what is transparent white."""
    import numpy as np

    if not (frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)):
        return frame.to_ndarray(format="rgb24")
    pixels = frame.to_ndarray(format="rgba").astype(np.uint16)
    alpha = pixels[..., 3:]
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)


def _broken(param: str, text: str) -> InvalidRequest:
    return InvalidRequest(text, param=param, code="invalid_video")
