"""Features of pictures that were seen before are not computed again, and are the same."""

from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch

from app.engine.vision import Features

assert tiny_models


class Output:
    def __init__(self, pooler_output: Any) -> None:
        self.pooler_output = pooler_output


class Tower:
    """Doubles the pixels; two deepstack layers; counts its pictures."""

    def __init__(self, deep: bool = True) -> None:
        self.seen: list[int] = []
        self.deep = deep

    def __call__(self, pixels: torch.Tensor, grids: torch.Tensor, **_: Any) -> Output:
        counts = grids.prod(-1).tolist()
        self.seen += counts
        output: Any = Output((pixels * 2).split(counts))
        if self.deep:
            output.deepstack_features = [(pixels + layer).split(counts) for layer in (1, 2)]
        return output  # type: ignore[no-any-return]


def picture(seed: int, patches: int = 4) -> torch.Tensor:
    return torch.rand((patches, 3), generator=torch.Generator().manual_seed(seed))


def ask(features: Features, *pictures: torch.Tensor) -> Any:
    return features(torch.cat(pictures), torch.tensor([[1, 1, len(one)] for one in pictures]))


@pytest.fixture
def tower() -> Tower:
    return Tower()


def test_a_known_picture_is_not_computed_again(tower: Tower) -> None:
    features = Features(tower)
    ask(features, picture(1))
    result = ask(features, picture(1), picture(2, 8))
    assert tower.seen == [4, 8]
    assert torch.equal(result.pooler_output[0], picture(1) * 2)
    assert torch.equal(result.pooler_output[1], picture(2, 8) * 2)
    assert torch.equal(result.deepstack_features[1][1], picture(2, 8) + 2)
    assert (features.hits, features.misses) == (1, 2)


def test_the_same_picture_twice_in_one_prompt_is_computed_once(tower: Tower) -> None:
    result = ask(Features(tower), picture(1), picture(1))
    assert tower.seen == [4]
    assert torch.equal(result.pooler_output[0], result.pooler_output[1])


def test_the_same_pixels_in_another_shape_are_another_picture(tower: Tower) -> None:
    features = Features(tower)
    features(picture(1), torch.tensor([[1, 2, 2]]))
    features(picture(1), torch.tensor([[1, 1, 4]]))
    assert tower.seen == [4, 4]


def test_a_tower_without_deepstack_has_none() -> None:
    result = ask(Features(Tower(deep=False)), picture(1))
    assert not hasattr(result, "deepstack_features")


def test_the_memory_is_bounded_and_the_least_recently_used_goes_first(tower: Tower) -> None:
    size = 3 * picture(1).numel() * 4  # pooled and two layers
    features = Features(tower, budget=2 * size)
    for seed in (1, 2, 1, 3, 1, 2):
        ask(features, picture(seed))
    assert tower.seen == [4, 4, 4, 4]  # 1, 2, 3, and 2 again


def test_what_is_kept_does_not_change_with_what_was_returned(tower: Tower) -> None:
    features = Features(tower)
    ask(features, picture(1)).pooler_output[0].zero_()
    assert torch.equal(ask(features, picture(1)).pooler_output[0], picture(1) * 2)


def test_an_error_of_the_tower_passes_through_and_spoils_nothing(tower: Tower) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("tower")

    features = Features(broken)
    with pytest.raises(RuntimeError, match="tower"):
        ask(features, picture(1))
    features._compute = tower
    assert len(ask(features, picture(1)).pooler_output) == 1
    assert features.hits == 0
