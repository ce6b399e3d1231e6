"""A model's folder: fetched if it is on the hub, looked at before anything is read from it.

torch and transformers are imported when a model loads, not before. What is wrong with a folder comes out as
ModelNotFound or ModelLoadFailed.
"""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.engine import remote_code
from app.engine.types import ModelSpec, Progress
from app.errors import ModelLoadFailed, ModelNotFound, OutOfMemory
from app.settings import PROJECT

log = logging.getLogger(__name__)

FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.safetensors"]
"""What is fetched of a hub model: no pickles."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def fetch(spec: ModelSpec, progress: Progress) -> Path:
    """The folder with the model's files, fetched from the hub if the source is a hub id."""
    folder = Path(spec.source)
    if folder.is_absolute() or spec.source.startswith("."):
        if not folder.is_dir():
            shown = folder.relative_to(PROJECT) if folder.is_relative_to(PROJECT) else folder.name
            more = " docs/tpu.md says how to get a compiled model." if spec.engine == "bmrt" else ""
            raise ModelNotFound(f"{spec.id}: its folder {shown} does not exist.{more}", param="model")
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


def inspect(spec: ModelSpec, folder: Path) -> tuple[Any, Any, bool, bool]:
    """The configuration, the class of the weights; whether it takes pictures, whether its code is remote."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    raw = config_json(spec, folder)
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
    with explained(spec, "its configuration is broken"):
        model_class = remote_code.prepare(folder, raw) if remote else None
        config = AutoConfig.from_pretrained(folder, trust_remote_code=remote, local_files_only=True)
    if model_class is not None:
        return config, model_class, "image" in spec.modalities, True
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return config, AutoModelForImageTextToText, True, remote
    return config, AutoModelForCausalLM, False, remote


def config_json(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """A folder's config.json, beside which there is a tokenizer; raises ModelLoadFailed."""
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


def stored_dtype(torch: Any, config: Any) -> Any:
    """The number format in the files, which composite configurations name in their text part."""
    return getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32


def weights_bytes(spec: ModelSpec, folder: Path) -> int:
    """The size of a folder's weights, as stored."""
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    if not sizes:
        raise ModelLoadFailed(f"{spec.id}: its folder has no weights (*.safetensors).")
    return sum(sizes)


def context_length(spec: ModelSpec, model: Any) -> int:
    """The entry's own, at most the positions that the language model was made for, which InternVL-like remote
    code keeps in llm_config.
    """
    parts = (model.config.get_text_config(), getattr(model.config, "llm_config", None))
    found = [int(getattr(part, "max_position_embeddings", None) or 0) for part in parts]
    longest = next((one for one in found if one), 2048)
    return min(spec.context_length or longest, longest)


@contextmanager
def explained(spec: ModelSpec, what: str) -> Iterator[None]:
    """Turn whatever transformers raises into ModelLoadFailed; its own text goes to the log."""
    try:
        yield
    except MemoryError:
        raise OutOfMemory(f"{spec.id}: the memory ran out while it was loaded.") from None
    except Exception as error:
        if not threading.main_thread().is_alive():  # Python is being taken apart, and imports fail
            raise ModelLoadFailed(f"{spec.id}: the server ended while it was loaded.") from None
        log.warning("%s: %s", spec.id, what, exc_info=True)
        if "out of memory" in str(error).lower():
            raise OutOfMemory(f"{spec.id}: the memory ran out while it was loaded.") from None
        raise ModelLoadFailed(f"{spec.id}: {what} ({type(error).__name__}).") from None
