"""The tiny models are what the other tests take them for."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import PIL.Image
import pytest

from tests import tiny_models as tiny
from tests.tiny_models import Loaded

# isort: split
# Only now, since tests.tiny_models prepares torchvision.
import torch
import transformers

from tests.unit.conftest import remote_code_in

QUESTIONS = ("Hello", "What is this?", "图中有什么？", "Count to ten", "请描述这张图片", "你好", "How many?")


def picture(colour: str = "red", width: int = 60, height: int = 60) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (width, height), colour)


def user(*parts: Any) -> list[dict[str, Any]]:
    """One user message; pictures and texts become parts."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep transformers' copies of remote code out of the home folder; one thread is best for tiny models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with remote_code_in(tmp_path_factory.mktemp("modules")):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {family: tiny.build(family, root / family) for family in tiny.FAMILIES}


@pytest.fixture(scope="module")
def models(folders: dict[str, pathlib.Path]) -> dict[str, Loaded]:
    return {family: tiny.load(folder) for family, folder in folders.items()}


def test_the_families_are_named() -> None:
    assert tiny.TEXT_FAMILIES == ("qwen2", "qwen3", "llama")
    assert tiny.VISION_FAMILIES == ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "sail_vl2")
    assert tiny.FAMILIES == tiny.TEXT_FAMILIES + tiny.VISION_FAMILIES


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_same_seed_gives_the_same_files(family: str, tmp_path: pathlib.Path) -> None:
    first, again = tiny.build(family, tmp_path / "a"), tiny.build(family, tmp_path / "b")
    other = tiny.build(family, tmp_path / "c", seed=1)
    for file in first.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes()
        assert (file.read_bytes() != (other / file.name).read_bytes()) == (file.suffix == ".safetensors")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_models_are_tiny(family: str, models: dict[str, Loaded]) -> None:
    model = models[family].model
    config = model.config.llm_config if family == "sail_vl2" else model.config.get_text_config()
    assert config.hidden_size <= 64
    assert config.num_hidden_layers == 2
    assert config.max_position_embeddings == tiny.LENGTH == 512
    assert config.vocab_size <= 600
    assert str(model.dtype) == "torch.float32"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_any_text_goes_through_the_tokenizer(family: str, folders: dict[str, pathlib.Path]) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
        folders[family], trust_remote_code=family == "sail_vl2"
    )
    text = "Hello, 世界！ 🎉\n\n  naïve ſ\x00\x7f\ue000 １２３4567 don't\t<|im_end|>"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    starts = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert starts == (family == "llama")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_greedy_text_is_repeatable_and_varied(
    family: str, folders: dict[str, pathlib.Path], models: dict[str, Loaded]
) -> None:
    text, tokens = tiny.greedy(models[family], user("Hello"), 48)
    assert (text, tokens) == tiny.greedy(models[family], user("Hello"), 48)
    assert (text, tokens) == tiny.reference_greedy(folders[family], user("Hello"), 48)
    assert len(set(tokens)) > len(tokens) / 2
    assert "<|" not in text


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_answers_end_now_and_then(family: str, models: dict[str, Loaded]) -> None:
    answers = [tiny.greedy(models[family], user(f"{q} {n}"), 48)[1] for q in QUESTIONS for n in (1, 2, 3)]
    ended = [tokens for tokens in answers if len(tokens) < 48]
    assert 0 < len(ended) < len(answers) / 2
    assert len({tuple(tokens) for tokens in answers}) > len(answers) * 0.9
    inner = getattr(models[family].model, "language_model", models[family].model)
    ends = inner.generation_config.eos_token_id
    assert all(tokens[-1] in (ends if isinstance(ends, list) else [ends]) for tokens in ended)


@pytest.mark.parametrize("family", tiny.VISION_FAMILIES)
def test_the_picture_changes_the_answer(family: str, models: dict[str, Loaded]) -> None:
    pictures = [picture("red"), picture("blue"), picture("blue", 150, 60)]
    prompts = [user("Hello"), *(user(one, "Hello") for one in pictures), user(*pictures, "Hello")]
    texts = {tiny.greedy(models[family], prompt, 32)[0] for prompt in prompts}
    assert len(texts) == len(prompts)


@pytest.mark.parametrize("family", tiny.VISION_FAMILIES)
def test_the_template_takes_strings_and_parts(family: str, models: dict[str, Loaded]) -> None:
    def render(content: Any) -> str:
        text = models[family].processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        assert isinstance(text, str)
        return text

    text = {"type": "text", "text": "Hello"}
    assert render("Hello") == render([text])
    with_picture = render([{"type": "image"}, text])
    assert with_picture == render([{"type": "image_url", "image_url": {"url": "data:,"}}, text])
    assert render("Hello") != with_picture
    assert with_picture.endswith("Hello<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_video_changes_the_answer(family: str, models: dict[str, Loaded]) -> None:
    def video(last: str) -> list[dict[str, Any]]:
        frames = [picture("red"), picture("red"), picture("red"), picture(last)]
        return [
            {"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": "Hi"}]}
        ]

    assert tiny.greedy(models[family], video("red"), 16) != tiny.greedy(models[family], video("blue"), 16)


def test_llama_ends_on_either_of_two_tokens(models: dict[str, Loaded]) -> None:
    tokenizer = models["llama"].processor
    ends = models["llama"].model.generation_config.eos_token_id
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|end_of_text|>", "<|eot_id|>"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    head, foot = "<|start_header_id|>", "<|end_header_id|>\n\n"
    assert prompt == f"<|begin_of_text|>{head}user{foot}Hi<|eot_id|>{head}assistant{foot}"


def test_qwen3_can_be_told_not_to_think(models: dict[str, Loaded]) -> None:
    prompt = models["qwen3"].processor.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False, enable_thinking=False
    )
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_remote_code_runs_only_when_trusted(
    folders: dict[str, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    monkeypatch.setenv(tiny.MARKER_VARIABLE, str(marker))
    tiny.build("sail_vl2", tmp_path / "model")
    kinds: list[Any] = [transformers.AutoConfig, transformers.AutoModel, transformers.AutoProcessor]
    for kind in kinds:
        with pytest.raises(ValueError, match="trust_remote_code"):
            kind.from_pretrained(tmp_path / "model", trust_remote_code=False)
    assert not marker.exists()
    # A copy with other bytes, since a module that was executed already is not executed again.
    for code in (tmp_path / "model").glob("*.py"):
        code.write_text(code.read_text(encoding="utf-8") + f"\n# {tmp_path.name}\n", encoding="utf-8")
    tiny.load(tmp_path / "model")
    names = {"configuration_sailvl", "modeling_sailvl", "processing_sailvl", "image_processing_sailvl"}
    assert set(marker.read_text(encoding="utf-8").split()) == names


BROKEN = {
    "no_weights": (OSError, "no file named"),
    "truncated_weights": (Exception, "incomplete|invalid|header"),
    "broken_config": (OSError, "valid JSON"),
    "unknown_architecture": (ValueError, "no_such_model"),
}


@pytest.mark.parametrize("how", sorted(BROKEN))
@pytest.mark.parametrize("family", ["qwen2", "qwen3_vl", "sail_vl2"])
def test_broken_folders_do_not_load(how: str, family: str, tmp_path: pathlib.Path) -> None:
    tiny.break_folder(tiny.build(family, tmp_path), how)
    error, words = BROKEN[how]
    with pytest.raises(error, match=words):
        transformers.AutoModel.from_pretrained(tmp_path, trust_remote_code=True)


def test_a_folder_without_tokenizer_gives_an_empty_one_or_none(tmp_path: pathlib.Path) -> None:
    qwen = tiny.build("qwen2", tmp_path / "qwen2")
    tiny.break_folder(qwen, "no_tokenizer")
    assert len(transformers.AutoTokenizer.from_pretrained(qwen)) == 1  # transformers does not complain
    sail = tiny.build("sail_vl2", tmp_path / "sail_vl2")
    tiny.break_folder(sail, "no_tokenizer")
    with pytest.raises(ValueError, match="instantiate the backend tokenizer"):
        transformers.AutoTokenizer.from_pretrained(sail, trust_remote_code=True)


def test_ways_to_break_are_complete() -> None:
    assert set(tiny.WAYS_TO_BREAK) == {*BROKEN, "no_tokenizer"}


def test_unknown_ways_to_break_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        tiny.break_folder(tmp_path, "nonsense")


def test_the_files_hold_no_paths(folders: dict[str, pathlib.Path]) -> None:
    for folder in folders.values():
        for file in folder.glob("*.json"):
            assert str(folder) not in json.dumps(json.loads(file.read_text(encoding="utf-8")))
