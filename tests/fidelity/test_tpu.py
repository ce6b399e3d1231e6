"""Compiled models on the stand-in against the same weights in transformers, token for token."""

import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
import transformers

from app.engine.bmrt import Libraries
from app.engine.tpu_device import Device, Net, UnknownModelError
from app.engine.tpu_layout import layout
from app.engine.tpu_model import KVCache, TpuModel
from app.engine.tpu_prompt import Prompt, Vision, prompt
from models.demo import evaluate
from tests import standin
from tests.conftest import ROOT, scene

assert tiny_models
Compiled = Callable[..., pathlib.Path]
DEMO = ROOT / "models" / "demo" / "weights"
BUILDS: dict[str, dict[str, Any]] = {
    "static": {},
    "dynamic": {"layout": "dynamic"},
    "history through inputs": {"layout": "history5", "input_length": 32, "history": 128},
    "history through networks": {"layout": "history", "input_length": 32},
    "two decode stages": {"stages": (64,)},
    "a head that tells tokens": {"head": "greedy"},
    "heads that choose": {"head": "heads"},
    "embedding on disk": {"embedding_on_disk": True},
    "embedding on disk, in pieces": {"embedding_on_disk": True, "layout": "history", "input_length": 32},
}


class Loaded:
    """A compiled model on a device, and what it answers."""

    def __init__(self, folder: pathlib.Path) -> None:
        assert standin.control()
        self.device = Device(Libraries(str(standin.libraries())), 0)
        try:
            self.device.load(next(folder.glob("*.bmodel")))
            raw = json.loads((folder / "config" / "config.json").read_text(encoding="utf-8"))
            self.vision = Vision.of(raw)
            self.layout = layout(self.device.nets)
            self.model = TpuModel(self.device, self.layout, folder / "config", self.vision)
            self.caches = self.model.caches(2)
        except BaseException:
            self.device.close()
            raise

    def prompt(self, inputs: Any) -> Prompt:
        return prompt({name: value.numpy() for name, value in inputs.items()}, self.vision, self.layout.axes)

    def says(self, asked: Prompt, count: int, cache: KVCache | None = None) -> list[int]:
        cache = cache or self.caches[0]
        self.model.prefill(cache, asked)
        return self.goes_on(asked, count, cache)

    def goes_on(self, asked: Prompt, count: int, cache: KVCache) -> list[int]:
        found = [self.token()]
        while len(found) < count:
            self.model.decode(cache, found[-1], asked.next_position + len(found) - 1)
            found.append(self.token())
        return found

    def token(self) -> int:
        told = self.layout.greedy_only or self.model.has_chooser()
        return self.model.token() if told else int(self.model.logits().argmax())


@pytest.fixture
def load(compiled: Compiled) -> Iterator[Callable[..., Loaded]]:
    made: list[Loaded] = []

    def loaded(*family: str, **options: Any) -> Loaded:
        made.append(Loaded(compiled(*family, **options)))
        return made[-1]

    refused = standin.control()["host_refused"]
    yield loaded
    for one in made:
        one.device.close()
    control = standin.control()
    assert [control[name] for name in ("live_bytes", "live_handles", "live_runtimes", "callers")] == [0] * 4
    assert control["host_refused"] == refused


@pytest.fixture(scope="module")
def demo() -> Any:
    model = transformers.AutoModelForImageTextToText.from_pretrained(DEMO, dtype=torch.float32).eval()
    return model, transformers.AutoProcessor.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def asked(demo: Any) -> dict[str, Any]:
    """Prompts: text, one picture, two with text between and behind, a clip."""
    processor, circle, square = demo[1], scene(), scene(colour="blue", shape="square")

    def encode(*parts: Any) -> Any:
        pieces = [
            {"type": "image", "image": part}
            if isinstance(part, Image.Image)
            else {"type": "text", "text": part}
            for part in parts
        ]
        return processor.apply_chat_template(
            [{"role": "user", "content": pieces}], tokenize=True, return_dict=True, return_tensors="pt",
            add_generation_prompt=True,
        )  # fmt: skip

    case = next(evaluate.cases("clip", "en", 1))
    runner = evaluate.Model.__new__(evaluate.Model)
    runner.processor = processor
    return {
        "text": encode("Hello! Who are you?"),
        "picture": encode(circle, "What is in this picture?"),
        "pictures": encode(circle, "and", square, "Do both pictures show the same?"),
        "clip": runner.inputs([case.dialogue]),
    }


@pytest.fixture(scope="module")
def truth(demo: Any, asked: dict[str, Any]) -> dict[str, list[int]]:
    """What transformers answers to each, greedily."""
    found: dict[str, list[int]] = {}
    for name, inputs in asked.items():
        with torch.inference_mode():
            ids = demo[0].generate(**inputs, max_new_tokens=24, do_sample=False)
        found[name] = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return found


@pytest.mark.parametrize("build", BUILDS)
def test_greedy_tokens_are_those_of_transformers(
    load: Callable[..., Loaded], asked: dict[str, Any], truth: dict[str, list[int]], build: str
) -> None:
    loaded = load(**BUILDS[build])
    for name, wanted in truth.items():
        assert loaded.says(loaded.prompt(asked[name]), len(wanted)) == wanted


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layout_name", ["static", "dynamic", "history5", "history"])
def test_sixteen_bits_come_close(
    load: Callable[..., Loaded], demo: Any, asked: dict[str, Any], truth: dict[str, list[int]], dtype: str,
    layout_name: str,
) -> None:  # fmt: skip
    loaded = load(dtype=dtype, layout=layout_name, history=128)
    prompt, ids = loaded.prompt(asked["picture"]), truth["picture"][:4]
    loaded.model.prefill(loaded.caches[0], prompt)
    longer = asked["picture"] | {
        name: torch.cat([asked["picture"][name], torch.tensor([more])], dim=1)
        for name, more in (("input_ids", ids), ("attention_mask", [1] * 4), ("mm_token_type_ids", [0] * 4))
        if name in asked["picture"]
    }
    with torch.inference_mode():
        wanted = demo[0](**longer).logits[0, -5:].numpy()
    for step, row in enumerate(wanted):
        error = np.sqrt(np.square(loaded.model.logits() - row).mean()) / row.std()
        assert error < (0.05 if dtype == "bfloat16" else 0.01)
        if step < 4:
            loaded.model.decode(loaded.caches[0], ids[step], prompt.next_position + step)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_5_vl clip", "qwen3", "qwen2"])
@pytest.mark.parametrize("layout_name", ["static", "dynamic"])
def test_other_families_have_the_same_logits(
    load: Callable[..., Loaded], tiny: Callable[[str], pathlib.Path], family: str, layout_name: str
) -> None:
    family, _, clip = family.partition(" ")
    options = {"input_length": 128, "length": 256, "layout": layout_name, "patches": 256}
    loaded, weights = load(family, **options), tiny(family)
    sees = loaded.vision is not None
    kind: Any = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(weights, dtype=torch.float32).eval()
    if sees:
        processor = transformers.AutoProcessor.from_pretrained(weights)
        frames = np.stack([np.asarray(scene(size=(140, 84), colour=one)) for one in ("red", "blue") * 3])
        pieces = [{"type": "image", "image": scene(size=(150, 90))}, {"type": "text", "text": "what is it"}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": pieces}], tokenize=True, return_dict=True, return_tensors="pt"
        )
        if clip:
            text = "a<|vision_start|><|video_pad|><|vision_end|> what is it"
            inputs = processor(
                text=[text], videos=[frames], do_sample_frames=False, do_resize=False, return_tensors="pt"
            )
    else:
        inputs = {"input_ids": torch.arange(3, 40)[None]}
    asked = loaded.prompt(inputs)
    assert len(asked.pictures) == (3 if clip else int(sees))
    loaded.model.prefill(loaded.caches[0], asked)
    with torch.inference_mode():
        wanted = model(**inputs).logits[0, -1].numpy()
        made = model.generate(**inputs, max_new_tokens=12, do_sample=False, repetition_penalty=1.0)
    assert np.abs(loaded.model.logits() - wanted).max() < 1e-3 * max(1, np.abs(wanted).max())
    said = made[0, len(asked) :].tolist()
    assert loaded.goes_on(asked, len(said), loaded.caches[0]) == said


def text(tokens: int) -> Prompt:
    ids = np.random.default_rng(tokens).integers(300, 2000, (1, tokens))
    return prompt({"input_ids": ids}, None, 3)


def logits(demo: Any, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        found: np.ndarray[Any, Any] = demo[0](input_ids=torch.from_numpy(ids).long()[None]).logits[0].numpy()
    return found


@pytest.mark.parametrize("tokens", [1, 32, 33, 191])
@pytest.mark.parametrize("layout_name", ["history", "history5"])
def test_prompts_are_computed_in_pieces(
    load: Callable[..., Loaded], demo: Any, layout_name: str, tokens: int
) -> None:
    loaded = load(layout=layout_name, input_length=32, history=160, length=192)
    assert loaded.layout.prompt_limit == 192
    asked = text(tokens)
    loaded.model.prefill(loaded.caches[0], asked)
    assert np.abs(loaded.model.logits() - logits(demo, asked.ids)[-1]).max() < 2e-3


@pytest.mark.parametrize("layout_name", ["static", "dynamic"])
def test_a_prompt_may_be_as_long_as_compiled_and_an_answer_fill_the_cache(
    load: Callable[..., Loaded], demo: Any, layout_name: str
) -> None:
    loaded = load(layout=layout_name, input_length=40, length=64, stages=(48, 52))
    assert (loaded.layout.prompt_limit, loaded.layout.length) == (40, 64)
    asked = text(40)
    found = loaded.says(asked, 24)
    whole = np.concatenate([asked.ids, np.array(found)])
    assert logits(demo, whole)[39:63].argmax(axis=1).tolist() == found


def test_a_cache_is_used_again_whatever_it_held(load: Callable[..., Loaded], asked: dict[str, Any]) -> None:
    loaded = load()
    short, long = loaded.prompt(asked["text"]), text(200)
    first = loaded.says(short, 10)
    loaded.says(long, 10)
    assert loaded.says(short, 10) == first


def test_two_caches_do_not_mix(load: Callable[..., Loaded], asked: dict[str, Any]) -> None:
    loaded = load()
    prompts = [loaded.prompt(asked["picture"]), loaded.prompt(asked["text"])]
    alone = [loaded.says(one, 10) for one in prompts]
    together: list[list[int]] = []
    for one, cache in zip(prompts, loaded.caches, strict=True):
        loaded.model.prefill(cache, one)
        together.append([loaded.token()])
    for _ in range(9):
        for one, cache, found in zip(prompts, loaded.caches, together, strict=True):
            loaded.model.decode(cache, found[-1], one.next_position + len(found) - 1)
            found.append(loaded.token())
    assert together == alone


def test_a_cache_begins_with_a_copy_of_another(load: Callable[..., Loaded], asked: dict[str, Any]) -> None:
    loaded = load()
    one = loaded.prompt(asked["picture"])
    wanted = loaded.says(one, 8)
    first, second = loaded.caches
    loaded.model.copy_cache(second, first, len(one))
    found = [wanted[0]]
    while len(found) < 8:
        loaded.model.decode(second, found[-1], one.next_position + len(found) - 1)
        found.append(loaded.token())
    assert found == wanted


def test_there_are_as_many_caches_as_fit_and_a_single_one_takes_no_memory(
    load: Callable[..., Loaded],
) -> None:
    loaded, control = load(), standin.control()
    each = loaded.layout.kv_bytes
    assert each == 2 * 4 * 512 * 2 * 64 * 4
    control["limit_bytes"] = control["live_bytes"] + 3 * each + each // 2
    try:
        before = control["live_bytes"]
        assert len(loaded.model.caches(10)) == 3
        assert control["live_bytes"] == before + 3 * each
        control["limit_bytes"] = control["live_bytes"] + each + each // 2
        assert len(loaded.model.caches(10)) == 1
        assert control["live_bytes"] == before + 3 * each
    finally:
        control["limit_bytes"] = 0


def test_the_sampling_head_tells_the_likeliest_tokens_with_their_shares(
    load: Callable[..., Loaded], asked: dict[str, Any]
) -> None:
    loaded = load(head="heads")
    loaded.model.prefill(loaded.caches[0], loaded.prompt(asked["picture"]))
    whole, some = loaded.model.logits(), loaded.model.candidate_logits()
    likeliest = np.argsort(-whole)[:50]
    assert set(np.flatnonzero(np.isfinite(some))) <= set(likeliest)
    seen = np.isfinite(some)
    assert np.abs((some[seen] - some.max()) - (whole[seen] - whole.max())).max() < 1e-3
    assert int(some.argmax()) == loaded.model.token()


def nets(load: Callable[..., Loaded], **options: Any) -> dict[str, Net]:
    return dict(load(**options).device.nets)


def test_networks_of_another_make_are_refused_with_a_reason(load: Callable[..., Loaded]) -> None:
    good = nets(load)
    with pytest.raises(UnknownModelError, match="no network block_cache_2"):
        layout({name: net for name, net in good.items() if name != "block_cache_2"})
    with pytest.raises(UnknownModelError, match="no network lm_head"):
        layout({})
    with pytest.raises(UnknownModelError, match="its blocks take 1 inputs"):
        layout(good | {"block_0": good["lm_head"]})


def test_a_model_compiled_for_batches_is_refused(compiled: Compiled) -> None:
    with pytest.raises(UnknownModelError, match="--batch"):
        Loaded(compiled(batch=4))


def test_an_embedding_that_is_missing_is_told(compiled: Compiled, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(compiled(embedding_on_disk=True), folder)
    (folder / "config" / "embedding.bin").unlink()
    with pytest.raises(UnknownModelError, match=r"no embedding\.bin"):
        Loaded(folder)
