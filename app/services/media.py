"""A request's pictures and videos: fetched together, checked, and prepared as the model sees them.

What was prepared is kept for a while by its content, so the same picture is decoded and resized once.
"""

import contextlib
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.engine.machine import total_memory
from app.engine.media_types import Clip, ClipPlan, ImagePart, MediaOptions, MediaPart, VideoPart
from app.engine.types import Engine, Message
from app.errors import ContextLengthExceeded, InvalidRequest
from app.media import images, kinds, stills, video
from app.media.body import Body, Budget
from app.media.kept import Kept
from app.media.limits import Limits
from app.media.places import Places
from app.media.sources import Sources
from app.media.together import TookTooLongError, together
from app.media.web import Lines, Web
from app.settings import Settings

KEPT_BYTES = 64 * 2**20
"""Of prepared pictures and clips."""
FETCHING = 8
DECODING = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Threads of one request that fetch, and that decode: running streams need the cores as well."""
PLACES = max(2, min(4, total_memory() // 2**33))
"""Pictures and videos of all requests that are decoded at once: each may take two gigabytes."""
DECODE_SECONDS = 120.0
"""Of each, from when it has its place."""
LIST_FPS = 2.0
"""Of a list of frames that says nothing else, as in qwen-vl-utils."""


@dataclass(frozen=True)
class Medium:
    """A picture or a video that was fetched: one body, or those of its frames. `pixels` of its pictures, as
    their headers say; `seconds` it took.
    """

    part: MediaPart
    bodies: Sequence[Body]
    kind: kinds.Kind
    pixels: int
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """A picture or a clip as the model sees it, and what was done: seconds of fetching and of decoding."""

    part: MediaPart
    size: tuple[int, int]
    fetched: float
    decoded: float
    is_known: bool

    def bytes(self) -> int:
        """Of its pixels."""
        if isinstance(self.part, VideoPart):
            return 0 if self.part.clip is None else int(self.part.clip.frames.nbytes)
        return int(self.part.image.width * self.part.image.height * 3)


class Media:
    """Reads and prepares the media of requests."""

    def __init__(self, settings: Settings) -> None:
        domains = frozenset(re.sub(r"[][]", "", domain).lower() for domain in settings.allowed_media_domain)
        web = Web(domains, settings.max_redirects)
        self.sources = Sources(web, settings.allowed_media_path)
        self._settings = settings
        self.pixels = int(settings.max_image_mp * 1e6)
        self.most_pictures = settings.max_images
        self.total_pixels = int(settings.max_total_mp * 1e6)
        self._kept: Kept[Any, Prepared] = Kept(KEPT_BYTES, Prepared.bytes)
        self._places = Places(PLACES)

    @contextlib.contextmanager
    def read(self, messages: Sequence[Message], watch: Callable[[], None]) -> Iterator[list[Medium]]:
        """The media of these messages, of which all has been checked that needs no decoding; their bytes are
        gone with the block. Raises InvalidRequest.
        """
        parts = [part for message in messages for part in message.parts if isinstance(part, MediaPart)]
        self._check_counts(parts)
        each = [_sources(part) for part in parts]
        flat = [one for several in each for one in several]
        with contextlib.ExitStack() as held:
            fetched = self._fetched(flat, watch)
            for body, _ in fetched:
                held.callback(body.close)
            results = iter(fetched)
            media = [
                self._medium(part, [next(results) for _ in several])
                for part, several in zip(parts, each, strict=True)
            ]
            self._check_totals(media)
            yield media

    def prepare(self, media: Sequence[Medium], engine: Engine, watch: Callable[[], None]) -> list[Prepared]:
        """The media as a model sees them; raises InvalidRequest for those that it, or nobody, can take."""
        for medium in media:
            if medium.kind not in engine.modalities:
                what = "no video" if "image" in engine.modalities else "text only, no pictures"
                raise InvalidRequest(
                    f"This model takes {what}.", param=medium.part.param, code="unsupported_by_model"
                )
        stopped = threading.Event()
        began: dict[str, float] = {}

        def look() -> None:
            watch()
            for param, start in list(began.items()):
                if time.monotonic() - start > DECODE_SECONDS:
                    raise InvalidRequest(
                        f"Decoding took longer than {DECODE_SECONDS:g} seconds.",
                        param=param,
                        code="media_timeout",
                    )

        jobs = [lambda one=medium: self._prepared(one, engine, stopped, began) for medium in media]
        return together(jobs, look, math.inf, DECODING, stop=stopped.set)

    def _check_counts(self, parts: Sequence[MediaPart]) -> None:
        settings = self._settings
        videos = [part for part in parts if isinstance(part, VideoPart)]
        pictures = [part for part in parts if isinstance(part, ImagePart)]
        for found, most, name in (
            (pictures, settings.max_images, "pictures"),
            (videos, settings.max_videos, "videos"),
        ):
            if len(found) > most:
                raise InvalidRequest(
                    f"The request has {len(found)} {name}; the most is {most}.",
                    param=found[most].param,
                    code="too_many_images" if name == "pictures" else "too_many_videos",
                )
        for part in videos:
            if isinstance(part.source, tuple) and len(part.source) > settings.max_frames:
                raise InvalidRequest(
                    f"The video has {len(part.source)} frames; the most is {settings.max_frames}.",
                    param=part.param,
                    code="video_too_long",
                )

    def _fetched(
        self, wanted: Sequence[tuple[Any, str]], watch: Callable[[], None]
    ) -> list[tuple[Body, float]]:
        """The bytes of each, and the seconds that they took; what is named several times is fetched once."""
        settings = self._settings
        budget = Budget(int(settings.max_media_mb * 2**20), int(settings.max_total_media_mb * 2**20))
        lines = Lines()
        places: dict[Any, str] = {}
        for source, param in wanted:
            places.setdefault(source, param)

        def fetch(source: Any, param: str) -> tuple[Body, float]:
            began = time.monotonic()
            return self.sources.read(source, param, budget, lines), time.monotonic() - began

        jobs = [lambda one=one: fetch(*one) for one in places.items()]
        try:
            done = together(
                jobs,
                watch,
                settings.media_timeout,
                FETCHING,
                stop=lines.cut,
                undo=lambda done: done[0].close(),
            )
        except TookTooLongError as late:
            raise InvalidRequest(
                f"Fetching took longer than {settings.media_timeout:g} seconds.",
                param=list(places.values())[late.index],
                code="media_timeout",
            ) from None
        found = dict(zip(places, done, strict=True))
        return [(found[source][0].named(param), found[source][1]) for source, param in wanted]

    def _medium(self, part: MediaPart, fetched: Sequence[tuple[Body, float]]) -> Medium:
        """What was fetched, its kind told from its bytes; raises InvalidRequest for what is neither."""
        bodies = [body for body, _ in fetched]
        seconds = max(taken for _, taken in fetched)
        head = bodies[0].head()
        kind = kinds.kind(head)
        if isinstance(part, VideoPart) and not isinstance(part.source, tuple):
            if kind == "image" and kinds.picture_format(head) not in ("GIF", "WEBP"):
                raise InvalidRequest(
                    "The data is a still picture, no video: send it as a picture.",
                    param=part.param,
                    code="invalid_video",
                )
            if kind is None:
                raise InvalidRequest(
                    "The data is no video of a known kind (MP4, MOV, MKV, AVI, FLV, WMV, GIF, WEBP).",
                    param=part.param,
                    code="invalid_video",
                )
            return Medium(part, bodies, "video", 0, seconds)
        if kind == "video" and isinstance(part, ImagePart):
            return Medium(VideoPart(part.source, part.param, None, part.options), bodies, "video", 0, seconds)
        for body in bodies:
            if kinds.picture_format(head := body.head()) is None:
                if kinds.kind(head) == "video":
                    raise InvalidRequest(
                        "The data is a video, no picture: a list holds a video's frames.",
                        param=body.param,
                        code="invalid_image",
                    )
                raise images.unknown(body.param)
        pixels = sum(images.pixels(body.read(), body.param, self.pixels) for body in bodies)
        kind = "image" if isinstance(part, ImagePart) else "video"
        return Medium(part, bodies, kind, pixels, seconds)

    def _check_totals(self, media: Sequence[Medium]) -> None:
        total = 0
        for medium in media:
            total += medium.pixels
            if total > self.total_pixels:
                raise InvalidRequest(
                    f"The request's pictures have more than {self.total_pixels / 1e6:g} megapixels together.",
                    param=medium.part.param,
                    code="image_too_large",
                )
        videos = [medium for medium in media if medium.kind == "video"]
        if len(videos) > (most := self._settings.max_videos):
            raise InvalidRequest(
                f"The request has {len(videos)} videos; the most is {most}.",
                param=videos[most].part.param,
                code="too_many_videos",
            )

    def _prepared(
        self, medium: Medium, engine: Engine, stopped: threading.Event, began: dict[str, float]
    ) -> Prepared:
        start = time.monotonic()
        is_list = isinstance(medium.part.source, tuple)
        options = self._options(medium.part.options, is_list)
        content = tuple(body.digest() for body in medium.bodies)
        key = (engine.spec, type(medium.part), is_list, options, content)
        known = self._kept.get(key)
        if known is not None:
            part = replace(known.part, param=medium.part.param)
            taken = time.monotonic() - start
            return replace(known, part=part, fetched=medium.seconds, decoded=taken, is_known=True)
        try:
            with self._places.one(medium.kind, stopped):
                start = began[medium.part.param] = time.monotonic()
                try:
                    part, size = self._decoded(medium, engine, options, stopped)
                finally:
                    del began[medium.part.param]
        except (ValueError, AssertionError):  # a processor's own limits
            raise InvalidRequest(
                "This model cannot take a picture or video of this shape, or resized so.",
                param=medium.part.param,
                code="unsupported_by_model",
            ) from None
        made = Prepared(part, size, medium.seconds, time.monotonic() - start, False)
        self._kept.put(key, made)
        return made

    def _options(self, asked: MediaOptions, is_list: bool) -> MediaOptions:
        """What is asked for, within the server's ceilings; `fps` of a list of frames is their own rate."""
        settings = self._settings
        highest = settings.max_pixels or None
        pixels = [most for most in (asked.max_pixels, asked.most_pixels, highest) if most is not None]
        chosen = asked.fps is not None or asked.num_frames is not None
        return replace(
            asked,
            max_pixels=min(pixels, default=None),
            most_pixels=None,
            fps=asked.fps or LIST_FPS
            if is_list
            else min(asked.fps or settings.video_fps, settings.video_fps),
            ratio=1.0 if chosen else settings.video_ratio,
            most_frames=settings.max_frames,
        )

    def _decoded(
        self, medium: Medium, engine: Engine, options: MediaOptions, stopped: threading.Event
    ) -> tuple[MediaPart, tuple[int, int]]:
        part, param = medium.part, medium.part.param
        if isinstance(part, ImagePart):
            image = images.decode(medium.bodies[0].read(), param, self.pixels)
            fitted = engine.fitter.picture(images.padded(image), options)
            return replace(part, source="", image=fitted, is_fitted=True), image.size
        limits = Limits(self.pixels, self._settings.max_video_seconds, self.total_pixels)
        plan = _planner(engine, options, param)
        if isinstance(part.source, tuple):
            count = len(medium.bodies)

            def frame(number: int) -> Any:
                if stopped.is_set():
                    raise ValueError("stopped")
                body = medium.bodies[number]
                return images.decode(body.read(), body.param, self.pixels)

            planner = _planner(engine, replace(options, num_frames=count + 1), param)
            found = stills.listed(count, frame, planner, options.fps or LIST_FPS)
        else:
            head = medium.bodies[0].head()
            with medium.bodies[0].file() as file:
                if kinds.picture_format(head) == "WEBP":
                    with images.animated(file, param, self.pixels) as opened:
                        found = stills.animation(opened, plan, limits, param, stopped)
                else:
                    found = video.decode(file, head, plan, limits, param, stopped)
        clip = Clip(found.frames, found.indices, found.fps, found.total, found.size)
        return VideoPart("", param, clip, part.options), found.size


def _sources(part: MediaPart) -> list[tuple[Any, str]]:
    """What is to be fetched for a part, each with its place."""
    if isinstance(part.source, tuple):
        return [(source, f"{part.param}[{index}]") for index, source in enumerate(part.source)]
    return [(part.source, part.param)]


def _planner(engine: Engine, options: MediaOptions, param: str) -> video.Planner:
    """Plans a clip; raises ContextLengthExceeded before anything of it is decoded in vain."""

    def plan(total: int, fps: float, size: tuple[int, int]) -> ClipPlan:
        found = engine.fitter.clip(total, fps, size, options)
        if found.tokens > engine.context_length:
            raise ContextLengthExceeded(
                f"This model's context is {engine.context_length} tokens; the video has {found.tokens}. "
                "Lower fps, num_frames or max_pixels in mm_processor_kwargs.",
                param=param,
                excess=found.tokens - engine.context_length,
            )
        return found

    return plan
