"""Loading a catalogue entry: fetch, look, check the memory, read the weights, make the engine.

This is the only module that imports generate.py, and with it torch and transformers, and it does so when the
first model loads. All that can go wrong comes out as ModelNotFound, ModelLoadFailed or OutOfMemory.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.engine import remote_code
from app.engine.catalog import DEFAULTS
from app.engine.machine import free_memory, usable_cores
from app.engine.progress import progress_of_weights
from app.engine.types import Defaults, Engine, ModelSpec, Progress
from app.errors import ModelLoadFailed, ModelNotFound, OutOfMemory

log = logging.getLogger(__name__)
_reading = threading.Lock()  # weights are read one model at a time: the memory that one sees is still there

FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.safetensors"]
"""What is fetched of a hub model: no pickles."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
HEADROOM = 1.15
"""Memory asked for, beyond the bytes of the weights, for buffers and a first prompt."""


def load(spec: ModelSpec, progress: Progress, *, max_concurrent: int) -> Engine:
    """The engine of a catalogue entry."""
    if spec.engine != "transformers":
        raise ModelLoadFailed(f"{spec.id}: there is no engine {spec.engine!r} in this version.")
    folder = _fetch(spec, progress)
    progress("importing torch", 0.0)
    torch = _import_torch()
    progress("reading the configuration", 0.0)
    config, model_class, vision, remote = _inspect(spec, folder)
    device = _device(torch, spec)
    dtype = _dtype(torch, spec, config, device)
    with _reading, progress_of_weights(progress):
        _check_memory(
            spec, weights_bytes(spec, folder) / _stored_dtype(torch, config).itemsize, device, dtype
        )
        model = _read_weights(model_class, spec, folder, device, dtype)
    progress("reading the tokenizer", 1.0)
    return _engine(spec, folder, model, vision=vision, remote=remote, max_concurrent=max_concurrent)


def _fetch(spec: ModelSpec, progress: Progress) -> Path:
    """The folder with the model's files, fetched from the hub if the source is a hub id."""
    folder = Path(spec.source)
    if folder.is_absolute() or spec.source.startswith("."):
        if not folder.is_dir():
            raise ModelNotFound(f"{spec.id}: its folder {folder.name} does not exist.", param="model")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    progress("fetching", 0.0)
    try:
        return Path(snapshot_download(spec.source, revision=spec.revision, allow_patterns=FILES))
    except LocalEntryNotFoundError:
        raise ModelLoadFailed(
            f"{spec.id}: the hub cannot be reached, and {spec.source} is not in the local cache."
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFound(
            f"{spec.id}: the hub has no {spec.source}, or it needs a login (HF_TOKEN).", param="model"
        ) from None
    except Exception as error:
        log.warning("fetching %s failed", spec.source, exc_info=True)
        raise ModelLoadFailed(f"{spec.id}: fetching {spec.source} failed ({type(error).__name__}).") from None


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


def _inspect(spec: ModelSpec, folder: Path) -> tuple[Any, Any, bool, bool]:
    """The configuration, the class of the weights; whether it takes pictures, whether its code is remote."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    raw = _config_json(spec, folder)
    kind = raw.get("model_type")
    remote = "auto_map" in raw
    if remote and not spec.trust_remote_code:
        raise ModelLoadFailed(
            f"{spec.id}: the folder holds code of its own, which runs only where the catalogue entry says "
            "trust_remote_code: true."
        )
    known = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if not remote and not known:
        raise ModelLoadFailed(f"{spec.id}: transformers has no chat model of the architecture {kind!r}.")
    with _explained(spec, "its configuration is broken"):
        model_class = remote_code.prepare(folder, raw) if remote else None
        config = AutoConfig.from_pretrained(folder, trust_remote_code=remote, local_files_only=True)
    if model_class is not None:
        return config, model_class, "image" in spec.modalities, True
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return config, AutoModelForImageTextToText, True, remote
    return config, AutoModelForCausalLM, False, remote


def _config_json(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        raise ModelLoadFailed(f"{spec.id}: its folder has no config.json.") from None
    except ValueError:
        raise ModelLoadFailed(f"{spec.id}: its config.json is not JSON.") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise ModelLoadFailed(f"{spec.id}: its config.json names no model_type.")
    if not any((folder / name).exists() for name in TOKENIZERS):  # transformers would make an empty one
        raise ModelLoadFailed(f"{spec.id}: its folder has no tokenizer ({' or '.join(TOKENIZERS)}).")
    return raw


def _device(torch: Any, spec: ModelSpec) -> Any:
    wanted = spec.device
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
    if _stored_dtype(torch, config) == torch.float32:
        return torch.float32
    if device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    newer = torch.backends.mps.is_macos_or_newer(14, 0)
    return torch.bfloat16 if newer else torch.float16


def _stored_dtype(torch: Any, config: Any) -> Any:
    """The number format in the files, which composite configurations name in their text part."""
    return getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32


def weights_bytes(spec: ModelSpec, folder: Path) -> int:
    """The size of a folder's weights, as stored."""
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    if not sizes:
        raise ModelLoadFailed(f"{spec.id}: its folder has no weights (*.safetensors).")
    return sum(sizes)


def _check_memory(spec: ModelSpec, parameters: int, device: Any, dtype: Any) -> None:
    """Raise OutOfMemory unless so many parameters fit; weights for a GPU pass through the host's memory."""
    import torch

    needed = int(parameters * dtype.itemsize * HEADROOM)
    places = {"cpu": free_memory()}
    if device.type == "cuda":
        places[str(device)] = torch.cuda.mem_get_info(device)[0]
    for place, free in places.items():
        if needed > free:
            need, have = f"{needed / 1e9:.1f} GB", f"{free / 1e9:.1f} GB"
            raise OutOfMemory(f"{spec.id} needs about {need} of memory on {place}; {have} are free.")


def _read_weights(model_class: Any, spec: ModelSpec, folder: Path, device: Any, dtype: Any) -> Any:
    with _explained(spec, "its weights cannot be read"):
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
    spec: ModelSpec, folder: Path, model: Any, *, vision: bool, remote: bool, max_concurrent: int
) -> Engine:
    from dataclasses import replace

    from transformers import AutoProcessor, AutoTokenizer, GenerationConfig

    from app.engine.encode import PromptEncoder
    from app.engine.generate import TransformersEngine

    with _explained(spec, "its tokenizer or processor cannot be read"):
        processor = (AutoProcessor if vision else AutoTokenizer).from_pretrained(
            folder, trust_remote_code=spec.trust_remote_code, local_files_only=True
        )
        tokenizer = getattr(processor, "tokenizer", processor)
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("no fast tokenizer (tokenizer.json)")
    own = getattr(model, "generation_config", None) or GenerationConfig()
    if (folder / "generation_config.json").exists():  # transformers passes over a broken one in silence
        with _explained(spec, "its generation_config.json is broken"):
            own = GenerationConfig.from_pretrained(folder, local_files_only=True)
    stop_ids = _ids(own.eos_token_id) | _ids(tokenizer.eos_token_id)
    defaults = _defaults(spec, own)
    inner = getattr(model, "language_model", None)  # where remote code calls generate()
    if inner is not None and hasattr(inner, "generation_config"):
        stop_ids |= _ids(inner.generation_config.eos_token_id)
        inner.generation_config = GenerationConfig()
    # What the file says has been read; from here on each request brings a configuration of its own.
    model.generation_config = GenerationConfig()
    longest = _longest_context(model.config)
    return TransformersEngine(
        replace(spec, modalities=("text", "image") if vision else ("text",)),
        model,
        PromptEncoder(processor, vision=vision, remote_code=remote),
        defaults=defaults,
        context_length=min(spec.context_length or longest, longest),
        stop_ids=frozenset(stop_ids),
        max_concurrent=max_concurrent,
    )


def _defaults(spec: ModelSpec, own: Any) -> Defaults:
    """The catalogue's defaults, then generation_config.json's; raises ModelLoadFailed for odd values."""
    values: dict[str, Any] = {}
    for name, (fits, what) in DEFAULTS.items():
        value = getattr(spec.defaults, name)
        if value is None:
            value = getattr(own, "max_new_tokens" if name == "max_tokens" else name, None)
            if value is not None and not fits(value):
                raise ModelLoadFailed(
                    f"{spec.id}: its generation_config.json has {name} {value!r}, not {what}."
                )
        values[name] = value
    if own.do_sample is False and spec.defaults.temperature is None:
        values["temperature"] = 0.0
    return Defaults(**values)


def _longest_context(config: Any) -> int:
    """Positions that the language model was made for; InternVL-like remote code keeps them in llm_config."""
    for part in (config.get_text_config(), getattr(config, "llm_config", None)):
        if longest := getattr(part, "max_position_embeddings", None):
            return int(longest)
    return 2048


def _ids(value: int | list[int] | None) -> set[int]:
    return set() if value is None else {value} if isinstance(value, int) else set(value)


@contextmanager
def _explained(spec: ModelSpec, what: str) -> Iterator[None]:
    """Turn whatever transformers raises into ModelLoadFailed; its own text goes to the log."""
    try:
        yield
    except MemoryError:
        raise OutOfMemory(f"{spec.id}: the memory ran out while it was loaded.") from None
    except Exception as error:
        log.warning("%s: %s", spec.id, what, exc_info=True)
        if "out of memory" in str(error).lower():
            raise OutOfMemory(f"{spec.id}: the memory ran out while it was loaded.") from None
        raise ModelLoadFailed(f"{spec.id}: {what} ({type(error).__name__}).") from None
