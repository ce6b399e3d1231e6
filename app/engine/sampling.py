"""Choosing the next token: for many sequences at once, each with a random generator of its own.

generate()'s own sampling draws from the global generator, which other threads share: a seed would mean
nothing. Here no global state is touched, and what a sequence draws depends on nothing but itself.
"""

import math
import random
import secrets
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessor

from app.engine.types import Logprobs, Sampling
from app.errors import GenerationFailed

Scores = npt.NDArray[np.float64]
SPAN = 12.0
"""Tokens within so many nats of the likeliest are sorted; others only if top_p or a draw reaches them."""
COLDEST = 0.01
"""Lower temperatures overflow to inf - inf; this is greedy for any practical logits."""


class Sampler(LogitsProcessor):
    """How one sequence's tokens are drawn, after `processors` of its own. As a logits processor it leaves
    only the chosen token open, so that generate()'s greedy search takes it.
    """

    def __init__(
        self, sampling: Sampling, processors: Sequence[LogitsProcessor] = (), choice: int = 0
    ) -> None:
        self.greedy = sampling.temperature == 0
        self.temperature = max(sampling.temperature, COLDEST)
        self.top_k, self.top_p, self.min_p = sampling.top_k, sampling.top_p, sampling.min_p
        self.top_logprobs = sampling.top_logprobs
        self.logprobs: Logprobs | None = None  # of the last token, where they are asked for
        self.processors = list(processors)  # what is not done for all sequences together
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64
        # torch.Generator would take 32 of a seed's 64 bits, and random.Random not its sign. The choices of
        # one seed draw apart from each other and from those of the next seed.
        self._random = random.Random(f"{seed} {choice}" if choice else seed)  # noqa: S311
        self._share: float | None = None

    def draw(self) -> float:
        """The random number of this sequence's next token, uniform in 0 … 1; the same until `advance`, so
        that a step that failed can be taken again.
        """
        if self._share is None:
            self._share = self._random.random()
        return self._share

    def advance(self) -> None:
        """The token that was drawn is taken."""
        self._share = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (1, vocabulary) with all but the chosen token at -inf; raises GenerationFailed on NaN."""
        raw = scores
        for processor in self.processors:
            scores = processor(input_ids, scores)
        chosen = choose(scores, [self])[0]
        if chosen is None:
            raise numerical_error()
        self.advance()
        if self.top_logprobs is not None:
            self.logprobs = logprobs(raw, [chosen], [self.top_logprobs])[0]
        if self.greedy:
            return scores
        return torch.full_like(scores, float("-inf")).index_fill_(
            -1, torch.tensor([chosen], device=scores.device), 0.0
        )


def numerical_error() -> GenerationFailed:
    """What a sequence is told whose logits are NaN."""
    return GenerationFailed("The model computed NaN logits: a numerical error.", code="numerical_error")


def choose(scores: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """The next token of each row of scores (rows, vocabulary); None for a row with NaN in it.

    Sampling goes as in transformers: temperature, then the top_k likeliest, then the fewest of them whose
    probabilities reach top_p (Holtzman et al. 2020), then those that are min_p times as likely as the first
    (Nguyen et al. 2024), then one of those by its share.
    """
    best, tokens = scores.max(dim=-1)  # NaN, if there is one
    chosen: list[int | None] = tokens.tolist()
    for row in best.isnan().nonzero()[:, 0].tolist():
        chosen[row] = None
    drawn = [
        row
        for row, (sampler, token) in enumerate(zip(samplers, chosen, strict=True))
        if token is not None and not sampler.greedy
    ]
    if drawn:
        some = scores if len(drawn) == len(samplers) else scores[drawn]
        for row, token in zip(drawn, _draw(some, [samplers[row] for row in drawn]), strict=True):
            chosen[row] = token
    return chosen


def logprobs(scores: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[Logprobs]:
    """Log probabilities (nats) of a token of each row of scores (rows, vocabulary), and of the row's so many
    likeliest.
    """
    scores = scores.float()
    totals = scores.logsumexp(dim=-1, keepdim=True)
    chosen = scores.gather(1, torch.tensor(tokens, device=scores.device)[:, None]) - totals
    values, likeliest = scores.topk(min(max(counts), scores.shape[1]))
    rows = zip(chosen[:, 0].tolist(), likeliest.tolist(), (values - totals).tolist(), counts, strict=True)
    return [
        Logprobs(logprob, tuple(zip(ids[:count], shares[:count], strict=True)))
        for logprob, ids, shares, count in rows
    ]


def _draw(scores: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    temperatures = torch.tensor([sampler.temperature for sampler in samplers], device=scores.device)
    scaled = scores.float() / temperatures[:, None]
    totals = scaled.logsumexp(dim=-1).tolist()
    rows, tokens = (scaled >= scaled.amax(dim=-1, keepdim=True) - SPAN).nonzero(as_tuple=True)
    ends = rows.bincount(minlength=len(samplers)).cumsum(0)[:-1].cpu().numpy()
    values = np.split(scaled[rows, tokens].double().cpu().numpy(), ends)
    names = np.split(tokens.cpu().numpy(), ends)
    result: list[int] = []
    for row, sampler in enumerate(samplers):
        share = sampler.draw()
        chosen = _chosen(values[row], totals[row], sampler, share)
        if chosen is None:
            every = scaled[row].double().cpu().numpy()
            result.append(int(_chosen(every, totals[row], sampler, share, whole=True) or 0))
        else:
            result.append(int(names[row][chosen]))
    return result


def _chosen(scores: Scores, total: float, sampler: Sampler, share: float, whole: bool = False) -> int | None:
    """Which of some tokens a draw falls on, when they are sorted by their scores. They are the likeliest,
    `total` is the logsumexp of all; None if the answer lies among the others.
    """
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    shares = np.exp(scores - total).cumsum()
    kept, mass, limited = len(shares), 1.0, whole
    if sampler.top_k > 0:  # what is SPAN below the first is no loss among so few
        kept, limited = min(kept, sampler.top_k), True
    if limited:
        mass = float(shares[kept - 1])
    if sampler.top_p < 1.0:
        reached = int(np.searchsorted(shares[:kept], sampler.top_p * mass)) + 1
        if reached > kept and not limited:
            return None
        kept, limited = min(kept, reached), True
        mass = float(shares[kept - 1])
    if sampler.min_p > 0.0:
        near = int((scores[:kept] >= scores[0] + math.log(sampler.min_p)).sum())
        if near < kept:
            kept, mass, limited = near, float(shares[near - 1]), True
    place = int(np.searchsorted(shares[:kept], share * mass, side="right"))
    if place >= kept and not limited:
        return None
    return int(order[min(place, kept - 1)])
