"""The training examples are token for token and pixel for pixel what the Hugging Face processor makes at
inference.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from models.demo import evaluate
from models.demo.dialogues import Dialogue, DialogueSampler, as_messages
from models.demo.encode import Encoder

WEIGHTS = evaluate.WEIGHTS


@pytest.fixture(scope="module")
def model() -> evaluate.Model:
    return evaluate.Model(WEIGHTS)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(Tokenizer.from_file(str(WEIGHTS / "tokenizer.json")))


def dialogues(kind: str, count: int) -> Iterator[Dialogue]:
    sampler = DialogueSampler(f"encoding/{kind}")
    for _ in range(count):
        yield sampler.draw(kind)


def prompt_of(model: evaluate.Model, dialogue: Dialogue) -> str:
    text: str = model.processor.apply_chat_template(
        as_messages(dialogue), tokenize=False, tools=list(dialogue.tools) or None
    )
    return text


@pytest.mark.parametrize(
    ("kind", "count"), [("objects", 6), ("texts", 4), ("pair", 4), ("clip", 6), ("chat", 30)]
)
def test_examples_equal_the_processors(
    model: evaluate.Model, encoder: Encoder, kind: str, count: int
) -> None:
    for dialogue in dialogues(kind, count):
        example = encoder.encode(dialogue)
        inputs = model.inputs([dialogue], prompt_of(model, dialogue))
        assert example.tokens.tolist() == inputs["input_ids"][0].tolist()
        if not example.grids:
            continue
        grids = inputs["video_grid_thw" if dialogue.clip else "image_grid_thw"]
        assert [list(grid) for grid in example.grids] == grids.tolist()
        assert _positions(model, inputs) == example.positions.tolist()
        pixels = inputs["pixel_values_videos" if dialogue.clip else "pixel_values"].numpy()
        difference = np.abs(pixels - (example.patches.astype(np.float32) / 127.5 - 1))
        assert difference.mean() < 0.01
        assert np.quantile(difference, 0.999) < 0.1


def _positions(model: evaluate.Model, inputs: Any) -> list[list[int]]:
    positions, _ = model.model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
    )
    rows: list[list[int]] = positions[:, 0].tolist()
    return rows


def test_only_answers_are_learnt(encoder: Encoder) -> None:
    tokenizer = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    for dialogue in dialogues("chat", 10):
        example = encoder.encode(dialogue)
        learnt = tokenizer.decode(example.tokens[example.answer == 1].tolist(), skip_special_tokens=False)
        last = dialogue.turns[-1]
        thought = f"{last.thought}\n</think>\n\n" if dialogue.thinking else ""
        spoken = [turn.answer for turn in dialogue.turns[:-1]] + [thought + last.answer]
        assert learnt == "".join(f"{answer}<|im_end|>" for answer in spoken)


def test_the_packed_loss_is_the_models_own(model: evaluate.Model, encoder: Encoder) -> None:
    """The packed row of several dialogues gives the loss that each has by itself through the usual forward
    pass.
    """
    from models.demo import architecture, packed
    from models.demo.batches import collate
    from models.demo.learner import loss_of

    some = [next(dialogues(kind, 1)) for kind in ("objects", "clip", "pair", "chat")]
    vocabulary = model.processor.tokenizer.get_vocab()
    trained = architecture.build(len(vocabulary), vocabulary).eval()
    trained.load_state_dict(model.model.state_dict())
    packed.install(trained)
    examples = [encoder.encode(dialogue) for dialogue in some]
    with torch.no_grad():
        packed_sum = float(loss_of(trained, collate(examples), torch.float32)[0])
        total, learnt = 0.0, 0
        for dialogue, example in zip(some, examples, strict=True):
            labels = torch.from_numpy(np.where(example.answer == 1, example.tokens, -100))[None]
            inputs = model.inputs([dialogue], prompt_of(model, dialogue))
            count = int(example.answer.sum())
            total += float(model.model(**inputs, labels=labels).loss) * count
            learnt += count
    assert packed_sum / learnt == pytest.approx(total / learnt, rel=0.02, abs=2e-3)


def test_the_weights_folder_is_there() -> None:
    names = {path.name for path in pathlib.Path(WEIGHTS).iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
    } <= names
