"""Tokenizer files of the tiny models: byte-level BPE, trained on the small text below."""

import dataclasses
import functools
import json
import pathlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

BPE_SIZE = 480
"""How many tokens the BPE part has; the special tokens come behind it."""

_QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_SAIL_SPECIAL = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<box>", "</box>")
_LLAMA_SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip

_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_LLAMA_SPLIT = _QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

_TEXT = """
The picture shows a red circle on a white ground, and a small blue square stands beside the circle.
A cat sits on the table and looks at the window. There are three birds in the tree, and one of them sings.
What is in the picture? Describe the picture in one short sentence. How many things can you see?
You are a helpful assistant. The answer is that the first number is larger than the second number.
The capital of China is Beijing, and the capital of France is Paris. Hello, world! Please say hello.
The model reads the words, and then it writes the next word, until the end of the sentence is reached.
这张图片里有一个红色的圆形和一个蓝色的方形。请描述这张图片。图中有什么？你好，世界！
中国的首都是北京。一只猫坐在桌子上，看着窗外。树上有三只鸟，其中一只在唱歌。
请用一句话回答这个问题。这个数字比那个数字大。今天的天气很好，我们去公园看花。
这张图片里有一个红色的圆形，请描述这张图片，图片中有什么？你好，请回答这个问题。
"""


@functools.cache
def _bpe(split: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train the BPE part; its first 256 tokens are the bytes."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(split)
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_SIZE, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT.strip().splitlines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    return vocabulary, [(left, right) for left, right in model["merges"]]


def _pre_tokenizer(split: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(split), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


@dataclasses.dataclass(frozen=True)
class Style:
    """What sets one tokenizer apart from the others."""

    special: tuple[str, ...]
    tokenizer_class: str
    split: str
    added: tuple[str, ...] = ()
    bos: str | None = None
    eos: str = "<|im_end|>"
    pad: str = "<|endoftext|>"


QWEN2 = Style(_QWEN_SPECIAL, "Qwen2Tokenizer", _QWEN_SPLIT, ("<tool_call>", "</tool_call>"))
QWEN3 = dataclasses.replace(QWEN2, added=(*QWEN2.added, "<think>", "</think>"))
SAIL = dataclasses.replace(QWEN3, special=_QWEN_SPECIAL + _SAIL_SPECIAL)
LLAMA = Style(
    _LLAMA_SPECIAL,
    "PreTrainedTokenizerFast",
    _LLAMA_SPLIT,
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
    pad="<|finetune_right_pad_id|>",
)


def build(style: Style) -> tokenizers.Tokenizer:
    """Make a tokenizer: the BPE part, the special tokens, and Llama's rule that puts the first token."""
    vocabulary, merges = _bpe(style.split)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=dict(vocabulary), merges=list(merges)))
    tokenizer.pre_tokenizer = _pre_tokenizer(style.split)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([_added(text, special=True) for text in style.special])
    tokenizer.add_tokens([_added(text, special=False) for text in style.added])
    if style.bos is None:
        tokenizer.normalizer = normalizers.NFC()
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{style.bos} $A", special_tokens=[(style.bos, tokenizer.token_to_id(style.bos))]
        )
    return tokenizer


def _added(text: str, *, special: bool) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(text, special=special, normalized=False)


def write(style: Style, folder: pathlib.Path, *, template: str, length: int) -> tokenizers.Tokenizer:
    """Write tokenizer.json and tokenizer_config.json as a downloaded checkpoint has them."""
    tokenizer = build(style)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(number): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    config: dict[str, object] = {
        "added_tokens_decoder": added,
        "additional_special_tokens": list(style.special[1:]),
        "bos_token": style.bos,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "eos_token": style.eos,
        "model_max_length": length,
        "pad_token": style.pad,
        "tokenizer_class": style.tokenizer_class,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return tokenizer
