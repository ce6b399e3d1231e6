"""Qwen on a Sophon TPU behind the Engine protocol: a folder with a .bmodel and config/ becomes an engine.

Prompts are encoded, tokens drawn and grammars followed by the same code as everywhere (submit.py); the device
computes logits, or tokens where a model was compiled so.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.engine import checkpoint, lark
from app.engine.bmrt import BmError, Libraries, RuntimeMissingError
from app.engine.encode import PromptEncoder
from app.engine.fitting import QwenFitter
from app.engine.media_types import ClipPlan, MediaOptions
from app.engine.stats import EngineStats
from app.engine.stream import Choices
from app.engine.submit import LanguageEngine, Work
from app.engine.tpu_chip import HANGS, LOADS
from app.engine.tpu_device import UnknownModelError
from app.engine.tpu_layout import Layout, check_config
from app.engine.tpu_prompt import Vision, prompt
from app.engine.tpu_worker import RETRY, Source, Worker
from app.engine.types import Defaults, GenerationRequest, ModelSpec, Progress
from app.errors import ApiError, DeviceFailed, InvalidRequest, MayNotFit, ModelLoadFailed, OutOfMemory

Read = Callable[[ModelSpec, Path, bool], tuple[Any, Defaults, frozenset[int]]]
"""Reads from a folder the processor, for pictures too or text alone, the defaults and the stop tokens."""


TEXT_TOKENS = 128
"""Of a prompt with a clip: what is left for its text."""
STAMP_TOKENS = 12
"""Around each two frames: when they were, where they begin and end."""
LEAST_TOKENS = 4
"""Of two frames, however many there are."""

BUFFERS = 0.5
"""Of a file's size: what its networks' buffers may take beyond it."""
MAGIC = 0xFF55AAEE
HEADER = struct.Struct("<4I")
"""A .bmodel begins with MAGIC and the bytes of its header, its description and its weights (modulo 2**32)."""


class BoundedFitter(QwenFitter):
    """Brings pictures and frames to at most so many pixels as the vision tower was compiled for, and clips to
    what a prompt of so many tokens has room for, as the vendor's demo does.
    """

    def __init__(self, processor: Any, most: int, prompt_tokens: int) -> None:
        super().__init__(processor.image_processor, getattr(processor, "video_processor", None))
        self._most = most
        self._tokens = max(prompt_tokens - TEXT_TOKENS, prompt_tokens // 2)

    def picture(self, image: Any, options: MediaOptions) -> Any:
        """A picture within the bound."""
        return super().picture(image, self._bounded(options))

    def clip(self, total: int, fps: float, size: tuple[int, int], options: MediaOptions) -> ClipPlan:
        """What is kept of a video, each frame within the bound, all of them within a prompt."""
        frames = 2 * max(1, self._tokens // (LEAST_TOKENS + STAMP_TOKENS))
        bounded = self._bounded(options)
        if options.num_frames is None:  # nobody counts on that many
            bounded = replace(bounded, most_frames=min(options.most_frames or frames, frames))
        plan = super().clip(total, fps, size, bounded)
        slices = len(plan.indices) // 2
        each = max(LEAST_TOKENS, self._tokens // slices - STAMP_TOKENS)
        if plan.tokens <= each * slices:
            return plan
        return super().clip(total, fps, size, replace(bounded, max_pixels=each * self._factor**2))

    def _bounded(self, options: MediaOptions) -> MediaOptions:
        return replace(options, max_pixels=min(options.max_pixels or self._most, self._most))


class TpuEngine(LanguageEngine):
    """A compiled model on a TPU, whose worker computes all streams."""

    def __init__(
        self, spec: ModelSpec, encoder: PromptEncoder, worker: Worker, layout: Layout, **own: Any
    ) -> None:
        length = spec.context_length or layout.length
        super().__init__(
            spec,
            encoder,
            context_length=min(length, layout.length),
            prompt_length=min(layout.prompt_limit, length),
            **own,
        )
        self._worker, self._layout = worker, layout
        self._vision = worker.source.vision

    def submit(self, *requests: GenerationRequest) -> Choices:
        """As all engines do it; InvalidRequest also for what needs logits that the model does not give."""
        self._look()
        for request in requests:
            self._check(request)
        return super().submit(*requests)

    def busy(self) -> tuple[int, int]:
        """Running and waiting generations."""
        return self._worker.count()

    def memory_bytes(self) -> int:
        """Bytes that it takes on the device, its caches included."""
        return self._worker.memory_bytes()

    def stats(self) -> EngineStats:
        """What its caches hold and the device's memory."""
        return self._worker.stats()

    def fault(self) -> str | None:
        """Why the device does not compute, until the next request opens it again."""
        return self._worker.fault()

    def close(self) -> None:
        """Free the device."""
        self._grammars.close()
        self._worker.close()

    def _begin(self, works: Sequence[Work]) -> None:
        for work in works:
            self._worker.add(work, work.inputs["prompt"])

    def _wake(self) -> None:
        self._worker.wake()

    def _look(self) -> None:
        if told := self._worker.hangs():
            raise DeviceFailed(f"The TPU hangs: {told}.", retry_after=int(HANGS))

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The prompt as the networks take it; raises InvalidRequest for a picture that is too large, and for
        tokens of pictures that are not there.
        """
        arrays = {name: value.numpy() for name, value in inputs.items() if hasattr(value, "numpy")}
        try:
            made = prompt(arrays, self._vision, self._layout.axes)
        except ValueError as problem:
            raise InvalidRequest(
                f"The prompt's tokens and its pictures do not match: {problem}.", param="prompt"
            ) from None
        for picture in made.pictures:
            if picture.patches > self._layout.patches:
                raise InvalidRequest(
                    f"A picture has {picture.patches} patches; this model was compiled for "
                    f"{self._layout.patches}.",
                    param="messages",
                    code="image_too_large",
                )
        grids = {name: value for name, value in inputs.items() if name.endswith("_grid_thw")}
        return {"input_ids": inputs["input_ids"], "prompt": made, **grids}

    def _check(self, request: GenerationRequest) -> None:
        """Raise InvalidRequest for what a model that tells only tokens cannot do."""
        if not self._layout.greedy_only:
            return
        wanted, tools = request.sampling, request.tools
        strict = [one.strict for one in tools.functions] if tools is not None and lark.may_call(tools) else []
        needs_logits = {
            "temperature": wanted.temperature > 0,
            "logprobs": wanted.top_logprobs is not None or request.score_prompt,
            "logit_bias": bool(wanted.logit_bias),
            "presence_penalty": wanted.presence_penalty != 0,
            "frequency_penalty": wanted.frequency_penalty != 0,
            "repetition_penalty": wanted.repetition_penalty != 1,
            "min_tokens": wanted.min_tokens > 0,
            "max_thinking_tokens": request.max_thinking_tokens is not None,
            "tool_choice": tools is not None and tools.choice == "required",
            f"tools[{strict.index(True) if strict else 0}].function.strict": bool(strict),
            request.grammar.param if request.grammar else "": request.grammar is not None,
        }
        for param, needed in needs_logits.items():
            if needed:
                raise InvalidRequest(
                    f"This model was compiled without --do_sample: it gives the likeliest token and nothing "
                    f"else, so {param} cannot be had (docs/tpu.md)."
                    + (" Temperature 0 works." if param == "temperature" else ""),
                    param=param,
                    code="unsupported_by_model",
                )


def load(
    spec: ModelSpec, folder: Path, progress: Progress, read: Read, *, libraries: str, max_concurrent: int
) -> TpuEngine:
    """The engine of a folder; raises ModelLoadFailed or OutOfMemory."""
    path, config = _files(spec, folder)
    raw = checkpoint.config_json(spec, config)
    progress("loading the networks", 0.1)
    try:
        vision = Vision.of(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelLoadFailed(f"{spec.id}: its config.json lacks {error}.") from None
    try:
        number = _number(spec)
        worker = Worker(Source(Libraries(libraries), number, path, config, vision, max_concurrent))
        layout = worker.open()
    except (RuntimeMissingError, UnknownModelError) as error:
        raise ModelLoadFailed(f"{spec.id}: {error}") from None
    except BmError as error:
        raise _refusal(spec, error, f"tpu:{number}", worker.spare, path.stat().st_size) from None
    try:
        check_config(layout, raw)
        progress("reading the tokenizer", 0.9)
        sees = vision is not None and layout.patches > 0
        processor, defaults, stop_ids = read(spec, config, sees)
        if layout.greedy_only:
            defaults = replace(defaults, greedy_only=True, repetition_penalty=None)
        encoder = PromptEncoder(
            processor, vision=sees, remote_code=False, thinking_prompt=spec.thinking_prompt
        )
        if vision is not None and isinstance(encoder.fitter, QwenFitter):
            pixels = layout.patches * vision.patch**2
            encoder.fitter = BoundedFitter(processor, pixels, layout.prompt_limit)
        return TpuEngine(
            replace(spec, modalities=("text", "image", "video") if sees else ("text",)),
            encoder,
            worker,
            layout,
            defaults=defaults,
            stop_ids=stop_ids,
            device=f"tpu:{number}",
        )
    except BaseException as error:
        worker.close()
        if isinstance(error, UnknownModelError):
            raise ModelLoadFailed(f"{spec.id}: {error}") from None
        raise


def _refusal(spec: ModelSpec, error: BmError, device: str, spare: int, size: int) -> ApiError:
    """What a load that failed is told as, and where unloading others could help."""
    if error.is_out_of_memory:
        lacks = OutOfMemory(f"{spec.id} does not fit into the TPU's memory: {error}", retry_after=int(RETRY))
        lacks.device, lacks.missing = device, max(0, -spare)
        return lacks
    if error.function == LOADS and spare < size * BUFFERS:
        doubt = MayNotFit(f"{spec.id}: {error}")
        doubt.device = device
        return doubt
    return ModelLoadFailed(f"{spec.id}: {error}")


def _check_whole(spec: ModelSpec, path: Path) -> None:
    """Raise ModelLoadFailed for what is no plain file, which could be waited for without end, and for one
    whose header tells of more than there is.
    """
    if not path.is_file():
        raise ModelLoadFailed(f"{spec.id}: {path.name} is no plain file.")
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise ModelLoadFailed(f"{spec.id}: {path.name} is cut: it has {len(header)} bytes.")
    magic, *parts = HEADER.unpack(header)
    size = path.stat().st_size
    if magic == MAGIC and size < sum(parts):
        raise ModelLoadFailed(
            f"{spec.id}: {path.name} is cut: it has {size} bytes of {sum(parts)} or more. Fetch it again."
        )


def _files(spec: ModelSpec, folder: Path) -> tuple[Path, Path]:
    found = sorted(folder.glob("[!.]*.bmodel"))
    if len(found) != 1:
        names = f" ({', '.join(one.name for one in found[:5])})" if found else ""
        raise ModelLoadFailed(
            f"{spec.id}: its folder has {len(found)} files *.bmodel{names}; it must have one, and config/ "
            "beside it."
        )
    if not (folder / "config").is_dir():
        raise ModelLoadFailed(f"{spec.id}: its folder has no config/ with the model's configuration.")
    _check_whole(spec, found[0])
    return found[0], folder / "config"


def _number(spec: ModelSpec) -> int:
    kind, _, number = spec.device.partition(":")
    if kind.isdigit():
        return int(kind)
    if kind not in ("auto", "tpu"):
        raise UnknownModelError(f"a .bmodel runs on a TPU, not on {spec.device}")
    return int(number or 0)
