"""The byte-level BPE tokenizer, trained on the generator's own text, and the processor around it.

Words with a space before them are merged; letters elsewhere, digits and Chinese characters stay one by one,
so that a quoted word is spelled letter by letter and any text can be written.
"""

import pathlib
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from models.demo import dialogues

VOCABULARY = 2400
SPECIAL: tuple[str, ...] = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
VISIBLE: tuple[str, ...] = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
PIECES = r"^\p{Latin}+| \p{Latin}+|\p{L}|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEMPLATE = pathlib.Path(__file__).parent / "chat_template.jinja"
PICTURE_PIXELS = 160 * 160  # every picture is scaled to about so many pixels
CLIP_PIXELS = 6 * 96 * 96  # all frames of a clip together
MAX_FRAMES = 12


def corpus(count: int, seed: str = "tokenizer") -> list[str]:
    """What is said in so many generated dialogues."""
    sampler = dialogues.DialogueSampler(seed)
    lines: list[str] = []
    for index in range(count):
        dialogue = sampler.draw("chat" if index % 3 == 0 else None)
        lines.append("user")
        lines.append("assistant")
        lines.append(dialogue.system)
        for turn in dialogue.turns:
            lines += [turn.question, turn.answer, "\n" + turn.thought + "\n"]
    return [*lines, "system\n# Tools", "\n\n", *(f"<{index / 10:.1f} seconds>" for index in range(100))]


def train_tokenizer(count: int = 6000) -> Tokenizer:
    """Train the BPE merges on so many dialogues; the 256 bytes are always in the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(VISIBLE),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(count), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in VISIBLE])
    return tokenizer


def save_processor(folder: pathlib.Path) -> None:
    """Train the tokenizer and write it into a folder, with the chat template and the settings of the
    processor.
    """
    from app.engine import torchvision_cpu

    torchvision_cpu.prepare()
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLImageProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(),
        eos_token="<|im_end|>",  # noqa: S106 (no password)
        pad_token="<|endoftext|>",  # noqa: S106
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    half = [0.5, 0.5, 0.5]
    shared: dict[str, Any] = {
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": half,
        "image_std": half,
    }
    pictures = Qwen2VLImageProcessor(
        size={"shortest_edge": PICTURE_PIXELS, "longest_edge": PICTURE_PIXELS}, **shared
    )
    clips = Qwen3VLVideoProcessor(
        size={"shortest_edge": CLIP_PIXELS, "longest_edge": CLIP_PIXELS},
        max_frames=MAX_FRAMES,
        cap_pixels_per_frame=False,
        **shared,
    )
    template = TEMPLATE.read_text(encoding="utf-8")
    tokenizer.chat_template = template
    Qwen3VLProcessor(pictures, tokenizer, clips, chat_template=template).save_pretrained(folder)
    pictures.save_pretrained(folder)
    clips.save_pretrained(folder)
