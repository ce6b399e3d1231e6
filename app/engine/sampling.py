"""Drawing the next token: one logits processor that ends in a choice, with a generator of its own."""

import secrets

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from app.engine.types import Sampling
from app.errors import GenerationFailed


class Sampler(LogitsProcessor):
    """Chooses the next token of one sequence and leaves only that one open: greedy search takes it.

    generate()'s own sampling draws from the global generator, which other threads share: a seed would mean
    nothing. Here each sequence draws from a torch.Generator of its own, and no global state is touched.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.greedy = sampling.temperature == 0
        self.warpers = LogitsProcessorList()
        if self.greedy:
            return
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.generator = torch.Generator(device=device).manual_seed(seed)
        # Very low temperatures overflow to inf - inf; 0.01 is greedy for any practical logits.
        self.warpers.append(TemperatureLogitsWarper(max(sampling.temperature, 0.01)))
        if sampling.top_k > 0:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (1, vocabulary) with all but the chosen token at -inf; raises GenerationFailed on NaN."""
        if torch.isnan(scores).any():
            raise GenerationFailed(
                "The model computed NaN logits: a numerical error.", code="numerical_error"
            )
        if self.greedy:
            return scores
        probabilities = torch.softmax(self.warpers(input_ids, scores.float()), dim=-1)
        chosen = torch.multinomial(probabilities, 1, generator=self.generator)
        return torch.full_like(scores, float("-inf")).scatter(-1, chosen, 0.0)
