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
"""Tokens within so many nats of the likeliest are looked at; others only if top_p or a draw reaches them."""
MANY = 8192
"""Where more tokens than these are so near, all of them are looked at."""
SORTED = 2048
"""So many of the likeliest are sorted first; more only if top_p or a draw reaches them."""
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
    scaled = scores.to(torch.float32, copy=True)
    # Below the likeliest, in nats; in place, since these are as large as a step's largest tensors.
    scaled.sub_(scaled.amax(dim=-1, keepdim=True)).div_(temperatures[:, None])
    totals = scaled.logsumexp(dim=-1).tolist()
    near = (scaled >= -SPAN).cpu().numpy()  # numpy counts and finds many times as fast as torch
    result: list[int] = []
    for row, sampler in enumerate(samplers):
        share, chosen = sampler.draw(), None
        if np.count_nonzero(near[row]) <= MANY:
            tokens = np.flatnonzero(near[row])
            values = scaled[row, torch.from_numpy(tokens).to(scaled.device)]
            place = _chosen(_array(values), totals[row], sampler, share)
            chosen = None if place is None else int(tokens[place])
        if chosen is None:
            chosen = _chosen(_array(scaled[row]), totals[row], sampler, share, whole=True)
        result.append(chosen or 0)
    return result


def _array(values: torch.Tensor) -> Scores:
    found: Scores = values.double().cpu().numpy()
    return found


def _chosen(scores: Scores, total: float, sampler: Sampler, share: float, whole: bool = False) -> int | None:
    """Which of some tokens a draw falls on. They are the likeliest, or with `whole` all; `total` is the
    logsumexp of all; None if the answer lies among the others.
    """
    if sampler.top_k == 0 and sampler.top_p == 1.0 and sampler.min_p == 0.0:  # any order will do
        shares = np.exp(scores - total).cumsum()
        place = int(np.searchsorted(shares, share * (shares[-1] if whole else 1.0), side="right"))
        return None if place >= len(shares) and not whole else min(place, len(shares) - 1)
    if len(scores) > SORTED >= sampler.top_k:
        likeliest = np.sort(np.argpartition(scores, -SORTED)[-SORTED:])
        found = _among_sorted(scores[likeliest], total, sampler, share)
        if found is not None:
            return int(likeliest[found])
    return _among_sorted(scores, total, sampler, share, whole)


def _among_sorted(
    scores: Scores, total: float, sampler: Sampler, share: float, whole: bool = False
) -> int | None:
    """The same, sorted by their scores."""
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
