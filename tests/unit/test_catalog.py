"""The catalogue: entries by id and alias, and the model of the command line."""

from pathlib import Path

import pytest
import yaml

from app.engine import catalog
from app.engine.types import Defaults, ModelSpec
from app.errors import ModelNotFound
from app.settings import PROJECT, SettingsError

SHIPPED = PROJECT / "models" / "catalog.yaml"

SMALL = """
models:
  - id: demo
    source: models/demo/weights
    modalities: [text, image]
    aliases: [Small-Demo]
    defaults: {temperature: 0.0}
  - id: Big
    source: owner/big
    context_length: 100
    dtype: bfloat16
    trust_remote_code: true
    revision: abc
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return written(tmp_path, SMALL)


def written(folder: Path, text: str) -> Path:
    path = folder / "catalog.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_catalogue_is_read_whole() -> None:
    entries = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["models"]
    found = catalog.read(SHIPPED, "demo")
    assert [spec.id for spec in found] == [entry["id"] for entry in entries]
    assert found.default == "demo"
    assert found.created == int(SHIPPED.stat().st_mtime)
    remote = {spec.id for spec in found if spec.trust_remote_code}
    assert remote == {spec.id for spec in found if "SAIL-VL2" in spec.source}


def test_an_entry_has_what_the_file_says_and_defaults_for_the_rest(small: Path) -> None:
    demo, big = catalog.read(small, "demo")
    assert demo == ModelSpec(
        id="demo",
        source=str(PROJECT / "models/demo/weights"),
        modalities=("text", "image"),
        aliases=("Small-Demo",),
        defaults=Defaults(temperature=0.0),
    )
    assert big == ModelSpec(
        id="Big",
        source="owner/big",
        context_length=100,
        dtype="bfloat16",
        trust_remote_code=True,
        revision="abc",
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "demo"),
        ("demo", "demo"),
        ("DEMO", "demo"),
        ("small-demo", "demo"),
        ("big", "Big"),
        ("Big", "Big"),
    ],
)
def test_a_name_is_found_as_id_or_alias_in_any_case(small: Path, name: str | None, expected: str) -> None:
    assert catalog.read(small, "demo").resolve(name).id == expected


def test_an_unknown_name_is_refused_with_the_nearest_one(small: Path) -> None:
    found = catalog.read(small, "demo")
    with pytest.raises(ModelNotFound, match=r"'demoo' here. Did you mean demo\?") as caught:
        found.resolve("demoo")
    assert caught.value.param == "model"
    with pytest.raises(ModelNotFound, match="Did you mean demo") as caught:
        found.resolve("small-dem")
    with pytest.raises(ModelNotFound) as caught:
        found.resolve("x" * 100_000)
    assert len(str(caught.value)) < 400


def test_the_default_may_be_an_alias(small: Path) -> None:
    assert catalog.read(small, "SMALL-demo").default == "demo"


def test_a_folder_on_the_command_line_becomes_the_default(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    found = catalog.read(small, str(folder))
    assert found.default == "My-Model"
    assert found.resolve(None).source == str(folder)
    assert not found.resolve(None).trust_remote_code
    assert found.resolve(str(folder)).id == "My-Model"
    assert [spec.id for spec in found] == ["demo", "Big", "My-Model"]


def test_a_relative_folder_and_one_of_the_home_are_found(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("here", "./here", "~/here"):
        assert catalog.read(small, name).resolve(None).source == str(tmp_path / "here")


def test_a_hub_id_means_the_entry_with_that_source(small: Path) -> None:
    found = catalog.read(small, "Owner/Big")
    assert found.default == "Big"
    assert found.resolve(None).trust_remote_code
    assert [spec.id for spec in found] == ["demo", "Big"]
    assert catalog.read(small, "demo").resolve("owner/big").id == "Big"


def test_the_folder_of_an_entry_means_that_entry(small: Path) -> None:
    found = catalog.read(small, str(PROJECT / "models/demo/weights"))
    assert found.default == "demo"
    assert [spec.id for spec in found] == ["demo", "Big"]


def test_a_folder_has_the_same_name_from_wherever_it_is_called(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "house" / "demo"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    short, whole = catalog.read(small, "./demo"), catalog.read(small, str(folder))
    assert short.default == whole.default == "house/demo"
    assert short.resolve("./demo").source == str(folder)


def test_a_broken_catalogue_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text("models:\n  - id: a\n    source: [b\n")
    with pytest.raises(SettingsError) as caught:
        catalog.read(file, "a")
    assert "\n" not in str(caught.value)


def test_a_folder_named_like_an_entry_does_not_replace_it(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    found = catalog.read(small, str(folder))
    assert found.resolve(None).source == str(folder)
    assert str(PROJECT / "models/demo/weights") in {spec.source for spec in found}


def test_a_hub_id_on_the_command_line_becomes_the_default(small: Path) -> None:
    found = catalog.read(small, "someone/something")
    assert found.resolve(None) == ModelSpec(id="someone/something", source="someone/something")


@pytest.mark.parametrize(
    "model", ["nosuch", "/no/such/folder", "./nothing", "~/nothing", "a/b/c", "owner/", "/"]
)
def test_a_default_that_cannot_be_is_named(small: Path, model: str) -> None:
    with pytest.raises(SettingsError, match=f"^--model {model}: "):
        catalog.read(small, model)


def test_device_and_dtype_of_the_command_line_are_for_the_default_only(small: Path) -> None:
    demo, big = catalog.read(small, "demo", device="cuda:1", dtype="float16")
    assert (demo.device, demo.dtype) == ("cuda:1", "float16")
    assert (big.device, big.dtype) == ("auto", "bfloat16")
    _, big = catalog.read(small, "Big", device="cpu")
    assert (big.device, big.dtype) == ("cpu", "bfloat16")


BROKEN = {
    "no YAML": ("models: [", "cannot be read"),
    "empty": ("", "no list 'models'"),
    "a list": ("- id: a", "no list 'models'"),
    "models no list": ("models: {a: b}", "no list 'models'"),
    "entry no object": ("models: [a]", "without an id"),
    "no id": ("models: [{source: a/b}]", "without an id"),
    "id a number": ("models: [{id: 3, source: a/b}]", "without an id"),
    "no source": ("models: [{id: a}]", "entry a has no source"),
    "source a number": ("models: [{id: a, source: 3}]", "entry a: source is 3"),
    "unknown field": ("models: [{id: a, source: b/c, trust: true}]", "entry a has unknown fields trust"),
    "unknown default": (
        "models: [{id: a, source: b/c, defaults: {top_q: 1}}]",
        "entry a: defaults has unknown fields top_q",
    ),
    "id twice": ("models: [{id: a, source: b/c}, {id: A, source: b/d}]", "the name a twice"),
    "alias twice": ("models: [{id: a, source: b/c}, {id: b, source: b/d, aliases: [A]}]", "the name a twice"),
    "defaults a number": ("models: [{id: a, source: b/c, defaults: 5}]", "entry a"),
    "defaults a list": ("models: [{id: a, source: b/c, defaults: [1]}]", "entry a"),
    "default of a wrong type": ("models: [{id: a, source: b/c, defaults: {top_p: hot}}]", "entry a"),
    "aliases a number": ("models: [{id: a, source: b/c, aliases: 5}]", "entry a"),
    "aliases a string": ("models: [{id: a, source: b/c, aliases: other}]", "entry a"),
    "alias a number": ("models: [{id: a, source: b/c, aliases: [4]}]", "entry a"),
    "modalities a string": ("models: [{id: a, source: b/c, modalities: text}]", "entry a"),
    "modality unknown": ("models: [{id: a, source: b/c, modalities: [text, smell]}]", "entry a"),
    "dtype unknown": ("models: [{id: a, source: b/c, dtype: float31}]", "entry a"),
    "device unknown": ("models: [{id: a, source: b/c, device: gpu}]", "entry a"),
    "context length a string": ("models: [{id: a, source: b/c, context_length: long}]", "entry a"),
    "context length negative": ("models: [{id: a, source: b/c, context_length: -5}]", "entry a"),
    "trust a string": ("models: [{id: a, source: b/c, trust_remote_code: 'no'}]", "entry a"),
    "field name a number": ("models: [{id: a, source: b/c, 5: x, y: z}]", "entry a"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_catalogue_is_named_with_its_fault(tmp_path: Path, case: str) -> None:
    text, reason = BROKEN[case]
    path = written(tmp_path, text)
    with pytest.raises(SettingsError, match=reason) as caught:
        catalog.read(path, "a")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("wish", [{"dtype": "float16"}, {"quantization": "int8"}])
def test_how_a_compiled_model_computes_cannot_be_chosen(tmp_path: Path, wish: dict[str, str]) -> None:
    path = written(tmp_path, "models: [{id: a, source: b/c, engine: bmrt}, {id: d, source: e/f}]")
    assert catalog.read(path, "d", **wish).default == "d"
    with pytest.raises(SettingsError, match="a is compiled for a TPU and computes as it was compiled"):
        catalog.read(path, "a", **wish)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00broken"])
def test_a_catalogue_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "other.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"other\.yaml cannot be read"):
        catalog.read(path, "a")
