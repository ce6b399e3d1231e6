"""Graphs of decode steps: with a stand-in for CUDA's recording that computes the same work again on the same
tensors, which is what a replay does.
"""

import logging
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
import transformers

from app.engine import cuda, linear
from app.engine.attention import Rows
from app.engine.cache import KVCache
from app.engine.cuda import StepGraphs
from app.engine.decoder import Decoder

assert tiny_models
CACHED = 600


class Stand:
    """A decoder with a cache full of numbers, and graphs of its steps."""

    def __init__(self, folder: pathlib.Path) -> None:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        linear.prepare(model, torch.float32)
        self.decoder = Decoder(model)
        self.cache = self.decoder.cache(CACHED)
        torch.manual_seed(0)
        self.cache.store.normal_()
        self.cache.store[:, -1] = float("nan")  # what nobody has written
        self.recorded = 0
        self.graphs = StepGraphs(self.decoder.decode, self.record)

    def record(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        self.recorded += 1
        return work

    @torch.inference_mode()
    def both(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits of a step as it is and of its graph."""
        embedder = self.decoder.embedder
        tokens = embedder.tokens([5 + row for row in range(len(rows))], [done for _, done in rows])
        cache = KVCache(1, 1, 1, tokens=1, dtype=torch.float32, device=torch.device("cpu"))
        cache.store, cache.tokens = self.cache.store.clone(), self.cache.tokens
        own = self.decoder.forward(rows, tokens, [], 0, cache)
        found = self.graphs.forward(rows, tokens, self.cache)
        if found is not None:
            # What both have written is the same, but for the spare token.
            torch.testing.assert_close(self.cache.store[:, :-1], cache.store[:, :-1])
        return own, None if found is None else found.clone()


@pytest.fixture
def stand(tiny: Callable[[str], pathlib.Path]) -> Stand:
    return Stand(tiny("qwen3"))


def rows_of(rng: random.Random, count: int, longest: int) -> Rows:
    """Rows with extents that do not overlap, shorter ones first."""
    room = CACHED // count
    lengths = sorted(rng.randint(0, min(longest, room - 1)) for _ in range(count))
    return [(room * index, length) for index, length in enumerate(lengths)]


def test_a_graphs_logits_are_the_steps(stand: Stand) -> None:
    rng = random.Random(1)
    for _ in range(60):
        own, found = stand.both(rows_of(rng, rng.randint(1, 9), 500))
        assert found is not None
        torch.testing.assert_close(found, own, atol=1e-4, rtol=1e-4)


def test_a_graph_is_made_once_for_each_size(stand: Stand) -> None:
    for count, length in ((3, 10), (4, 200), (3, 255), (4, 5)):
        assert stand.both([(100 * row, length // 4) for row in range(count)])[1] is not None
    assert stand.recorded == 1
    stand.both([(0, 5)] * 1)
    stand.both([(0, 256)])
    assert stand.recorded == 3


def test_rows_that_are_too_long_are_left_to_the_step(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LONGEST", 100)
    assert stand.both([(0, 100)])[1] is None
    assert stand.both([(0, 99)])[1] is not None


def test_recording_that_fails_leaves_all_to_the_step(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    stand.graphs = StepGraphs(stand.decoder.decode, fails)
    with caplog.at_level(logging.WARNING):
        assert stand.both([(0, 5)])[1] is None
        assert stand.both([(0, 5)])[1] is None
    assert caplog.text.count("not permitted") == 1


def test_a_graph_with_other_logits_is_not_used(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand.graphs = StepGraphs(stand.decoder.decode, lambda work: lambda: torch.randn_like(work()))
    with caplog.at_level(logging.WARNING):
        assert stand.both([(0, 5)])[1] is None
    assert "others" in caplog.text


def test_the_decoder_uses_its_graphs_for_steps_without_prompts(stand: Stand) -> None:
    plain = stand.both([(0, 5), (100, 7)])[0]
    asked: list[int] = []
    forward = stand.graphs.forward

    def counted(rows: Rows, *more: Any) -> torch.Tensor | None:
        asked.append(len(rows))
        return forward(rows, *more)

    stand.graphs.forward = counted  # type: ignore[method-assign, assignment]
    stand.decoder._faster = stand.graphs
    with torch.inference_mode():
        tokens = stand.decoder.embedder.tokens([5, 6], [5, 7])
        found = stand.decoder.forward([(0, 5), (100, 7)], tokens, [], 0, stand.cache)
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)
    assert asked == [2]
