"""The shipped demo model: its size, its tokenizer, its chat template, and that it sees what is drawn."""

import json
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from models.demo import architecture, evaluate

WEIGHTS = evaluate.WEIGHTS
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather", "parameters": {"type": "object"}},
}


@pytest.fixture(scope="module")
def model() -> evaluate.Model:
    return evaluate.Model(WEIGHTS)


def render(model: evaluate.Model, messages: list[dict[str, Any]], **options: Any) -> str:
    text: str = model.processor.apply_chat_template(messages, tokenize=False, **options)
    return text


def test_parameters_and_size(model: evaluate.Model) -> None:
    assert 1_000_000 < model.parameters <= architecture.MAX_PARAMETERS
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 16_000_000
    assert model.model.config.model_type == "qwen3_vl"
    assert type(model.model).__name__ == "Qwen3VLForConditionalGeneration"
    stored = json.loads((WEIGHTS / "config.json").read_text())
    assert stored["dtype"] in ("float16", "bfloat16")


@pytest.mark.parametrize(
    "text",
    [
        'It says "HELLO".', "左上角有一个大的红色圆形。", "😀 naïve façade\n\n\ttab", "𝔘𝔫𝔦 한국어 العربية",
        "  two  spaces ", "<|odd|> </tool>",
        "龘靐齉 <0.5 seconds>", "a\r\nb\x00c",
    ],
)  # fmt: skip
def test_any_text_round_trips(model: evaluate.Model, text: str) -> None:
    tokenizer = model.processor.tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_quoted_words_are_spelled_letter_by_letter(model: evaluate.Model) -> None:
    tokenizer = model.processor.tokenizer
    for text, quote in (('It says "Water".', 'It says "'), ("上面写着“Water”。", "上面写着“")):
        pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text)]
        start = len(tokenizer.encode(quote))
        assert pieces[start : start + 5] == list("Water")


def test_thinking_opens_the_thought(model: evaluate.Model) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    plain = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render(model, messages, add_generation_prompt=True) == plain
    assert render(model, messages, add_generation_prompt=True, enable_thinking=False) == plain
    assert render(model, messages, add_generation_prompt=True, enable_thinking=True) == plain + "<think>\n"


def test_past_thoughts_are_dropped(model: evaluate.Model) -> None:
    answer = {"role": "assistant", "content": "<think>\nsecret\n</think>\n\nHello!"}
    asked = [{"role": "user", "content": "Hi"}, answer, {"role": "user", "content": "And?"}]
    assert "secret" not in render(model, asked)
    assert "Hello!<|im_end|>" in render(model, asked)
    separate = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!", "reasoning_content": "secret"},
    ]
    assert "<think>\nsecret\n</think>\n\nHello!<|im_end|>" in render(model, separate)
    assert render(model, [asked[0], answer]) == render(model, separate)


def test_tools_are_rendered_as_qwen_does(model: evaluate.Model) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "warm"},
    ]
    text = render(model, messages, tools=[TOOL], add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\n")
    tools = text.split("<tools>\n")[1].split("\n</tools>")[0]
    assert json.loads(tools) == TOOL
    spoken = text.split("<|im_start|>assistant\n<tool_call>\n")[1].split("\n</tool_call><|im_end|>")[0]
    assert json.loads(spoken) == {"name": "get_weather", "arguments": {"city": "Rome"}}
    responses = (
        "\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n</tool_response><|im_end|>\n"
    )
    assert f"<|im_start|>user{responses}<|im_start|>assistant\n" in text


@pytest.mark.parametrize(
    "part", [{"type": "image"}, {"type": "image_url", "image_url": {"url": "x"}}, {"image": "x"}]
)
def test_pictures_stand_where_they_are_sent(model: evaluate.Model, part: dict[str, Any]) -> None:
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "A"},
        part,
        {"type": "text", "text": "B"},
        {"type": "video"},
    ]
    pads = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
    assert f"<|im_start|>user\nA{pads[0]}B{pads[1]}<|im_end|>\n" in render(
        model, [{"role": "user", "content": content}]
    )


@torch.inference_mode()
def ask(model: evaluate.Model, picture: Image.Image, question: str, thinking: bool = False) -> str:
    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": question}]
    text = render(
        model, [{"role": "user", "content": content}], add_generation_prompt=True, enable_thinking=thinking
    )
    inputs = model.processor(text=[text], images=[picture], return_tensors="pt")
    output = model.model.generate(**inputs, do_sample=False, max_new_tokens=160)
    answer: str = model.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer


def drawn(
    shape: str, fill: str, size: tuple[int, int] = (448, 448), background: str = "white"
) -> Image.Image:
    picture = Image.new("RGB", size, background)
    box = (size[0] * 0.3, size[1] * 0.3, size[0] * 0.7, size[1] * 0.7)
    getattr(ImageDraw.Draw(picture), shape)(box, fill=fill)
    return picture


def test_it_sees_a_red_circle(model: evaluate.Model) -> None:
    answer = ask(model, drawn("ellipse", "red"), "What is in this picture?")
    assert answer == "A large red circle in the center, on a white background."


def test_it_sees_what_is_drawn_and_not_what_is_usual(model: evaluate.Model) -> None:
    answers = {
        ask(model, drawn("rectangle", fill), "What colour is the square?")
        for fill in ("blue", "green", "black")
    }
    assert answers == {"The square is blue.", "The square is green.", "The square is black."}


def test_it_answers_in_chinese_and_thinks(model: evaluate.Model) -> None:
    answer = ask(model, drawn("ellipse", "blue"), "图里有什么？", thinking=True)
    assert answer.endswith("</think>\n\n中间有一个大的蓝色圆形，背景是白色。")


@pytest.mark.parametrize("size", [(1, 1), (3000, 200), (37, 911)])
def test_odd_sizes_do_not_break_it(model: evaluate.Model, size: tuple[int, int]) -> None:
    assert ask(model, Image.new("RGB", size, "red"), "What is in this picture?")
