"""The logits processors of single sequences are the formulas that they are named for."""

from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch

from app.engine import processors
from app.engine.types import Sampling

assert tiny_models


def processed(sampling: Sampling, ids: list[int], stop_ids: tuple[int, ...] = (9,)) -> list[float]:
    """What becomes of scores 0, 1, … 9 after a prompt of three tokens and these."""
    scores: Any = torch.arange(10.0)[None]
    prompt, whole = torch.tensor([[4, 4, 5]]), torch.tensor([[4, 4, 5, *ids]])
    for processor in processors.of(sampling, stop_ids):
        processor(prompt, torch.zeros((1, 10)))  # before the first token
        scores = processor(whole, scores)
    found: list[float] = scores[0].tolist()
    return found


def test_without_wishes_there_is_nothing_to_process() -> None:
    assert processors.of(Sampling(), (9,)) == []


def test_presence_counts_once_and_frequency_each_time_and_the_prompt_never() -> None:
    found = processed(Sampling(presence_penalty=0.5, frequency_penalty=0.25), [7, 7, 8])
    assert found == [0, 1, 2, 3, 4, 5, 6, 7 - 0.5 - 2 * 0.25, 8 - 0.5 - 0.25, 9]


def test_a_negative_penalty_is_a_reward() -> None:
    assert processed(Sampling(presence_penalty=-2.0), [1])[1] == 3.0


def test_nothing_generated_is_nothing_to_punish() -> None:
    assert processed(Sampling(presence_penalty=2.0, frequency_penalty=2.0), []) == list(range(10))


def test_a_prompt_that_is_not_shown_does_not_count() -> None:
    punishing, least = processors.of(Sampling(presence_penalty=1.0, min_tokens=2), (9,))
    none, one = torch.zeros((1, 0), dtype=torch.long), torch.tensor([[7]])
    for processor in (punishing, least):
        processor(none, torch.zeros((1, 10)))
    assert punishing(one, torch.zeros((1, 10)))[0, 7] == -1.0
    assert least(one, torch.zeros((1, 10)))[0, 9] == float("-inf")
    assert least(torch.tensor([[7, 7]]), torch.zeros((1, 10)))[0, 9] == 0.0


def test_a_bias_is_added_to_its_tokens() -> None:
    found = processed(Sampling(logit_bias=((2, -100.0), (3, 1.5))), [])
    assert found == [0, 1, -98, 4.5, 4, 5, 6, 7, 8, 9]


def test_stop_tokens_are_closed_before_the_least_number_of_tokens() -> None:
    sampling = Sampling(min_tokens=2)
    assert processed(sampling, [1])[9] == float("-inf")
    assert processed(sampling, [1, 2])[9] == 9.0


def test_scores_are_not_changed_in_place() -> None:
    scores = torch.zeros((1, 10))
    sampling = Sampling(presence_penalty=1.0, logit_bias=((1, 1.0),))
    for processor in processors.of(sampling, ()):
        processor(torch.tensor([[4, 4, 5]]), scores)
        processor(torch.tensor([[4, 4, 5, 1]]), scores)
    assert scores.abs().sum() == 0


@pytest.mark.parametrize(
    ("opened", "answer", "closes"),
    [
        (True, [1, 1], False),
        (True, [1, 1, 1], True),
        (True, [1, 1, 1, 1], True),
        (True, [1, 8, 1, 1], False),
        (False, [1, 1, 1, 1, 1], False),
        (False, [7, 1, 1], False),
        (False, [7, 1, 1, 1], True),
        (False, [7, 1, 8, 1, 1, 1], False),
    ],
)
def test_a_thought_is_ended_after_so_many_tokens(opened: bool, answer: list[int], closes: bool) -> None:
    limit = processors.ThinkingLimit(3, open_id=7, close_id=8, opened=opened)
    prompt: Any = torch.tensor([[4, 4, 5]])
    limit(prompt, torch.arange(10.0)[None])
    ids: Any = torch.tensor([[4, 4, 5, *answer]])
    found = limit(ids, torch.arange(10.0)[None])
    assert (int(found.argmax()) == 8) is closes
    assert (found[0, :8].isinf().all().item()) is closes
