"""Loading a catalogue entry: look at its folder, check the memory, read the weights, make the engine.

This is the only module that imports generate.py, and with it torch and transformers, and it does so when the
first model loads. All that can go wrong comes out as ModelNotFound, ModelLoadFailed or OutOfMemory.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from app.engine import checkpoint
from app.engine.catalog import DEFAULTS
from app.engine.machine import free_memory, usable_cores
from app.engine.progress import progress_of_weights
from app.engine.types import Defaults, Engine, ModelSpec, Progress
from app.errors import ModelLoadFailed, OutOfMemory
from app.settings import STREAMS

log = logging.getLogger(__name__)
_reading = threading.Lock()  # weights are read one model at a time: the memory that one sees is still there

_loops: weakref.WeakSet[Any] = weakref.WeakSet()
"""The batch loops there are, whose caches take their memory only as they are written to, on a CPU."""

KV_SHARE = 0.4
"""The share of the memory that is free after loading that the KV cache may take."""
HEADROOM = 1.15
"""Memory asked for, beyond the bytes of the weights, for buffers and a first prompt."""


def load(
    spec: ModelSpec,
    progress: Progress,
    *,
    max_concurrent: int = 0,
    kv_bytes: int = 0,
    tpu_libraries: str = "",
) -> Engine:
    """The engine of a catalogue entry, for so many streams at once (0: what its device is good for), with so
    many bytes of KV cache (0: a share of what is free).
    """
    if spec.engine not in STREAMS:
        raise ModelLoadFailed(
            f"{spec.id}: there is no engine {spec.engine!r}; choose {' or '.join(STREAMS)}."
        )
    max_concurrent = max_concurrent or STREAMS[spec.engine]
    folder = checkpoint.fetch(spec, progress)
    progress("importing torch", 0.0)
    torch = _import_torch()
    if spec.engine == "bmrt":
        from app.engine import tpu

        if kv_bytes:
            log.warning("--kv-cache-gb is not for %s: on a TPU --max-concurrent counts its caches", spec.id)
        return tpu.load(
            spec, folder, progress, _for_tpu, libraries=tpu_libraries, max_concurrent=max_concurrent
        )
    from app.engine import linear

    progress("reading the configuration", 0.0)
    config, model_class, vision, remote = checkpoint.inspect(spec, folder)
    device = _device(torch, spec)
    dtype = _dtype(torch, spec, config, device)
    stored = checkpoint.stored_dtype(torch, config)
    # 16-bit weights stay so on a CPU that computes in 32 bits.
    halves = device.type == "cpu" and spec.dtype == "auto" and stored.itemsize == 2
    read_as = stored if halves and dtype == torch.float32 else dtype
    with _reading, progress_of_weights(progress):
        _check_memory(spec, checkpoint.weights_bytes(spec, folder) // stored.itemsize, device, read_as)
        model = _read_weights(model_class, spec, folder, device, read_as)
        try:
            linear.prepare(model, dtype, spec.quantization)
        except ValueError as reason:
            raise ModelLoadFailed(f"{spec.id}: {reason}.") from None
    progress("reading the tokenizer", 1.0)
    make_loop = partial(_batch_loop, spec, model, max_concurrent, kv_bytes)
    return _engine(
        spec, folder, model, make_loop, vision=vision, remote=remote, max_concurrent=max_concurrent
    )


def _import_torch() -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a batch of one gains nothing from it
    import torch

    from app.engine import torchvision_cpu

    torchvision_cpu.prepare()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    return torch


def _device(torch: Any, spec: ModelSpec) -> Any:
    wanted = f"cuda:{spec.device}" if spec.device.isdigit() else spec.device
    if spec.device.isdigit() and not torch.cuda.is_available():
        log.warning(
            "no CUDA here: device %s is meant for compiled models, and %s runs as with auto",
            spec.device,
            spec.id,
        )
        wanted = "auto"
    if wanted.startswith("tpu"):
        raise ModelLoadFailed(
            f"{spec.id}: {wanted} runs models that were compiled for it (engine bmrt), not this one."
        )
    if wanted == "auto":
        wanted = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ModelLoadFailed(f"{spec.id}: there is no kind of device {wanted!r}.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadFailed(f"{spec.id}: there is no device {wanted} on this machine.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelLoadFailed(f"{spec.id}: there is no Apple GPU on this machine.")
    return device


def _dtype(torch: Any, spec: ModelSpec, config: Any, device: Any) -> Any:
    """As asked, else 16 bits where the device is fast in them and the weights have no more."""
    if spec.dtype != "auto":
        wanted = getattr(torch, spec.dtype, None)
        if wanted not in (torch.float32, torch.bfloat16, torch.float16):
            raise ModelLoadFailed(f"{spec.id}: there is no dtype {spec.dtype!r}.")
        return wanted
    if checkpoint.stored_dtype(torch, config) == torch.float32:
        return torch.float32
    if device.type == "cpu":
        from app.engine import linear

        return torch.bfloat16 if linear.multiplies_bfloat16() else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    newer = torch.backends.mps.is_macos_or_newer(14, 0)
    return torch.bfloat16 if newer else torch.float16


def _check_memory(spec: ModelSpec, parameters: int, device: Any, dtype: Any) -> None:
    """Raise OutOfMemory unless so many parameters fit; weights for a GPU pass through the host's memory."""

    needed = int(parameters * dtype.itemsize * HEADROOM)
    places = {"cpu": _free_on_cpu()}
    if device.type == "cuda":
        places[str(device)] = _free_on(device)
    for place, free in places.items():
        if needed > free:
            need, have = f"{needed / 1e9:.1f} GB", f"{free / 1e9:.1f} GB"
            raise OutOfMemory(f"{spec.id} needs about {need} of memory on {place}; {have} are free.")


def _free_on(device: Any) -> int:
    """Bytes that are free on a device."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else _free_on_cpu()


def _free_on_cpu() -> int:
    """Bytes of memory that are free and not promised to the KV caches of other models."""
    promised: int = sum(loop.untouched_bytes() for loop in list(_loops))
    return max(0, free_memory() - promised)


def _read_weights(model_class: Any, spec: ModelSpec, folder: Path, device: Any, dtype: Any) -> Any:
    with checkpoint.explained(spec, "its weights cannot be read"):
        model, report = model_class.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=spec.trust_remote_code,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        model = model.to(device).eval()
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadFailed(
            f"{spec.id}: its weights lack {len(missing)} tensors, the first is {missing[0]}."
        )
    return model


def _engine(
    spec: ModelSpec,
    folder: Path,
    model: Any,
    make_loop: Callable[[], Any],
    *,
    vision: bool,
    remote: bool,
    max_concurrent: int,
) -> Engine:
    from dataclasses import replace

    from transformers import GenerationConfig

    from app.engine.encode import PromptEncoder
    from app.engine.generate import TransformersEngine

    processor = _processor(spec, folder, vision=vision)
    own = _own_config(spec, folder, getattr(model, "generation_config", None))
    stop_ids = _ids(own.eos_token_id) | _ids(getattr(processor, "tokenizer", processor).eos_token_id)
    defaults = _defaults(spec, own)
    inner = getattr(model, "language_model", None)  # where remote code calls generate()
    if inner is not None and hasattr(inner, "generation_config"):
        stop_ids |= _ids(inner.generation_config.eos_token_id)
        inner.generation_config = GenerationConfig()
    # What the file says has been read; from here on each request brings a configuration of its own.
    model.generation_config = GenerationConfig()
    return TransformersEngine(
        replace(spec, modalities=_modalities(processor, vision=vision, remote=remote)),
        model,
        PromptEncoder(processor, vision=vision, remote_code=remote, thinking_prompt=spec.thinking_prompt),
        defaults=defaults,
        context_length=checkpoint.context_length(spec, model),
        stop_ids=frozenset(stop_ids),
        max_concurrent=max_concurrent,
        loop=make_loop(),
    )


def _modalities(processor: Any, *, vision: bool, remote: bool) -> tuple[str, ...]:
    """What a model takes, told from its processor; remote code gets pictures only."""
    if not vision:
        return ("text",)
    clips = not remote and getattr(processor, "video_processor", None) is not None
    return ("text", "image", "video") if clips else ("text", "image")


def _processor(spec: ModelSpec, folder: Path, *, vision: bool) -> Any:
    """A model's processor, or its tokenizer where it takes text only."""
    from transformers import AutoProcessor, AutoTokenizer

    with checkpoint.explained(spec, "its tokenizer or processor cannot be read"):
        processor = (AutoProcessor if vision else AutoTokenizer).from_pretrained(
            folder, trust_remote_code=spec.trust_remote_code, local_files_only=True
        )
        tokenizer = getattr(processor, "tokenizer", processor)
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("no fast tokenizer (tokenizer.json)")
    return processor


def _own_config(spec: ModelSpec, folder: Path, of_model: Any = None) -> Any:
    """What a model's files say of generation."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").exists():  # transformers passes over a broken one in silence
        with checkpoint.explained(spec, "its generation_config.json is broken"):
            return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return of_model or GenerationConfig()


def _for_tpu(spec: ModelSpec, config: Path, vision: bool) -> tuple[Any, Defaults, frozenset[int]]:
    """The processor, defaults and stop tokens that stand beside a compiled model."""
    processor = _processor(spec, config, vision=vision)
    own = _own_config(spec, config)
    stop_ids = _ids(own.eos_token_id) | _ids(getattr(processor, "tokenizer", processor).eos_token_id)
    return processor, _defaults(spec, own), frozenset(stop_ids)


def _batch_loop(spec: ModelSpec, model: Any, max_concurrent: int, kv_bytes: int) -> Any:
    """The model's batch loop, or None for one that cannot be batched."""
    from app.engine.batch import BatchLoop
    from app.engine.decoder import Decoder
    from app.engine.vision import Features

    if model.device.type == "mps":
        return None
    try:
        decoder = Decoder(model)
    except ValueError as reason:
        log.warning("%s is not batched, each stream computes for itself: %s", spec.id, reason)
        return None
    inner: Any = getattr(model, "model", None)
    if hasattr(inner, "get_image_features"):
        inner.get_image_features = Features(inner.get_image_features)
    most = checkpoint.context_length(spec, model) * max_concurrent
    with _reading:
        tokens = _cache_tokens(spec, most, decoder.token_bytes(), _free_on(model.device), kv_bytes)
        loop = BatchLoop(decoder, tokens=tokens, max_rows=max_concurrent, name=spec.id)
        _loops.add(loop)
    return loop


def _cache_tokens(spec: ModelSpec, most: int, token_bytes: int, free: int, asked: int) -> int:
    """The size of a KV cache in tokens, `most` of them at the most; `free` and `asked` (0: a share of what is
    free) are bytes. Raises OutOfMemory.
    """
    tokens = min(most, (asked or int(KV_SHARE * free)) // token_bytes)
    if tokens < 1:
        raise OutOfMemory(
            f"{spec.id}: a token takes {token_bytes / 1e6:.2g} MB of KV cache, which may have "
            f"{asked / 1e6:.2g} MB (--kv-cache-gb)."
            if asked
            else f"{spec.id}: there is no memory left for its KV cache."
        )
    if tokens * token_bytes > free:
        raise OutOfMemory(
            f"{spec.id}: --kv-cache-gb asks for {asked / 1e9:.3g} GB, of which its KV cache would take "
            f"{tokens * token_bytes / 1e9:.3g} GB; {free / 1e9:.3g} GB are free beside its weights."
        )
    return tokens


def _defaults(spec: ModelSpec, own: Any) -> Defaults:
    """The catalogue's defaults, then generation_config.json's; raises ModelLoadFailed for odd values."""
    values: dict[str, Any] = {}
    for name, (fits, what) in DEFAULTS.items():
        value = getattr(spec.defaults, name)
        if value is None and name != "thinking":
            value = getattr(own, "max_new_tokens" if name == "max_tokens" else name, None)
            if value is not None and not fits(value):
                raise ModelLoadFailed(
                    f"{spec.id}: its generation_config.json has {name} {value!r}, not {what}."
                )
        values[name] = value
    if own.do_sample is False and spec.defaults.temperature is None:
        values["temperature"] = 0.0
    return Defaults(**values)


def _ids(value: int | list[int] | None) -> set[int]:
    return set() if value is None else {value} if isinstance(value, int) else set(value)
