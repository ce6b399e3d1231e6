"""The thread that owns a TPU: it opens the device, computes all streams in turns, and opens it anew after a
failure.

The chip computes one sequence at a time. Each running stream has a KV cache of its own in device memory, as
many as fit; in a round each gets one token, and one that waits gets its prompt computed. A stream that was
cancelled is let go of before the next round, or between two networks of its prompt.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from app.engine.bmrt import BmError, Libraries
from app.engine.stats import EngineStats
from app.engine.submit import Work
from app.engine.tpu_chip import HANGS, LOADS, chip
from app.engine.tpu_device import Device, UnknownModelError
from app.engine.tpu_layout import Layout, layout
from app.engine.tpu_model import TpuModel
from app.engine.tpu_prompt import Prompt, Vision
from app.engine.tpu_stream import NobodyWaitsError, Slot, Stream
from app.errors import ApiError, DeviceFailed, GenerationFailed
from app.telemetry import request_id

log = logging.getLogger(__name__)

RETRY = 30.0
"""Seconds after which a device that failed is opened anew though nobody asks: a balancer that sends nothing
to a process that is not ready would never learn that it could be. Also those after which caches that did not
fit are tried again: beside a reload's new process the old one holds its memory while its last streams run.
"""
CHIPS = {0x1684: "BM1684", 0x1686: "BM1684X", 0x1688: "BM1688"}
TICK = 1.0
"""Seconds between two looks whether the chip hangs while a model is opened."""
CLOSING = 30.0
"""Seconds that closing waits for the step that is under way."""


@dataclass(frozen=True)
class Source:
    """What is opened: a .bmodel, its config/, on which device, for how many streams at once."""

    libraries: Libraries
    device: int
    path: Path
    config: Path
    vision: Vision | None
    streams: int


class Worker:
    """A device with a model on it, and the streams that it computes. `open` raises what opening raises."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._device: Device | None = None
        self._model: TpuModel | None = None
        self._slots: list[Slot] = []
        self._waiting: deque[Stream] = deque()
        self._running: list[Stream] = []
        self._changed = threading.Condition()
        self._closed = False
        self._chip = ""
        self._memory: tuple[int, int] | None = None
        self._grown = 0.0  # when caches were last made, or could not be
        self._seen = 0
        self.spare = 0
        """Bytes that were free for the networks before they were loaded, beyond those of their file."""
        self._taken = 0  # by the networks
        self._opened = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"tpu {source.path.stem}", daemon=True)

    def open(self) -> Layout:
        """Start the thread, which opens the device; what the model is. Raises DeviceFailed while it hangs."""
        self._thread.start()
        while not self._opened.wait(TICK):
            if told := self.hangs():
                self._closed = True  # should it return, all is freed
                raise DeviceFailed(f"The TPU hangs: {told}.", retry_after=int(HANGS))
        if self._model is None:
            self._thread.join()
            raise self._failure or DeviceFailed("The TPU could not be opened.")
        return self._model.layout

    def add(self, work: Work, prompt: Prompt) -> None:
        """Queue a choice."""
        stream = Stream(work, prompt)
        with self._changed:
            if self._closed:
                work.stream.end()
                return
            work.stream.queue_position = len(self._waiting)
            self._waiting.append(stream)
            self._changed.notify_all()

    def wake(self) -> None:
        """Look for streams that were cancelled."""
        with self._changed:
            self._changed.notify_all()

    def count(self) -> tuple[int, int]:
        """Running and waiting streams."""
        with self._changed:
            return len(self._running), len(self._waiting)

    def fault(self) -> str | None:
        """Why the device does not compute, until it is opened again."""
        failure = self._failure
        return self.hangs() if failure is None else _reason(failure)

    def hangs(self) -> str | None:
        """The call that the chip does not return from, if there is one."""
        return chip(self.source.device).hangs()

    def memory_bytes(self) -> int:
        """Bytes of the device that the networks, the caches and the buffers take."""
        device = self._device
        return 0 if device is None else self._taken + device.held()

    def stats(self) -> EngineStats:
        """What the caches hold, and the device's memory as of its opening."""
        model = self._model
        with self._changed:
            rows = sum(stream.slot.cache.rows for stream in self._running if stream.slot)
            capacity = len(self._slots) * (model.layout.length if model else 0)
        return EngineStats(
            kv_running=rows,
            kv_capacity=capacity,
            vision_misses=self._seen,
            device_memory=self._memory,
        )

    def close(self) -> None:
        """End the thread and what still runs, and free the device."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSING)

    def _run(self) -> None:
        self._open()
        self._opened.set()
        while self._memory is not None:  # else it never was open, which is the loader's to report
            with self._changed:
                retry = RETRY if self._failure else None
                self._changed.wait_for(lambda: self._closed or self._running or self._waiting, retry)
                if self._closed:
                    break
            try:
                self._round()
            except Exception as error:
                log.exception("the TPU failed")
                self._failure = error
                self._fail(list(self._running), _told(error))
                self._release()
        for stream in [*self._running, *self._waiting]:
            stream.work.stream.end()
        self._release()

    def _round(self) -> None:
        """A token for each stream, after those that left have gone and one that waits has come."""
        for stream in [one for one in (*self._running, *self._waiting) if one.work.stream.is_cancelled()]:
            self._end(stream)
        if self._model is None:
            self._open()
        if self._model is None or self._device is None:
            self._fail(list(self._waiting), _told(self._failure))
            return
        full = len(self._running) == len(self._slots) < self.source.streams
        if full and self._waiting and time.monotonic() - self._grown > RETRY:
            self._grow(self._device, self._model)
        self._admit(self._model)
        for stream in list(self._running):
            self._guarded(stream, self._step, self._model)

    def _open(self) -> None:
        source = self.source
        try:
            device = self._device = Device(source.libraries, source.device)
            self._chip = CHIPS.get(device.chip_id(), "unknown")
            self._load(device)
            model = TpuModel(device, layout(device.nets), source.config, source.vision)
            log.info("%s is %s", source.path.name, model.layout.told())
            self._grow(device, model)
        except Exception as error:
            self._failure = error
            if self._opened.is_set():
                log.warning("the TPU cannot be opened: %s", error)
            self._release()
            return
        self._model, self._failure = model, None

    def _grow(self, device: Device, model: TpuModel) -> None:
        """Make the caches that are missing, as many as fit by now."""
        held, wanted = self._slots, self.source.streams
        caches = model.caches(wanted, [slot.cache for slot in held])
        self._grown = time.monotonic()
        if len(caches) == len(held):
            return
        for slot, cache in zip(held, caches, strict=False):
            slot.cache = cache  # the networks' own has moved
        with self._changed:
            self._slots = [*held, *(Slot(cache) for cache in caches[len(held) :])]
        told = (self.source.device, self._chip, len(caches), wanted)
        log.info("tpu:%d, a chip %s, runs %d of %d streams at once", *told)
        self._memory = device.memory()

    def _load(self, device: Device) -> None:
        """Load the networks; the runtime does not say that the memory is too small, so it is looked at."""
        size, free, (used, total) = self.source.path.stat().st_size, device.free_bytes(), device.memory()
        self.spare = free - size
        told = (
            f"the model has {size / 1e6:.0f} MB, {free / 1e6:.0f} MB are free. What another process holds, "
            "as the one before a reload, comes back when that ends"
        )
        lacks = BmError(LOADS, None, told, is_out_of_memory=True)
        if size > total - used:  # of all heaps: a try would only keep other models' streams waiting
            raise lacks
        try:
            device.load(self.source.path)
        except BmError as error:
            if error.function != LOADS or size <= free:
                raise
            raise lacks from None
        self._taken = max(size, device.memory()[0] - used)

    def _release(self) -> None:
        device, self._device, self._model = self._device, None, None
        with self._changed:
            self._slots = []
        if device is not None:
            try:
                device.close()
            except BmError:
                log.exception("the TPU's memory could not be freed")

    def _admit(self, model: TpuModel) -> None:
        """Begin the first that waits, if there is a cache for it."""
        used = [stream.slot for stream in self._running]
        free = [slot for slot in self._slots if slot not in used]
        with self._changed:
            if not free or not self._waiting:
                return
            stream = self._waiting.popleft()
            self._running.append(stream)
        stream.work.stream.waited = time.monotonic() - stream.came
        stream.work.stream.put(stream.known)  # the prompt, which is not told
        same = [slot for slot in free if slot.begins_with(stream.prompt)]
        stream.slot = (same or sorted(free, key=lambda slot: slot.prompt is not None))[0]
        self._guarded(stream, self._begin, model)

    def _begin(self, stream: Stream, slot: Slot, model: TpuModel) -> None:
        """The prompt, or what another stream has computed of it, and the first token."""
        work, prompt = stream.work, stream.prompt
        scores = work.first and work.request.score_prompt
        known = next((one for one in (slot, *self._slots) if one.begins_with(prompt)), None)
        if scores or (known is None and work.max_tokens):
            stream.prefill(model, slot, scores=scores)
            self._seen += len(prompt.pictures)
        elif known is not None and work.max_tokens:
            if known is slot:
                model.rewind(slot.cache, len(prompt))
            else:
                model.copy_cache(slot.cache, known.cache, len(prompt))
            slot.prompt, slot.answer = known.prompt, known.answer
            work.stream.cached_tokens = len(prompt)
        if not work.max_tokens or stream.take(slot.answer):
            self._end(stream)

    def _step(self, stream: Stream, slot: Slot, model: TpuModel) -> None:
        """One more token."""
        stream.check()
        if stream.take(stream.decode(model, slot.cache)):
            self._end(stream)

    def _guarded(
        self, stream: Stream, act: Callable[[Stream, Slot, TpuModel], None], model: TpuModel
    ) -> None:
        """Do something for a stream; what goes wrong there, but for the device, is its own: its cache is
        empty after it.
        """
        request_id.set(stream.work.request_name)
        try:
            if stream.slot is not None:
                act(stream, stream.slot, model)
        except BmError:
            raise
        except NobodyWaitsError:
            self._end(stream)
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("a stream failed on the TPU")
                error = GenerationFailed(f"The model failed while it generated ({type(error).__name__}).")
            self._fail([stream], error)
            if stream.slot is not None:
                stream.slot.prompt = None
                model.clear(stream.slot.cache)

    def _end(self, stream: Stream) -> None:
        self._remove(stream)
        stream.work.stream.end()

    def _fail(self, streams: Iterable[Stream], error: ApiError) -> None:
        for stream in streams:
            self._remove(stream)
            stream.work.stream.fail(error.with_traceback(None))

    def _remove(self, stream: Stream) -> None:
        with self._changed:
            for some in (self._running, self._waiting):
                if stream in some:
                    some.remove(stream)


def _reason(error: Exception) -> str:
    """Why the device does not compute; of an error of our own only its kind, the rest is in the log."""
    known = isinstance(error, BmError | UnknownModelError)
    return str(error) if known else f"the server could not use it ({type(error).__name__})"


def _told(error: Exception | None) -> DeviceFailed:
    """What a client is told of a device that failed."""
    reason = "" if error is None else _reason(error)
    return DeviceFailed(f"The TPU failed and is opened anew: {reason}", retry_after=2)
