"""A computation that stops between its layers and goes on."""

import math
from collections.abc import Callable

import pytest

from tests import tiny_models  # noqa: F401 - prepares torchvision

# isort: split
import torch

from app.engine.pausing import Pausable, pauses_between_layers


class Noted(torch.nn.Module):
    """A layer that notes that it was called."""

    def __init__(self, name: str, called: list[str]) -> None:
        super().__init__()
        self.name, self.called = name, called

    def forward(self, value: int) -> int:
        self.called.append(self.name)
        return value + 1


class Model(torch.nn.Module):
    """Two lists of layers, of which the second is another part's."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []
        self.seeing = torch.nn.ModuleList(Noted(f"see {index}", self.called) for index in range(3))
        self.speaking = torch.nn.ModuleList(Noted(f"say {index}", self.called) for index in range(2))
        pauses_between_layers(self, without=self.speaking)

    def forward(self, value: int) -> int:
        for layer in [*self.seeing, *self.speaking]:
            value = layer(value)
        return value


def test_without_time_it_stops_before_every_layer_but_those_of_the_other_part() -> None:
    model = Model()
    task = Pausable(lambda: model(0))
    calls = []
    while not task.go_on(0.0):
        calls.append(len(model.called))
        assert len(calls) < 10
    assert calls == [0, 1, 2]
    assert (task.result, len(model.called)) == (5, 5)


def test_with_time_it_is_done_at_once() -> None:
    model = Model()
    task = Pausable(lambda: model(0))
    assert task.go_on(math.inf)
    assert task.result == 5


def test_the_model_itself_never_stops() -> None:
    assert Model()(0) == 5


@pytest.mark.parametrize("slices", [0, 2])
def test_one_that_is_given_up_cleans_up_and_goes_no_further(slices: int) -> None:
    model = Model()
    cleaned: list[bool] = []

    def compute() -> None:
        try:
            model(0)
        finally:
            cleaned.append(True)

    task = Pausable(compute)
    for _ in range(slices):
        assert not task.go_on(0.0)
    task.close()
    task.close()
    assert task.dead
    assert not task.done
    assert cleaned == [True] * bool(slices)
    assert len(model.called) == max(0, slices - 1)


def test_what_it_raises_comes_out_of_the_slice_that_it_was_raised_in() -> None:
    model = Model()

    def compute() -> None:
        model(0)
        raise ValueError("no picture")

    task = Pausable(compute)
    step: Callable[[], bool] = lambda: task.go_on(0.0)  # noqa: E731
    assert [step(), step(), step()] == [False] * 3
    with pytest.raises(ValueError, match="no picture"):
        step()
    task.close()
