"""The catalogue of models: what models/catalog.yaml says, and the model that the command line names."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from app.engine.types import Defaults, ModelSpec
from app.errors import ModelNotFound
from app.settings import PROJECT, SettingsError

_SPEC_FIELDS = {row.name for row in fields(ModelSpec)}
_DEFAULT_FIELDS = {row.name for row in fields(Defaults)}


class Catalog:
    """Models by id and alias, in the file's order; `default` is what a request without a name gets."""

    def __init__(self, specs: Iterable[ModelSpec], default: str, created: int = 0) -> None:
        self.created = created
        self._specs = {spec.id: spec for spec in specs}
        self._names = {alias.lower(): spec.id for spec in self for alias in spec.aliases}
        self._names |= {spec.id.lower(): spec.id for spec in self}
        self.default = self.resolve(default).id

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self._specs.values())

    def resolve(self, name: str | None) -> ModelSpec:
        """The entry of an id or alias, whatever its case; raises ModelNotFound."""
        if name is None:
            return self._specs[self.default]
        found = self._names.get(name.lower())
        if found is None:
            near = difflib.get_close_matches(name.lower(), self._names, 1)
            hint = f" Did you mean {self._names[near[0]]}?" if near else ""
            raise ModelNotFound(f"There is no model {name[:200]!r} here.{hint}", param="model")
        return self._specs[found]


def read(path: Path, model: str, *, device: str = "auto", dtype: str = "auto") -> Catalog:
    """The catalogue of a file, with `model` as its default; a folder or hub id not in it becomes an entry.

    Device and dtype other than auto override those of the default entry. Raises SettingsError.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        created = int(path.stat().st_mtime)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"the catalogue {path} cannot be read: {error}") from None
    entries = document.get("models") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise SettingsError(f"the catalogue {path} has no list 'models'")
    specs = [_spec(entry, path) for entry in entries]
    _refuse_duplicates(specs, path)
    try:
        default = Catalog(specs, model).resolve(model)
    except ModelNotFound as error:
        default = _named_on_the_command_line(model, str(error))
        specs.append(default)
    if device != "auto" or dtype != "auto":
        device = device if device != "auto" else default.device
        dtype = dtype if dtype != "auto" else default.dtype
        changed = replace(default, device=device, dtype=dtype)
        specs = [changed if spec.id == default.id else spec for spec in specs]
    return Catalog(specs, default.id, created)


def _spec(entry: Any, path: Path) -> ModelSpec:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise SettingsError(f"the catalogue {path} has an entry without an id")
    entry = dict(entry)
    defaults = entry.pop("defaults", None) or {}
    unknown = sorted(set(entry) - _SPEC_FIELDS) + sorted(set(defaults) - _DEFAULT_FIELDS)
    if unknown or not isinstance(entry.get("source"), str):
        what = f"has unknown fields {', '.join(unknown)}" if unknown else "has no source"
        raise SettingsError(f"the catalogue {path}: entry {entry['id']} {what}")
    folder = PROJECT / entry["source"]
    if entry["source"].startswith(("models/", "./")) or folder.is_dir():
        entry["source"] = str(folder)
    for name in ("modalities", "aliases"):
        entry[name] = tuple(entry.get(name, getattr(ModelSpec, name)))
    return ModelSpec(**entry, defaults=Defaults(**defaults))


def _refuse_duplicates(specs: list[ModelSpec], path: Path) -> None:
    seen: set[str] = set()
    for name in (name.lower() for spec in specs for name in (spec.id, *spec.aliases)):
        if name in seen:
            raise SettingsError(f"the catalogue {path} has the name {name} twice")
        seen.add(name)


def _named_on_the_command_line(model: str, reason: str) -> ModelSpec:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return ModelSpec(id=folder.resolve().name, source=str(folder.resolve()), aliases=(model,))
    if model.startswith((".", "/", "~")):
        raise SettingsError(f"--model {model}: there is no such folder")
    owner, slash, name = model.partition("/")
    if slash and owner and name and "/" not in name:
        return ModelSpec(id=model, source=model)
    raise SettingsError(f"--model {model}: {reason} A hub id is owner/name, a folder is a path.")
