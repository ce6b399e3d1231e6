"""Prompts as a language model takes them: what the model's own forward would have passed on."""

import pathlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch

from app.engine import linear
from app.engine.decoder import Decoder


@pytest.fixture(scope="module")
def decoder(tiny: Callable[[str], pathlib.Path]) -> Decoder:
    model = tiny_models.load(tiny("qwen2_vl")).model.eval()
    linear.prepare(model, torch.float32)
    return Decoder(model)


@torch.inference_mode()
def test_a_forward_of_another_thread_is_not_stopped_meanwhile(decoder: Decoder) -> None:
    embedder = decoder.embedder
    host: Any = embedder._host
    ids = torch.tensor([[5, 6, 7]])
    others: list[Any] = []

    def both(**arguments: Any) -> Any:
        @torch.inference_mode()
        def score() -> None:
            others.append(host(input_ids=ids, use_cache=False).logits)

        thread = threading.Thread(target=score)
        thread.start()
        thread.join(30)
        return host(**arguments)

    embedder._host = both
    try:
        found = embedder._stopped(ids, {})
    finally:
        embedder._host = host
    assert found["inputs_embeds"].shape[:2] == (1, 3)
    assert [logits.shape[:2] for logits in others] == [(1, 3)]


@torch.inference_mode()
def test_a_texts_embeddings_and_positions_are_those_of_the_models_own_forward(decoder: Decoder) -> None:
    embedder = decoder.embedder
    ids = torch.tensor([[5, 6, 7, 8]])
    own = embedder._stopped(ids, {})
    made = embedder.prompt(ids, {})
    assert torch.equal(made.embeds, own["inputs_embeds"][0])
    assert made.positions.tolist() == [[0, 1, 2, 3]] * len(made.positions)


@torch.inference_mode()
def test_keys_tell_tokens_and_positions_apart(decoder: Decoder) -> None:
    embedder = decoder.embedder
    keys = embedder.keys(embedder.tokens([5, 6, 5, 5], [0, 1, 2, 0]))
    assert keys[0] == keys[3]
    assert len(set(keys.tolist())) == 3
