"""The catalogue of models: what models/catalog.yaml says, and the model that the command line names."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from app.engine.types import Defaults, ModelSpec
from app.errors import ModelNotFound
from app.settings import DEVICE, DTYPES, PROJECT, QUANTIZATIONS, SettingsError

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value fits, and what it must be."""


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _number(low: float, high: float, *, whole: bool = False) -> Callable[[Any], bool]:
    kinds = (int,) if whole else (int, float)
    return lambda value: type(value) in kinds and low <= value <= high


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(_text(item) for item in value)


def _modalities(value: Any) -> bool:
    return _texts(value) and bool(value) and set(value) <= {"text", "image", "video"}


ENTRY: dict[str, Rule] = {
    "id": (_text, "a name"),
    "source": (_text, "a hub id or a folder"),
    "engine": (_text, "a name"),
    "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "quantization": (lambda value: value in QUANTIZATIONS, f"one of {', '.join(QUANTIZATIONS)}"),
    "device": (
        lambda value: _text(value) and bool(re.fullmatch(DEVICE, value)),
        "auto, cpu, mps, cuda:N or tpu:N",
    ),
    "modalities": (_modalities, "a list of text, image, video"),
    "context_length": (_number(1, 10**9, whole=True), "a number of tokens"),
    "aliases": (_texts, "a list of names"),
    "trust_remote_code": (lambda value: isinstance(value, bool), "true or false"),
    "revision": (_text, "a commit or tag"),
    "thinking_prompt": (_text, "a text"),
    "defaults": (lambda value: isinstance(value, dict), "a mapping"),
}
DEFAULTS: dict[str, Rule] = {
    "temperature": (_number(0, 2), "0 to 2"),
    "top_p": (_number(1e-9, 1), "over 0 to 1"),
    "top_k": (_number(0, 10**9, whole=True), "a whole number"),
    "min_p": (_number(0, 1), "0 to 1"),
    "repetition_penalty": (_number(1e-9, 100), "over 0"),
    "max_tokens": (_number(1, 10**9, whole=True), "a number of tokens"),
    "thinking": (lambda value: isinstance(value, bool), "true or false"),
}


class Catalog:
    """Models by id and alias, in the file's order; `default` is what a request without a name gets."""

    def __init__(self, specs: Iterable[ModelSpec], default: str, created: int = 0) -> None:
        self.created = created
        self._specs = {spec.id: spec for spec in specs}
        # A hub id means the first entry of that source, so that what the entry allows and sets holds.
        self._names = {spec.source.lower(): spec.id for spec in reversed([*self]) if _is_hub_id(spec.source)}
        self._names |= {alias.lower(): spec.id for spec in self for alias in spec.aliases}
        self._names |= {spec.id.lower(): spec.id for spec in self}
        self.default = self.resolve(default).id

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self._specs.values())

    def resolve(self, name: str | None) -> ModelSpec:
        """The entry of an id, alias or hub id, whatever its case; raises ModelNotFound."""
        if name is None:
            return self._specs[self.default]
        found = self._names.get(name.lower())
        if found is None:
            near = difflib.get_close_matches(name.lower(), self._names, 1)
            hint = f" Did you mean {self._names[near[0]]}?" if near else ""
            raise ModelNotFound(f"There is no model {name[:200]!r} here.{hint}", param="model")
        return self._specs[found]


def read(
    path: Path, model: str, *, device: str = "auto", dtype: str = "auto", quantization: str = "none"
) -> Catalog:
    """The catalogue of a file, with `model` as its default; a folder or hub id not in it becomes an entry.

    Device and dtype other than auto, and a quantization, override those of the default entry; a bare number
    is also the device of all compiled models that name none. Raises SettingsError.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        created = int(path.stat().st_mtime)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"the catalogue {path} cannot be read: {reason}") from None
    entries = document.get("models") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise SettingsError(f"the catalogue {path} has no list 'models'")
    specs = [_spec(entry, path) for entry in entries]
    taken = _names(specs, path)
    try:
        default = Catalog(specs, model).resolve(model)
    except ModelNotFound as error:
        folder = str(Path(model).expanduser().resolve())
        known = [spec for spec in specs if spec.source == folder]
        default = known[0] if known else _named_on_the_command_line(model, str(error), taken)
        specs += [] if known else [default]
    changed = replace(
        default,
        device=device if device != "auto" else default.device,
        dtype=dtype if dtype != "auto" else default.dtype,
        quantization=quantization if quantization != "none" else default.quantization,
    )
    specs = [changed if spec.id == default.id else spec for spec in specs]
    if device.isdigit():
        free = [spec.id for spec in specs if spec.engine == "bmrt" and spec.device == "auto"]
        specs = [replace(spec, device=device) if spec.id in free else spec for spec in specs]
    for spec in specs:
        if spec.engine == "bmrt" and (spec.dtype, spec.quantization) != ("auto", "none"):
            raise SettingsError(
                f"{spec.id} is compiled for a TPU and computes as it was compiled: neither dtype nor "
                "quantization can be chosen for it"
            )
    return Catalog(specs, default.id, created)


def context_length(spec: ModelSpec) -> int | None:
    """What is known of it before the model is loaded: the entry's own, else that of its folder."""
    if spec.context_length is not None:
        return spec.context_length
    try:
        config = json.loads((Path(spec.source) / "config.json").read_text(encoding="utf-8"))
        parts = (config.get("text_config"), config.get("llm_config"), config)
        found = [part.get("max_position_embeddings") for part in parts if isinstance(part, dict)]
    except (OSError, ValueError, AttributeError):
        return None
    return next((one for one in found if isinstance(one, int)), None)


def _is_hub_id(source: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source))


def _spec(entry: Any, path: Path) -> ModelSpec:
    where = f"the catalogue {path}"
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"].strip():
        raise SettingsError(f"{where} has an entry without an id")
    where += f": entry {entry['id']}"
    values = _checked(entry, ENTRY, where)
    if "source" not in values:
        raise SettingsError(f"{where} has no source")
    defaults = Defaults(**_checked(values.pop("defaults", {}), DEFAULTS, f"{where}: defaults"))
    folder = PROJECT / Path(values["source"]).expanduser()
    if values["source"].startswith(("models/", "./", "../", "~", "/")) or folder.is_dir():
        values["source"] = str(folder)
    elif not _is_hub_id(values["source"]):
        raise SettingsError(
            f"{where}: source {values['source']!r} is neither a folder nor a hub id (owner/name)"
        )
    for name in ("modalities", "aliases"):
        if name in values:
            values[name] = tuple(values[name])
    return ModelSpec(**values, defaults=defaults)


def _checked(values: Any, rules: dict[str, Rule], where: str) -> dict[str, Any]:
    """The values that are not null, each of which its rule takes."""
    if not isinstance(values, dict):
        raise SettingsError(f"{where} is no mapping")
    if unknown := sorted(str(name) for name in values if name not in rules):
        raise SettingsError(f"{where} has unknown fields {', '.join(unknown)}")
    given = {name: value for name, value in values.items() if value is not None}
    for name, value in given.items():
        fits, what = rules[name]
        if not fits(value):
            raise SettingsError(f"{where}: {name} is {value!r}; it must be {what}")
    return given


def _names(specs: list[ModelSpec], path: Path) -> set[str]:
    """Ids and aliases in lower case, which must all differ."""
    seen: set[str] = set()
    for name in (name.lower() for spec in specs for name in (spec.id, *spec.aliases)):
        if name in seen:
            raise SettingsError(f"the catalogue {path} has the name {name} twice")
        seen.add(name)
    return seen


def _named_on_the_command_line(model: str, reason: str, taken: set[str]) -> ModelSpec:
    folder = Path(model).expanduser()
    if folder.is_dir() and folder.resolve().name:
        # Made of the folder alone, so that every process finds the same name, from wherever it looks.
        whole = folder.resolve()
        names = (whole.name, f"{whole.parent.name}/{whole.name}", str(whole))
        name = next(one for one in names if one.lower() not in taken)
        aliases = tuple(sorted({model, str(whole)} - {name}))
        compiled = any(whole.glob("*.bmodel"))
        engine, sees = ("bmrt", ("text", "image", "video")) if compiled else ("transformers", ("text",))
        return ModelSpec(id=name, source=str(whole), engine=engine, modalities=sees, aliases=aliases)
    if model.startswith((".", "/", "~")):
        raise SettingsError(f"--model {model}: there is no such folder")
    owner, slash, name = model.partition("/")
    if slash and owner and name and "/" not in name:
        return ModelSpec(id=model, source=model)
    raise SettingsError(f"--model {model}: {reason} A hub id is owner/name, a folder is a path.")
