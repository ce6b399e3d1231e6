"""Loading: what a folder holds decides, and whatever is wrong with it is told by name."""

import json
import os
import pathlib
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests import tiny_models

# isort: split
import safetensors.torch
import torch
import transformers

from app.engine import checkpoint, linear, loader, machine
from app.engine.types import (
    Defaults,
    Engine,
    Finish,
    GenerationRequest,
    Message,
    ModelSpec,
    Progress,
    Sampling,
    TextPart,
    Token,
)
from app.errors import ApiError, ContextLengthExceeded, ModelLoadFailed, ModelNotFound, OutOfMemory
from app.settings import PROJECT
from tests.unit.conftest import remote_code_in

Tiny = Callable[[str], pathlib.Path]
Copy = Callable[[str], pathlib.Path]
REQUEST = GenerationRequest((Message("user", (TextPart("hello"),)),), Sampling(temperature=0.0), max_tokens=4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep copies of remote code out of the home folder, torch's thread count as it was, and the
    caches of one test out of the next.
    """
    monkeypatch.setattr(loader, "_loops", weakref.WeakSet())
    threads = torch.get_num_threads()
    with remote_code_in(tmp_path / "code"):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def copy(tiny: Tiny, tmp_path: pathlib.Path) -> Copy:
    """Makes a copy of a family's folder that may be spoiled."""

    def made(family: str) -> pathlib.Path:
        return pathlib.Path(shutil.copytree(tiny(family), tmp_path / f"{family}-copy"))

    return made


def spec_of(folder: pathlib.Path | str, **options: Any) -> ModelSpec:
    return ModelSpec(**({"id": "the-model", "source": str(folder), "device": "cpu"} | options))


def load(spec: ModelSpec, progress: Progress = lambda phase, share: None) -> Engine:
    return loader.load(spec, progress, max_concurrent=2)


def change(path: pathlib.Path, **values: Any) -> None:
    """Set values of a JSON file; None takes one away."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def fails(spec: ModelSpec, error: type[ApiError], reason: str) -> None:
    with pytest.raises(error, match=reason) as caught:
        load(spec)
    assert "the-model" in str(caught.value)
    if spec.source.startswith("/"):
        assert str(pathlib.Path(spec.source).parent) not in str(caught.value)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_folder_becomes_an_engine_that_answers(tiny: Tiny, family: str) -> None:
    sees, remote = family in tiny_models.VISION_FAMILIES, family == "sail_vl2"
    modalities = ("text", "image") if remote else ("text",)
    spec = spec_of(tiny(family), trust_remote_code=remote, modalities=modalities)
    engine = load(spec)
    clips = () if remote else ("video",)
    assert engine.modalities == (("text", "image", *clips) if sees else ("text",))
    assert (engine.spec.id, engine.device, engine.context_length) == ("the-model", "cpu", tiny_models.LENGTH)
    size = sum(file.stat().st_size for file in tiny(family).glob("*.safetensors"))
    assert engine.memory_bytes() == pytest.approx(size, rel=0.05)
    generation = engine.submit(REQUEST)
    assert generation.prompts()[0].ids
    assert isinstance(list(generation)[-1], Finish)
    engine.close()


BROKEN = {
    "no_weights": "no weights",
    "truncated_weights": "weights cannot be read",
    "broken_config": "config.json is not JSON",
    "unknown_architecture": "architecture 'no_such_model'",
    "no_tokenizer": "tokenizer",
}


def test_every_way_to_break_is_here() -> None:
    assert set(BROKEN) == set(tiny_models.WAYS_TO_BREAK)


@pytest.mark.parametrize("how", sorted(BROKEN))
@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3_vl"])
def test_a_broken_folder_fails_with_its_reason(copy: Copy, family: str, how: str) -> None:
    folder = copy(family)
    tiny_models.break_folder(folder, how)
    fails(spec_of(folder), ModelLoadFailed, BROKEN[how])


def test_a_folder_that_does_not_exist_is_not_found(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelNotFound, match="the-model: its folder gone does not exist") as caught:
        load(spec_of(tmp_path / "gone"))
    assert caught.value.param == "model"
    assert str(tmp_path) not in str(caught.value)
    compiled = ModelSpec("the-model", str(PROJECT / "models" / "gone"), engine="bmrt")
    with pytest.raises(ModelNotFound, match=r"its folder models/gone does not exist\. docs/tpu\.md says"):
        load(compiled)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "no config.json"),
        ("[]", "no model_type"),
        ("{}", "no model_type"),
        ('{"model_type": 3}', "no model_type"),
    ],
)
def test_a_folder_without_a_usable_configuration_is_told(
    tmp_path: pathlib.Path, config: str | None, reason: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    fails(spec_of(tmp_path), ModelLoadFailed, reason)


def test_an_architecture_that_cannot_chat_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    fails(spec_of(tmp_path), ModelLoadFailed, "no chat model of the architecture 'clip'")


def test_a_configuration_that_contradicts_itself_is_told(copy: Copy) -> None:
    folder = copy("qwen2")
    change(folder / "config.json", hidden_size="wide")
    fails(spec_of(folder), ModelLoadFailed, "configuration|weights")


def test_weights_that_lack_a_tensor_are_refused(copy: Copy) -> None:
    folder = copy("qwen2")
    (file,) = folder.glob("*.safetensors")
    tensors = safetensors.torch.load_file(file)
    del tensors["model.norm.weight"]
    safetensors.torch.save_file(tensors, file, {"format": "pt"})
    fails(spec_of(folder), ModelLoadFailed, "lack 1 tensors, the first is model.norm.weight")


def test_weights_of_another_shape_are_refused(copy: Copy) -> None:
    folder = copy("qwen2")
    (file,) = folder.glob("*.safetensors")
    tensors = safetensors.torch.load_file(file)
    tensors["model.norm.weight"] = torch.ones(3)
    safetensors.torch.save_file(tensors, file, {"format": "pt"})
    fails(spec_of(folder), ModelLoadFailed, "weights")


def test_a_broken_generation_config_is_told(copy: Copy) -> None:
    folder = copy("qwen2")
    (folder / "generation_config.json").write_text("{")
    fails(spec_of(folder), ModelLoadFailed, "generation_config|configuration")


def test_another_engine_is_refused(tmp_path: pathlib.Path) -> None:
    fails(spec_of(tmp_path, engine="tpu"), ModelLoadFailed, "no engine 'tpu'")


def free_memory(monkeypatch: pytest.MonkeyPatch, available: float) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))


def size_of(folder: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def test_too_little_memory_is_told_before_anything_is_read(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_memory(monkeypatch, 1000)
    phases: list[str] = []
    with pytest.raises(OutOfMemory, match=r"the-model needs about 0\.\d GB of memory on cpu; 0\.0 GB"):
        load(spec_of(tiny("qwen2")), lambda phase, share: phases.append(phase))
    assert "reading the weights" not in phases


def test_a_container_s_limit_counts_as_the_memory_that_is_free(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    without = machine.free_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory() > without / 2
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert machine.free_memory() == 600000
    assert machine.total_memory() == 1000000
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert machine.usable_cores() == 1


def test_odd_values_in_a_generation_config_are_a_failed_load(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    folder = pathlib.Path(shutil.copytree(tiny("qwen2"), tmp_path / "odd"))
    (folder / "generation_config.json").write_text('{"temperature": "hot"}')
    fails(spec_of(folder), ModelLoadFailed, "temperature 'hot'")


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_model_loads_again_after_it_was_closed(tiny: Tiny, family: str) -> None:
    vision = family in tiny_models.VISION_FAMILIES
    modalities = ("text", "image") if vision else ("text",)
    spec = spec_of(tiny(family), modalities=modalities, trust_remote_code=family == "sail_vl2")
    for _ in range(2):
        engine = load(spec)
        assert [type(event) for event in engine.submit(REQUEST)].count(Token) > 0
        engine.close()


@pytest.mark.parametrize(
    ("share", "dtype", "good"),
    [(1.3, "float32", True), (1.0, "float32", False), (0.7, "bfloat16", True), (0.5, "bfloat16", False)],
)
def test_the_memory_asked_for_follows_the_number_format(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, share: float, dtype: str, good: bool
) -> None:
    folder = tiny("qwen2")
    free_memory(monkeypatch, share * size_of(folder))
    if good:
        load(spec_of(folder, dtype=dtype))
    else:
        fails(spec_of(folder, dtype=dtype), OutOfMemory, "needs about")


def halve(folder: pathlib.Path) -> None:
    """Store the weights in bfloat16 and say so as Qwen3-VL does: in the text's configuration only."""
    for file in folder.glob("*.safetensors"):
        tensors = {name: tensor.bfloat16() for name, tensor in safetensors.torch.load_file(file).items()}
        safetensors.torch.save_file(tensors, file, {"format": "pt"})
    path = folder / "config.json"
    text = json.loads(path.read_text(encoding="utf-8"))["text_config"]
    change(path, dtype=None, torch_dtype=None, text_config=text | {"dtype": "bfloat16"})


@pytest.mark.parametrize(("share", "good"), [(1.3, True), (1.0, False)])
def test_the_memory_of_weights_whose_format_stands_in_the_texts_configuration_is_known(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, share: float, good: bool
) -> None:
    folder = copy("qwen3_vl")
    halve(folder)
    free_memory(monkeypatch, share * size_of(folder))
    spec = spec_of(folder, dtype="bfloat16")
    if good:
        load(spec)
    else:
        fails(spec, OutOfMemory, "needs about")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] out of memory"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_memory_that_runs_out_while_reading_is_told_as_such(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def from_pretrained(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    fails(spec_of(tiny("qwen2")), OutOfMemory, "memory ran out")


def test_memory_that_runs_out_on_the_way_to_the_device_is_told_as_such(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(transformers.PreTrainedModel, "to", to)
    fails(spec_of(tiny("qwen2")), OutOfMemory, "memory ran out")


@pytest.fixture
def marker(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    path = tmp_path / "marker"
    monkeypatch.setenv(tiny_models.MARKER_VARIABLE, str(path))
    return path


def test_remote_code_does_not_run_unless_the_catalogue_says_so(tiny: Tiny, marker: pathlib.Path) -> None:
    fails(spec_of(tiny("sail_vl2")), ModelLoadFailed, "trust_remote_code: true")
    assert not marker.exists()


@pytest.mark.parametrize("file", ["preprocessor_config.json", "tokenizer_config.json"])
def test_remote_code_of_a_processor_alone_does_not_run(copy: Copy, marker: pathlib.Path, file: str) -> None:
    folder, code = copy("qwen3_vl"), copy("sail_vl2")
    for source in code.glob("*.py"):
        shutil.copy(source, folder)
    kind = {
        "AutoProcessor": "processing_sailvl.SAILVLProcessor",
        "AutoImageProcessor": "image_processing_sailvl.SAILVLImageProcessor",
        "AutoTokenizer": [None, "processing_sailvl.SAILVLProcessor"],
    }
    change(folder / file, auto_map=kind, processor_class=None, tokenizer_class="SailTokenizer")
    try:
        load(spec_of(folder))
    except ModelLoadFailed as error:
        assert "the-model" in str(error)  # noqa: PT017  # loading without the code is as good
    assert not marker.exists()


def test_remote_code_runs_where_it_is_trusted(tiny: Tiny, marker: pathlib.Path) -> None:
    load(spec_of(tiny("sail_vl2"), trust_remote_code=True, modalities=("text", "image")))
    assert "modeling_sailvl" in marker.read_text()


def test_trust_in_a_model_without_code_of_its_own_does_no_harm(tiny: Tiny) -> None:
    assert load(spec_of(tiny("qwen3_vl"), trust_remote_code=True)).modalities == ("text", "image", "video")


GENERATION = {"do_sample": True, "temperature": 0.6, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


@pytest.mark.parametrize(
    ("own", "entry", "expected"),
    [
        (GENERATION, Defaults(), Defaults(0.6, 0.8, 20, 1.05)),
        (GENERATION, Defaults(temperature=0.0, top_k=0, max_tokens=9), Defaults(0.0, 0.8, 0, 1.05, 9)),
        ({"temperature": 0.6}, Defaults(top_p=0.5), Defaults(0.6, 0.5, None, None)),
        ({}, Defaults(), Defaults()),
        (
            {"do_sample": False, "temperature": 0.6, "repetition_penalty": 1.2},
            Defaults(),
            Defaults(0.0, repetition_penalty=1.2),
        ),
        ({"do_sample": False}, Defaults(temperature=0.5), Defaults(0.5)),
        ({"max_new_tokens": 5}, Defaults(), Defaults(max_tokens=5)),
        ({"max_new_tokens": 5}, Defaults(max_tokens=7), Defaults(max_tokens=7)),
    ],
)
def test_defaults_come_from_the_catalogue_then_from_the_model(
    copy: Copy, own: dict[str, Any], entry: Defaults, expected: Defaults
) -> None:
    folder = copy("qwen2")
    (folder / "generation_config.json").write_text(json.dumps(own))
    found = load(spec_of(folder, defaults=entry)).defaults
    neutral = {"top_p": (None, 1.0), "top_k": (None, 0, 50), "repetition_penalty": (None, 1.0)}
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens"):
        value, wanted = getattr(found, name), getattr(expected, name)
        assert value == wanted or (wanted is None and value in neutral.get(name, (None,))), name


def test_a_shorter_context_may_be_asked_for_but_no_longer_one(tiny: Tiny) -> None:
    assert load(spec_of(tiny("qwen2"), context_length=100)).context_length == 100
    assert load(spec_of(tiny("qwen2"), context_length=10**6)).context_length == tiny_models.LENGTH


@pytest.mark.parametrize(
    ("dtype", "bytes_each"), [("float32", 4), ("bfloat16", 2), ("float16", 2), ("auto", 4)]
)
def test_the_number_format_is_as_asked_else_as_stored(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, dtype: str, bytes_each: int
) -> None:
    monkeypatch.setattr(linear, "free_memory", lambda: 0)  # none for weights in two forms
    engine = load(spec_of(tiny("qwen2"), dtype=dtype))
    assert engine.memory_bytes() == pytest.approx(size_of(tiny("qwen2")) / 4 * bytes_each, rel=0.05)


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_sixteen_bits_are_kept_whatever_the_processor_computes_in(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: torch.dtype
) -> None:
    if fast and not linear.multiplies_bfloat16():
        pytest.skip("this CPU has no bfloat16 products")
    folder = copy("qwen3_vl")
    halve(folder)
    monkeypatch.setattr(linear, "multiplies_bfloat16", lambda: fast)
    engine: Any = load(spec_of(folder))
    assert engine._model.dtype == dtype
    linear_layers = [layer for layer in engine._model.modules() if hasattr(layer, "bytes")]
    assert sum(layer.bytes for layer in linear_layers) > 0.3 * size_of(folder) / 2
    assert not any(type(layer) is torch.nn.Linear for layer in engine._model.modules())


@pytest.mark.parametrize("device", ["cuda", "cuda:9", "mps"])
def test_a_device_that_is_not_there_is_named(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    fails(spec_of(tiny("qwen2"), device=device), ModelLoadFailed, "no (device|Apple GPU)")


@pytest.mark.parametrize("change_", [{"device": "gpu"}, {"dtype": "float31"}, {"dtype": "nn"}])
def test_a_device_or_format_that_no_machine_has_is_named(tiny: Tiny, change_: dict[str, Any]) -> None:
    spec = replace(spec_of(tiny("qwen2")), **change_)
    fails(spec, ModelLoadFailed, next(iter(change_.values())))


def test_progress_is_told(tiny: Tiny) -> None:
    told: list[tuple[str, float]] = []
    load(spec_of(tiny("qwen2")), lambda phase, share: told.append((phase, share)))
    phases = list(dict.fromkeys(phase for phase, _ in told))
    assert phases == [
        "importing torch",
        "reading the configuration",
        "reading the weights",
        "reading the tokenizer",
    ]
    assert all(0 <= share <= 1 for _, share in told)
    assert ("reading the weights", 1.0) in told


HUB: list[tuple[str, type[ApiError], str]] = [
    ("LocalEntryNotFoundError", ModelLoadFailed, "hub cannot be reached"),
    ("RepositoryNotFoundError", ModelNotFound, "the hub has no owner/name"),
    ("OSError", ModelLoadFailed, r"fetching owner/name failed \(OSError\)"),
]


@pytest.mark.parametrize(("name", "error", "reason"), HUB)
def test_what_the_hub_says_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, error: type[ApiError], reason: str
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    kind = getattr(errors, name, OSError)

    def snapshot_download(*_: object, **__: object) -> None:
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    fails(spec_of("owner/name"), error, reason)


def test_a_hub_model_is_fetched_without_pickles(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def snapshot_download(source: str, **options: Any) -> str:
        asked.append({"source": source} | options)
        return str(tiny("qwen2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    load(spec_of("owner/name", revision="abc"))
    (request,) = asked
    assert (request["source"], request["revision"]) == ("owner/name", "abc")
    assert not [name for name in request["allow_patterns"] if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_pickled_weights_are_not_read(copy: Copy) -> None:
    folder = copy("qwen2")
    (file,) = folder.glob("*.safetensors")
    file.rename(folder / "pytorch_model.bin")
    fails(spec_of(folder), ModelLoadFailed, "no weights")


def test_there_is_at_least_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= machine.usable_cores() <= (psutil.cpu_count() or 1)
    for text, expected in (("50000 100000", 1), ("max 100000", 3), ("250000 100000", 2), ("nonsense", 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
        monkeypatch.setattr(pathlib.Path, "read_text", lambda *_, text=text, **__: text)
        assert machine.usable_cores() == expected
        monkeypatch.undo()


def test_the_kv_cache_limits_what_a_request_may_ask_for(tiny: Tiny) -> None:
    engine = loader.load(spec_of(tiny("qwen2")), lambda what, share: None, max_concurrent=4, kv_bytes=40_000)
    assert 20 < engine.context_length < 300
    request = GenerationRequest(
        (Message("user", (TextPart("hello"),)),), Sampling(), max_tokens=engine.context_length
    )
    with pytest.raises(
        ContextLengthExceeded,
        match=f"KV cache has room for {engine.context_length} tokens, see --kv-cache-gb",
    ):
        engine.submit(request)
    engine.close()


def test_a_kv_cache_larger_than_what_is_free_says_what_was_asked_for(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "free_memory", lambda: 100_000_000)
    with pytest.raises(OutOfMemory, match=r"--kv-cache-gb asks for 200 GB.* 0\.1 GB are free beside"):
        loader.load(
            replace(spec_of(tiny("qwen2")), context_length=10**6),
            lambda what, share: None,
            max_concurrent=1000,
            kv_bytes=200 * 10**9,
        )


def test_what_caches_may_still_take_is_not_free(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "free_memory", lambda: 100_000_000)
    spec = replace(spec_of(tiny("qwen2")), context_length=10**6)

    def capacity(engine: Any) -> int:
        return int(engine.stats().kv_capacity)

    before = loader._free_on_cpu()
    one, two = (loader.load(spec, lambda *_: None, max_concurrent=1000) for _ in range(2))
    assert before - loader._free_on_cpu() > 0.6 * before  # 40 % and 40 % of the rest
    assert capacity(two) == pytest.approx(0.6 * capacity(one), rel=0.01)
    free = loader._free_on_cpu()
    list(one.submit(REQUEST))
    assert loader._free_on_cpu() > free  # what has been written to is counted by the machine
    one.close()
    two.close()
    assert loader._free_on_cpu() == before


def test_a_kv_cache_without_room_for_a_token_is_no_memory(tiny: Tiny) -> None:
    with pytest.raises(OutOfMemory, match="KV cache"):
        loader.load(spec_of(tiny("qwen2")), lambda what, share: None, max_concurrent=4, kv_bytes=10)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3_vl"])
def test_int8_loads_and_answers_in_the_batch(tiny: Tiny, family: str) -> None:
    engine: Any = load(replace(spec_of(tiny(family)), quantization="int8"))
    assert engine.is_batched()
    request = GenerationRequest((Message("user", (TextPart("hello"),)),), Sampling(temperature=0.0), 5)
    assert len([event for event in engine.submit(request) if isinstance(event, Token)]) in range(1, 6)
    engine.close()


def test_a_model_that_cannot_be_batched_says_so_and_answers(
    tiny: Tiny, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(tiny("llama"), tmp_path / "mistral")
    change(
        folder / "config.json",
        model_type="mistral",
        architectures=["MistralForCausalLM"],
        sliding_window=16,
        layer_types=None,
    )
    with caplog.at_level("WARNING"):
        engine = load(spec_of(folder))
    assert "not batched" in caplog.text
    assert "sliding window" in caplog.text
    request = replace(REQUEST, n=2, sampling=Sampling(temperature=1.0, seed=3))
    events = list(engine.submit(request))
    assert {event.choice for event in events if isinstance(event, Finish)} == {0, 1}
    again = [event.id for event in engine.submit(request) if isinstance(event, Token)]
    assert sorted(again) == sorted(event.id for event in events if isinstance(event, Token))
    engine.close()


def test_a_stop_during_a_load_is_no_fault_of_the_weights(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("threading.main_thread", threading.Thread)  # one that does not run, as at the end
    spec = ModelSpec(id="m", source="m")
    with (
        pytest.raises(ModelLoadFailed, match="the server ended"),
        checkpoint.explained(spec, "cannot be read"),
    ):
        raise AttributeError("prims.frexp")
    assert caplog.text == ""
