"""Tiny model folders with random weights, complete with tokenizer, template and processor files, for tests.

They look like downloaded checkpoints of the real families and load offline through transformers' Auto
classes. `app.engine.torchvision_cpu.prepare()` is called here, before transformers is imported.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.engine import torchvision_cpu

torchvision_cpu.prepare()

import tokenizers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from tests.tiny_models import families, tokenization, weights  # noqa: E402
from tests.tiny_models.families import LENGTH, MARKER_VARIABLE  # noqa: E402

__all__ = [
    "ENDLESS",
    "FAMILIES",
    "LENGTH",
    "MARKER_VARIABLE",
    "TEXT_FAMILIES",
    "VISION_FAMILIES",
    "WAYS_TO_BREAK",
    "Loaded",
    "break_folder",
    "build",
    "greedy",
    "inputs_of",
    "load",
    "make_endless",
    "reference_greedy",
]

TEXT_FAMILIES = tuple(name for name, family in families.FAMILIES.items() if not family.sees)
VISION_FAMILIES = tuple(name for name, family in families.FAMILIES.items() if family.sees)
FAMILIES = TEXT_FAMILIES + VISION_FAMILIES
ENDLESS = 16384
"""max_position_embeddings where answers do not end."""
WAYS_TO_BREAK = ("no_weights", "truncated_weights", "broken_config", "unknown_architecture", "no_tokenizer")

Messages = Sequence[Mapping[str, Any]]


def build(family: str, folder: pathlib.Path, *, seed: int = 0) -> pathlib.Path:
    """Write a model folder of the family; the same seed gives the same weights. Returns the folder."""
    made = families.FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenization.write(made.style, folder, template=made.template, length=LENGTH)
    with torch.random.fork_rng(devices=[]):
        model = made.make(tokenizer)
    weights.fill(model, seed)
    weights.shape_head(_head(model), tokenizer, made.ends)
    model.save_pretrained(folder)
    families.write_json(folder / "generation_config.json", _generation(made, tokenizer))
    if made.write_processor is not None:
        families.write_json(folder / "chat_template.json", {"chat_template": made.template})
        made.write_processor(folder)
    return folder


def make_endless(folder: pathlib.Path) -> pathlib.Path:
    """Let a model folder's answers go on to the limit that is asked for, which may be thousands of tokens:
    what ends them is a token that the model has no output for. Returns the folder.
    """
    never = "<|never|>"
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    number = len(data["model"]["vocab"]) + sum(
        one["content"] not in data["model"]["vocab"] for one in data["added_tokens"]
    )
    data["added_tokens"].append(data["added_tokens"][-1] | {"id": number, "content": never})
    families.write_json(folder / "tokenizer.json", data)
    for name, changes in {
        "tokenizer_config.json": {"eos_token": never, "model_max_length": ENDLESS},
        "config.json": {"eos_token_id": number, "max_position_embeddings": ENDLESS},
        "generation_config.json": {"eos_token_id": number},
    }.items():
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        families.write_json(folder / name, data | changes)
    return folder


def _head(model: transformers.PreTrainedModel) -> torch.nn.Linear:
    inner = getattr(model, "language_model", model)
    head = inner.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    return head


def _generation(made: families.Family, tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    if made.remote_code:
        return made.generation
    ends = [tokenizer.token_to_id(text) for text in made.ends]
    return {"eos_token_id": ends, "pad_token_id": tokenizer.token_to_id(made.style.pad), **made.generation}


def break_folder(folder: pathlib.Path, how: str) -> None:
    """Spoil a model folder in place, in one of WAYS_TO_BREAK."""
    weight_files, config = sorted(folder.glob("*.safetensors")), folder / "config.json"
    if how == "no_weights":
        _remove(weight_files)
    elif how == "truncated_weights":
        data = weight_files[0].read_bytes()
        weight_files[0].write_bytes(data[: len(data) // 2])
    elif how == "broken_config":
        text = config.read_text(encoding="utf-8")
        config.write_text(text[: len(text) // 2], encoding="utf-8")
    elif how == "unknown_architecture":
        content = json.loads(config.read_text(encoding="utf-8"))
        content.pop("auto_map", None)
        families.write_json(
            config, content | {"model_type": "no_such_model", "architectures": ["NoSuchModel"]}
        )
    elif how == "no_tokenizer":
        _remove(folder.glob("tokenizer*.json"))
    else:
        raise ValueError(f"{how!r} is none of {WAYS_TO_BREAK}")


def _remove(paths: Iterable[pathlib.Path]) -> None:
    for path in paths:
        path.unlink()


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A loaded folder."""

    model: Any
    processor: Any
    family: families.Family


def load(folder: pathlib.Path) -> Loaded:
    """Load a folder by the Auto classes that its family is meant for; remote code is trusted."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = {"sailvl": "sail_vl2"}.get(config["model_type"], config["model_type"])
    family = families.FAMILIES[name]
    if not family.sees:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        return Loaded(model, transformers.AutoTokenizer.from_pretrained(folder), family)
    trust = family.remote_code
    kind = transformers.AutoModel if trust else transformers.AutoModelForImageTextToText
    model = kind.from_pretrained(folder, trust_remote_code=trust)
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=trust)
    return Loaded(model, processor, family)


def inputs_of(loaded: Loaded, messages: Messages) -> Any:
    """Make the model's inputs; messages have strings or parts, with PIL pictures under "image"."""
    if not loaded.family.sees:
        conversation = [{**message, "content": _plain(message["content"])} for message in messages]
        return loaded.processor.apply_chat_template(
            conversation, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    text = loaded.processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    media: dict[str, Any] = {"images": _media(messages, "image") or None}
    if videos := _media(messages, "video"):
        media["videos"] = videos
    inputs = loaded.processor(text=[text], return_tensors="pt", **media)
    return inputs.to(loaded.model.device, loaded.model.dtype)


def _plain(content: str | Sequence[Mapping[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _media(messages: Messages, kind: str) -> list[Any]:
    lists = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return [part[kind] for parts in lists for part in parts if part["type"] == kind]


def greedy(loaded: Loaded, messages: Messages, max_new_tokens: int) -> tuple[str, list[int]]:
    """Answer greedily with a model that is loaded already."""
    inputs = inputs_of(loaded, messages)
    output = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    start = 0 if loaded.family.remote_code else inputs["input_ids"].shape[1]
    tokens: list[int] = output[0, start:].tolist()
    return loaded.processor.decode(tokens, skip_special_tokens=True), tokens


def reference_greedy(folder: pathlib.Path, messages: Messages, max_new_tokens: int) -> tuple[str, list[int]]:
    """Answer as plain transformers does; the tokens are the new ones, with the end token if there was one."""
    return greedy(load(folder), messages, max_new_tokens)
