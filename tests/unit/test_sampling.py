"""Drawing tokens: a seed decides, nothing global is touched, limits are kept, NaN is an error."""

from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch

from app.engine import processors
from app.engine.sampling import Sampler
from app.engine.types import Sampling
from app.errors import GenerationFailed

assert tiny_models
NONE: Any = torch.zeros((1, 0), dtype=torch.long)
LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -3.0]])


def draws(sampling: Sampling, count: int, logits: torch.Tensor = LOGITS) -> list[int]:
    sampler = Sampler(sampling)
    return [int(sampler(NONE, logits).argmax()) for _ in range(count)]


@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 - 1, -(2**63)])
def test_the_same_seed_draws_the_same(seed: int) -> None:
    sampling = Sampling(temperature=1.0, seed=seed)
    assert draws(sampling, 50) == draws(sampling, 50)


def test_other_seeds_and_no_seed_draw_otherwise() -> None:
    seeds = (1, 2, -1, 2**32 + 1, 2**63 - 1, None, None)
    rows = [draws(Sampling(temperature=1.0, seed=seed), 50) for seed in seeds]
    assert len({tuple(row) for row in rows}) == len(seeds)


def test_two_samplers_do_not_disturb_each_other() -> None:
    sampling = Sampling(temperature=1.0, seed=5)
    one, other = Sampler(sampling), Sampler(sampling)
    alternating = [int(sampler(NONE, LOGITS).argmax()) for _ in range(30) for sampler in (one, other)]
    assert alternating[::2] == alternating[1::2] == draws(sampling, 30)


def test_the_global_generator_is_neither_used_nor_changed() -> None:
    before = torch.random.get_rng_state()
    draws(Sampling(temperature=1.0), 5)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = draws(Sampling(temperature=1.0, seed=4), 20)
        torch.manual_seed(2)
        assert draws(Sampling(temperature=1.0, seed=4), 20) == first
    assert torch.equal(torch.random.get_rng_state(), before)


def test_greedy_leaves_the_scores_as_they_are() -> None:
    scores = LOGITS.clone()
    result = Sampler(Sampling(temperature=0.0, top_k=1, top_p=0.1))(NONE, scores)
    assert torch.equal(result, LOGITS)


def test_one_token_stays_open() -> None:
    scores = LOGITS.clone()
    result = Sampler(Sampling(temperature=1.0, seed=1))(NONE, scores)
    assert int(torch.isfinite(result).sum()) == 1
    assert result.shape == LOGITS.shape
    assert torch.equal(scores, LOGITS)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_an_error_with_a_name(temperature: float) -> None:
    scores = LOGITS.clone()
    scores[0, 2] = torch.nan
    with pytest.raises(GenerationFailed, match="NaN") as caught:
        Sampler(Sampling(temperature=temperature))(NONE, scores)
    assert caught.value.code == "numerical_error"


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_is_kept_and_used(top_k: int) -> None:
    assert set(draws(Sampling(temperature=2.0, top_k=top_k, seed=1), 300)) == set(range(top_k))


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, 1), (0.5, 1), (0.7, 2), (0.85, 3), (1.0, 6)])
def test_top_p_is_kept_and_used(top_p: float, kept: int) -> None:
    shares = torch.tensor([[0.55, 0.2, 0.15, 0.05, 0.03, 0.02]])
    drawn = set(draws(Sampling(temperature=1.0, top_p=top_p, seed=1), 600, shares.log()))
    assert drawn == set(range(kept))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    drawn = draws(Sampling(temperature=temperature, seed=9), 4000)
    found = torch.bincount(torch.tensor(drawn), minlength=6) / 4000
    assert torch.allclose(found, torch.softmax(LOGITS[0] / temperature, -1), atol=0.03)


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 0.01])
def test_a_very_low_temperature_is_greedy(temperature: float) -> None:
    huge = LOGITS * 1e4
    assert set(draws(Sampling(temperature=temperature, seed=1), 20, huge)) == {0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_drawn_from_in_full(dtype: torch.dtype) -> None:
    result = Sampler(Sampling(temperature=0.5, seed=1))(NONE, LOGITS.to(dtype))
    assert result.dtype == dtype
    assert int(torch.isfinite(result).sum()) == 1


def test_a_token_that_is_closed_is_never_drawn() -> None:
    closed = LOGITS.clone()
    closed[0, :3] = -torch.inf
    assert 0 not in draws(Sampling(temperature=2.0, seed=1), 200, closed)
    assert set(draws(Sampling(temperature=2.0, seed=1), 200, closed)) <= {3, 4, 5}


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("size", [6, 1000])
def test_min_p_keeps_what_transformers_keeps(size: int, top_p: float) -> None:
    from transformers import MinPLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(size)) * 2
    scores = TopPLogitsWarper(top_p)(NONE, logits.clone()) if top_p < 1 else logits
    wanted = set(MinPLogitsWarper(0.15)(NONE, scores.clone())[0].isfinite().nonzero()[:, 0].tolist())
    found = set(draws(Sampling(1.0, top_p=top_p, min_p=0.15, seed=1), 1500, logits))
    assert found <= wanted
    assert len(found) >= 0.8 * len(wanted)


def test_a_small_min_p_still_draws_beyond_the_sorted_candidates() -> None:
    logits = torch.zeros(1, 5000)
    found = draws(Sampling(1.0, min_p=0.5, seed=3), 60, logits)
    assert len(set(found)) > 50


@pytest.mark.parametrize("temperature", [0.0, 1.7])
def test_log_probabilities_are_the_models_own(temperature: float) -> None:
    sampling = Sampling(temperature, top_k=3, repetition_penalty=1.8, top_logprobs=3, seed=2)
    sampler = Sampler(sampling, processors.of(sampling, ()))
    seen: Any = torch.tensor([[0, 1]])
    chosen = int(sampler(seen, LOGITS).argmax())
    wanted = LOGITS.log_softmax(-1)[0]
    assert sampler.logprobs is not None
    assert sampler.logprobs.logprob == pytest.approx(float(wanted[chosen]))
    assert [token for token, _ in sampler.logprobs.top] == [0, 1, 2]
    assert [share for _, share in sampler.logprobs.top] == pytest.approx(wanted[:3].tolist())


def test_nobody_pays_for_log_probabilities_unasked() -> None:
    sampler = Sampler(Sampling(1.0))
    sampler(NONE, LOGITS)
    assert sampler.logprobs is None


def test_the_choices_of_a_seed_draw_apart_and_the_first_as_if_it_were_alone() -> None:
    sampling = Sampling(1.0, seed=5)
    draws_of = [Sampler(sampling, (), choice).draw() for choice in range(50)]
    assert len(set(draws_of)) == 50
    assert draws_of[0] == Sampler(sampling).draw()
    assert Sampler(Sampling(1.0, seed=6)).draw() not in draws_of
