"""Choosing the next token: for many sequences at once, each with a random generator of its own.

generate()'s own sampling draws from the global generator, which other threads share: a seed would mean
nothing. Here no global state is touched, and what a sequence draws depends on nothing but itself.
"""

import random
import secrets
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from app.engine.types import Sampling
from app.errors import GenerationFailed

CANDIDATES = 256
"""So many of the likeliest tokens are sorted; the rest only where a draw falls among them."""
COLDEST = 0.01
"""Lower temperatures overflow to inf - inf; this is greedy for any practical logits."""


class Sampler(LogitsProcessor):
    """How one sequence's tokens are drawn. As a logits processor it leaves only the chosen token open, so
    that generate()'s greedy search takes it.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.greedy = sampling.temperature == 0
        self.temperature = max(sampling.temperature, COLDEST)
        self.top_k, self.top_p = sampling.top_k, sampling.top_p
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        # torch.Generator would take 32 of a seed's 64 bits, and random.Random not its sign.
        self._random = random.Random(seed % 2**64)  # noqa: S311

    def draw(self) -> float:
        """The next random number of this sequence, uniform in 0 … 1."""
        return self._random.random()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (1, vocabulary) with all but the chosen token at -inf; raises GenerationFailed on NaN."""
        chosen = choose(scores, [self])[0]
        if chosen is None:
            raise numerical_error()
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
    probabilities reach top_p (Holtzman et al. 2020), then one of those by its share.
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


def _draw(scores: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    temperatures = torch.tensor([sampler.temperature for sampler in samplers], device=scores.device)
    scaled = scores.float() / temperatures[:, None]
    totals = scaled.logsumexp(dim=-1, keepdim=True)
    count = min(CANDIDATES, scores.shape[1])
    likeliest, tokens = scaled.topk(count)
    shares = (likeliest - totals).exp().cumsum(dim=-1, dtype=torch.float64).cpu()
    result: list[int] = []
    for row, sampler in enumerate(samplers):
        share = sampler.draw()
        place = _place(shares[row], sampler, share)
        if place is None:
            values, order = scaled[row].sort(descending=True, stable=True)
            every = (values - totals[row]).exp().cumsum(dim=-1, dtype=torch.float64).cpu()
            place = _place(every, sampler, share, whole=True)
            result.append(int(order[place]))
        else:
            result.append(int(tokens[row, place]))
    return result


def _place(shares: torch.Tensor, sampler: Sampler, share: float, whole: bool = False) -> int | None:
    """Where in the sorted vocabulary a draw falls, from the running sum of its probabilities; None if that
    needs more of it.
    """
    kept, mass = len(shares), 1.0
    limited = 0 < sampler.top_k < kept or whole
    if limited:
        kept = min(kept, sampler.top_k or kept)
        mass = float(shares[kept - 1])
    if sampler.top_p < 1.0:
        reached = int(torch.searchsorted(shares[:kept], sampler.top_p * mass)) + 1
        if reached > kept and not limited:
            return None
        kept = min(kept, reached)
        mass = float(shares[kept - 1])
    place = int(torch.searchsorted(shares[:kept], share * mass, right=True))
    if place >= kept and not limited and sampler.top_p >= 1.0:
        return None
    return min(place, kept - 1)
