"""The logits processors of one sequence: what is not done for all sequences of a step together.

Each is called with the ids of prompt and answer, (1, tokens), and scores, (1, vocabulary), and depends on
these alone, so that a step that failed can be taken again.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, MinNewTokensLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor

from app.engine.types import Sampling


class AdditivePenalties(LogitsProcessor):
    """OpenAI's penalties: from a token's score go `presence` once it was generated, and `frequency` for each
    time that it was. The prompt does not count.
    """

    def __init__(self, prompt_tokens: int, presence: float, frequency: float) -> None:
        self._first, self._presence, self._frequency = prompt_tokens, presence, frequency

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        tokens, counts = input_ids[0, self._first :].unique(return_counts=True)
        scores = scores.clone()
        scores[0, tokens] -= self._presence + self._frequency * counts
        return scores


class LogitBias(LogitsProcessor):
    """OpenAI's logit_bias: a number for some tokens that is added to their scores."""

    def __init__(self, bias: Sequence[tuple[int, float]]) -> None:
        self._tokens = torch.tensor([token for token, _ in bias])
        self._bias = torch.tensor([amount for _, amount in bias], dtype=torch.float32)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        bias = self._bias.to(scores.device, scores.dtype)
        return scores.index_add(1, self._tokens.to(scores.device), bias[None])


class ThinkingLimit(LogitsProcessor):
    """Ends a thought after `most` tokens, by leaving only the token that ends it open. `open_id` begins one,
    in the answer if not already in the prompt.
    """

    def __init__(self, prompt_tokens: int, most: int, open_id: int, close_id: int, opened: bool) -> None:
        self._first, self._most = prompt_tokens, most
        self._open, self._close, self._opened = open_id, close_id, opened

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        answer = input_ids[0, self._first :].tolist()
        begin = 0 if self._opened else answer.index(self._open) + 1 if self._open in answer else None
        if begin is None or self._close in answer[begin:] or len(answer) - begin < self._most:
            return scores
        only = torch.full_like(scores, float("-inf"))
        only[0, self._close] = 0.0
        return only


def of(sampling: Sampling, prompt_tokens: int, stop_ids: Sequence[int], device: str) -> list[LogitsProcessor]:
    """The processors that a request's sampling asks for, in the order in which they run."""
    found: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.presence_penalty or sampling.frequency_penalty:
        penalties = (sampling.presence_penalty, sampling.frequency_penalty)
        found.append(AdditivePenalties(prompt_tokens, *penalties))
    if sampling.logit_bias:
        found.append(LogitBias(sampling.logit_bias))
    if sampling.min_tokens and stop_ids:
        least = (prompt_tokens, sampling.min_tokens, list(stop_ids))
        found.append(MinNewTokensLengthLogitsProcessor(*least, device=device))
    return found
