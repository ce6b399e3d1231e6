"""The logits processors of one sequence: what is not done for all sequences of a step together.

Each is called with the ids of prompt and answer, (1, tokens), and scores, (1, vocabulary), first when there
is no answer yet, and depends on these alone, so that a step that failed can be taken again. How many of the
ids are the prompt's is told from the first call: remote code that embeds its prompt shows none of them.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from app.engine.types import Sampling


class Answer:
    """The part of a sequence's ids that is the answer."""

    def __init__(self) -> None:
        self._first: int | None = None

    def of(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(1, tokens of prompt and answer) to (tokens of the answer,)."""
        if self._first is None:
            self._first = input_ids.shape[1]
        return input_ids[0, self._first :]


class AdditivePenalties(LogitsProcessor):
    """OpenAI's penalties: from a token's score go `presence` once it was generated, and `frequency` for each
    time that it was. The prompt does not count.
    """

    def __init__(self, presence: float, frequency: float) -> None:
        self._answer, self._presence, self._frequency = Answer(), presence, frequency

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        tokens, counts = self._answer.of(input_ids).unique(return_counts=True)
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


class LeastTokens(LogitsProcessor):
    """Closes the stop tokens before an answer has so many tokens."""

    def __init__(self, least: int, stop_ids: Sequence[int]) -> None:
        self._answer, self._least, self._stop_ids = Answer(), least, torch.tensor(stop_ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        if len(self._answer.of(input_ids)) >= self._least:
            return scores
        return scores.index_fill(1, self._stop_ids.to(scores.device), float("-inf"))


class ThinkingLimit(LogitsProcessor):
    """Ends a thought after `most` tokens, by leaving only the token that ends it open. `open_id` begins one,
    in the answer if not already in the prompt.
    """

    def __init__(self, most: int, open_id: int, close_id: int, opened: bool) -> None:
        self._answer, self._most = Answer(), most
        self._open, self._close, self._opened = open_id, close_id, opened

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        answer = self._answer.of(input_ids).tolist()
        begin = 0 if self._opened else answer.index(self._open) + 1 if self._open in answer else None
        if begin is None or self._close in answer[begin:] or len(answer) - begin < self._most:
            return scores
        only = torch.full_like(scores, float("-inf"))
        only[0, self._close] = 0.0
        return only


def of(sampling: Sampling, stop_ids: Sequence[int]) -> list[LogitsProcessor]:
    """The processors that a request's sampling asks for, in the order in which they run."""
    found: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.presence_penalty or sampling.frequency_penalty:
        found.append(AdditivePenalties(sampling.presence_penalty, sampling.frequency_penalty))
    if sampling.logit_bias:
        found.append(LogitBias(sampling.logit_bias))
    if sampling.min_tokens and stop_ids:
        found.append(LeastTokens(sampling.min_tokens, stop_ids))
    return found
