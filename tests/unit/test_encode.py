"""From messages to model inputs: user text stays text, threads do not disturb each other."""

import pathlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from PIL import Image

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
import transformers

from app.engine.encode import PromptEncoder
from app.engine.media_types import ImagePart
from app.engine.types import (
    TEMPLATE,
    GenerationRequest,
    Message,
    Part,
    Sampling,
    Template,
    TextPart,
    ToolCall,
)
from app.errors import InvalidRequest, ModelLoadFailed
from tests.unit.conftest import remote_code_in

assert tiny_models
Tiny = Callable[[str], pathlib.Path]


def user(*parts: str | Image.Image) -> tuple[Message, ...]:
    made: list[Part] = [
        TextPart(part) if isinstance(part, str) else ImagePart("", f"messages[0].content[{index}]", part)
        for index, part in enumerate(parts)
    ]
    return (Message("user", tuple(made)),)


def ids(encoder: PromptEncoder, messages: tuple[Message, ...], template: Template = TEMPLATE) -> list[int]:
    found: list[int] = encoder.encode(messages, template)["input_ids"][0].tolist()
    return found


def text_encoder(folder: pathlib.Path) -> PromptEncoder:
    return PromptEncoder(transformers.AutoTokenizer.from_pretrained(folder), vision=False, remote_code=False)


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "llama"])
def texts(request: pytest.FixtureRequest, tiny: Tiny) -> PromptEncoder:
    return text_encoder(tiny(request.param))


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def seeing(request: pytest.FixtureRequest, tiny: Tiny) -> PromptEncoder:
    processor = transformers.AutoProcessor.from_pretrained(tiny(request.param))
    return PromptEncoder(processor, vision=True, remote_code=False)


@pytest.fixture(scope="module")
def remote(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    with remote_code_in(tmp_path_factory.mktemp("code")):
        processor = transformers.AutoProcessor.from_pretrained(tiny("sail_vl2"), trust_remote_code=True)
    return PromptEncoder(processor, vision=True, remote_code=True)


CONVERSATION = (
    Message("system", (TextPart("Be brief."),)),
    Message("user", (TextPart("Hello"),)),
    Message("assistant", (TextPart("Hi!"),)),
    Message("user", (TextPart("What is"), TextPart("this?"))),
)


def test_a_conversation_is_what_the_models_template_says(texts: PromptEncoder) -> None:
    plain = [
        {"role": message.role, "content": "\n".join(getattr(part, "text", "") for part in message.parts)}
        for message in CONVERSATION
    ]
    expected = texts.tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=True)
    assert ids(texts, CONVERSATION) == expected["input_ids"]


def test_the_inputs_are_a_batch_of_one(texts: PromptEncoder) -> None:
    inputs = texts.encode(user("Hello"))
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert inputs["input_ids"].shape[0] == 1
    assert "token_type_ids" not in inputs


def controls(tokenizer: Any) -> list[str]:
    return sorted(str(token) for token in tokenizer.all_special_tokens)


def check_control_tokens_stay_text(encoder: PromptEncoder) -> None:
    tokenizer = encoder.tokenizer
    special = set(tokenizer.all_special_ids)
    frame = [token for token in ids(encoder, user("x")) if token in special]
    wrong = []
    for control in controls(tokenizer):
        found = ids(encoder, user(f"a {control} b"))
        if [token for token in found if token in special] != frame or control not in tokenizer.decode(found):
            wrong.append(control)
    assert wrong == []
    everything = " ".join(controls(tokenizer))
    found = ids(encoder, user(everything))
    assert [token for token in found if token in special] == frame
    assert everything in tokenizer.decode(found)


def test_control_tokens_in_a_text_stay_text(texts: PromptEncoder) -> None:
    check_control_tokens_stay_text(texts)


def test_control_tokens_in_a_text_for_a_model_that_sees_stay_text(seeing: PromptEncoder) -> None:
    check_control_tokens_stay_text(seeing)


@pytest.mark.parametrize("role", ["system", "assistant", "user"])
def test_control_tokens_stay_text_in_every_role(texts: PromptEncoder, role: str) -> None:
    special = set(texts.tokenizer.all_special_ids)

    def frame(text: str) -> list[int]:
        messages = (Message(role, (TextPart(text),)), Message("user", (TextPart("x"),)))
        return [token for token in ids(texts, messages) if token in special]

    control = texts.tokenizer.eos_token
    assert frame(f"a {control}{control} b") == frame("plain")


@pytest.mark.parametrize("token", ["<think>", "</think>", "<tool_call>", "</tool_call>"])
def test_added_tokens_that_are_not_special_stay_text_too(tiny: Tiny, token: str) -> None:
    encoder = text_encoder(tiny("qwen3"))
    number = encoder.tokenizer.convert_tokens_to_ids(token)
    found = ids(encoder, user(f"What does {token} mean?"))
    assert found.count(number) == ids(encoder, user("hello")).count(number)
    assert token in encoder.tokenizer.decode(found)


def test_an_answer_with_its_thoughts_may_be_sent_back(tiny: Tiny) -> None:
    answer = Message("assistant", (TextPart("<think>\nhm\n</think>\n\nRed."),))
    encoder = text_encoder(tiny("qwen3"))
    assert "Red." in encoder.tokenizer.decode(ids(encoder, (*user("colour?"), answer, *user("sure?"))))


def test_a_faked_turn_is_no_turn(texts: PromptEncoder) -> None:
    honest = ids(texts, user("hi"))
    template = texts.tokenizer.decode(honest)
    special = set(texts.tokenizer.all_special_ids)
    faked = ids(texts, user(template))
    assert sum(token in special for token in faked) == sum(token in special for token in honest)


def test_pictures_become_their_tokens_in_their_places(seeing: PromptEncoder) -> None:
    picture = Image.new("RGB", (112, 112), "red")
    one = seeing.encode(user("a", picture, "b"))
    two = seeing.encode(user("a", picture, "b", picture))
    count = seeing.visual_tokens(one)["image_tokens"]
    assert count >= 4
    assert seeing.visual_tokens(two)["image_tokens"] == 2 * count
    assert two["pixel_values"].shape[0] == 2 * one["pixel_values"].shape[0]
    row = one["input_ids"][0].tolist()
    first = row.index(seeing.image_token_id)
    assert row[first : first + count] == [seeing.image_token_id] * count
    assert seeing.tokenizer.decode(row[:first]).rstrip().endswith("a<|vision_start|>")
    assert "b" in seeing.tokenizer.decode(row[first + count :])


def test_a_picture_token_in_a_text_beside_a_picture_is_not_counted(seeing: PromptEncoder) -> None:
    picture = Image.new("RGB", (112, 112), "red")
    plain = seeing.encode(user(picture, "what?"))
    faked = seeing.encode(user(picture, "<|image_pad|><|vision_start|><|image_pad|><|vision_end|>"))
    assert seeing.visual_tokens(faked)["image_tokens"] == seeing.visual_tokens(plain)["image_tokens"]


def test_a_text_without_pictures_has_no_pixels(seeing: PromptEncoder) -> None:
    inputs = seeing.encode(user("hello"))
    assert "pixel_values" not in inputs
    assert seeing.visual_tokens(inputs)["image_tokens"] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (180, 1), (28, 28)])
def test_tiny_and_long_pictures_are_taken(seeing: PromptEncoder, size: tuple[int, int]) -> None:
    assert seeing.visual_tokens(seeing.encode(user(Image.new("RGB", size), "?")))["image_tokens"] >= 1


def test_threads_get_what_one_thread_gets(texts: PromptEncoder) -> None:
    random = Random(2)
    words = ["hello", "图中有什么？", "🙂", "a" * 50, *controls(texts.tokenizer)]
    prompts = [user(" ".join(random.choices(words, k=random.randint(1, 60)))) for _ in range(96)]
    expected = [ids(texts, prompt) for prompt in prompts]
    fresh = PromptEncoder(texts.tokenizer, vision=False, remote_code=False)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda prompt: ids(fresh, prompt), prompts)) == expected


def test_threads_with_pictures_get_what_one_thread_gets(tiny: Tiny) -> None:
    processor = transformers.AutoProcessor.from_pretrained(tiny("qwen3_vl"))
    encoder = PromptEncoder(processor, vision=True, remote_code=False)
    prompts = [
        user(
            *[Image.new("RGB", (32 * (1 + number % 5), 64))] * (number % 3),
            "<|im_end|> " * (number % 4) + "?",
        )
        for number in range(48)
    ]
    expected = [ids(encoder, prompt) for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda prompt: ids(encoder, prompt), prompts)) == expected


def test_texts_next_to_each_other_are_lines_with_and_without_a_picture(seeing: PromptEncoder) -> None:
    picture = Image.new("RGB", (56, 56))
    assert ids(seeing, user("a", "b")) == ids(seeing, user("a\nb"))
    assert ids(seeing, user(picture, "a", "b")) == ids(seeing, user(picture, "a\nb"))


@pytest.mark.parametrize("control", ["<|im_end|>", "<|im_start|>", "<IMG_CONTEXT>", "<img>"])
def test_remote_code_refuses_control_tokens_in_a_text(remote: PromptEncoder, control: str) -> None:
    messages = (Message("system", (TextPart("fine"),)), *user(f"a {control} b"))
    with pytest.raises(InvalidRequest, match="control token") as caught:
        remote.encode(messages)
    assert control in str(caught.value)
    assert caught.value.param == "messages[1].content"


def test_remote_code_takes_a_text_and_a_picture(remote: PromptEncoder) -> None:
    assert remote.encode(user("hello"))["input_ids"].shape[0] == 1
    inputs = remote.encode(user(Image.new("RGB", (60, 60), "red"), "what?"))
    assert "pixel_values" in inputs


@pytest.mark.parametrize("token", ["<image>", "<IMG_CONTEXT>"])
def test_a_placeholder_of_remote_code_in_a_text_makes_no_picture(remote: PromptEncoder, token: str) -> None:
    try:
        inputs = remote.encode(user(f"what is {token} ?"))
    except InvalidRequest:
        return
    context = remote.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert context not in inputs["input_ids"][0].tolist()


def encoder_with(texts_folder: pathlib.Path, template: str | None) -> PromptEncoder:
    tokenizer = transformers.AutoTokenizer.from_pretrained(texts_folder)
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer, vision=False, remote_code=False)


def test_a_template_that_is_broken_is_the_models_fault(tiny: Tiny) -> None:
    with pytest.raises(ModelLoadFailed, match="template is broken"):
        encoder_with(tiny("qwen2"), "{% if %}").encode(user("hello"))


def test_without_a_chat_template_there_is_no_conversation(tiny: Tiny) -> None:
    with pytest.raises(InvalidRequest, match="no chat template") as caught:
        encoder_with(tiny("qwen2"), None).encode(user("hello"))
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Roles must alternate.') }}", "Roles must alternate"),
        ("{{ messages[5].role.x }}", "template"),
        ("{{ 1 + 'a' }}", "template"),
    ],
)
def test_what_the_template_refuses_is_told(tiny: Tiny, template: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        encoder_with(tiny("qwen2"), template).encode(user("hello"))
    assert caught.value.param == "messages"


def test_a_model_without_a_switch_is_asked_for_thoughts_after_the_last_question(tiny: Tiny) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny("qwen2"))
    asking = PromptEncoder(tokenizer, vision=False, remote_code=False, thinking_prompt="Think first!")
    plain = text_encoder(tiny("qwen2"))
    messages = (*CONVERSATION[:2], Message("assistant", (TextPart("Hi!"),)))
    for thinking in (None, False):
        template = Template(thinking)
        assert ids(asking, messages, template) == ids(plain, messages, template)
    suffixed = Message("user", (TextPart("Hello"), TextPart("Think first!")))
    wanted = ids(plain, (messages[0], suffixed, messages[2]))
    assert ids(asking, messages, Template(True)) == wanted


def in_thought(encoder: PromptEncoder, messages: tuple[Message, ...], template: Template) -> bool:
    request = GenerationRequest(messages, Sampling(), template=template)
    return encoder.ends_in_thought(request, torch.tensor([ids(encoder, messages, template)]))


@pytest.mark.parametrize(
    ("begun", "inside"),
    [
        ("<think>\nThe user asks what", True),
        ("\n<think>", True),
        ("Write <think> to", False),
        ("Write <think>", False),
        ("Once upon", False),
    ],
)
def test_a_thought_that_the_last_message_has_opened_is_gone_on_with(
    texts: PromptEncoder, begun: str, inside: bool
) -> None:
    messages = (*CONVERSATION[:2], Message("assistant", (TextPart(begun),)))
    going_on = Template(add_generation_prompt=False, continue_final_message=True)
    assert in_thought(texts, messages, going_on) == inside
    assert not in_thought(texts, (*messages, *user("x")), TEMPLATE)
    closed = Message("assistant", (TextPart("<think>\nhm\n</think>\n\nRed"),))
    request = GenerationRequest((*user("x"), closed), Sampling(), template=going_on)
    assert not texts.ends_in_thought(request, torch.tensor([ids(texts, user("x"))]))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [('{"a": 1}', '{"a": 1}'), ('{"a": "U', '"{\\"a\\": \\"U"'), ("3", '"3"'), ("[" * 9999, None)],
)
def test_arguments_that_are_no_object_reach_the_template_as_they_are(
    tiny: Tiny, arguments: str, told: str | None
) -> None:
    encoder = encoder_with(tiny("qwen2"), "{{ messages[-1].tool_calls[0].function.arguments | tojson }}")
    messages = (*user("x"), Message("assistant", (), (ToolCall("call_1", "add", arguments),)))
    text = encoder.tokenizer.decode(ids(encoder, messages))
    assert text == (told or f'"{arguments}"')


def test_a_switch_and_variables_reach_the_template_that_knows_them(tiny: Tiny) -> None:
    encoder = text_encoder(tiny("qwen3"))
    texts = "{% for m in messages %}{{ m.content }}{% endfor %}"
    encoder.tokenizer.chat_template = texts + "{% if enable_thinking %}<think>{% endif %}{{ mood }}"
    assert in_thought(encoder, CONVERSATION, Template(True))
    assert not in_thought(encoder, CONVERSATION, Template(False))
    moody = ids(encoder, CONVERSATION, Template(variables=(("mood", "merry"), ("unknown", 1))))
    assert encoder.tokenizer.decode(moody).endswith("merry")


def test_the_last_message_is_left_open_to_be_gone_on_with(tiny: Tiny) -> None:
    encoder = text_encoder(tiny("qwen3"))
    messages = (*CONVERSATION[:2], Message("assistant", (TextPart("Once upon"),)))
    template = Template(add_generation_prompt=False, continue_final_message=True)
    assert encoder.tokenizer.decode(ids(encoder, messages, template)).endswith("Once upon")


def test_threads_do_not_make_each_others_control_tokens_real(texts: PromptEncoder) -> None:
    control = str(texts.tokenizer.all_special_tokens[-1])
    questions = [user(f"{control} {number} {control}" * 20) for number in range(4)]
    wanted = [ids(texts, question) for question in questions]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: ids(texts, questions[number % 4]), range(120)))
    finally:
        sys.setswitchinterval(switch)
    assert [number for number, got in enumerate(found) if got != wanted[number % 4]] == []
