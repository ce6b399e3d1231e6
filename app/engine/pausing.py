"""A long computation in slices: it stops where it may, and goes on there when it is called again.

A vision tower takes as long as several steps of the batch loop. Computed in a thread of its own it would
fight the loop for the cores; as a greenlet it runs in the loop's own thread, between two steps.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from greenlet import getcurrent, greenlet


class Pausable(greenlet):
    """Calls `compute` in slices, all in one thread. `result` is there once it is `done`."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        super().__init__()
        self._compute = compute
        self._until = 0.0
        self.result: Any = None
        self.done = False

    def go_on(self, seconds: float) -> bool:
        """Compute to the end, or to the first place after so much time where it may stop; whether it is
        done. Raises what `compute` does.
        """
        self._until = time.monotonic() + seconds
        self.parent = getcurrent()
        self.switch()
        return self.done

    def close(self) -> None:
        """Give it up, wherever it is; by the thread that computed it."""
        if not self.dead:
            self.throw()

    def pause(self) -> None:
        """A place where it may stop."""
        if self.parent is not None and time.monotonic() >= self._until:
            self.parent.switch()

    def run(self) -> None:
        """All of it, in its own greenlet."""
        self.result = self._compute()
        self.done = True


def pauses_between_layers(model: torch.nn.Module, without: torch.nn.Module) -> None:
    """Make every layer of a model a place where a computation may stop, but for those of a part of it."""
    others = set(without.modules())
    for part in model.modules():
        if isinstance(part, torch.nn.ModuleList) and part not in others:
            for layer in part:
                layer.register_forward_pre_hook(_pause)


def _pause(*_: Any) -> None:
    current = getcurrent()
    if isinstance(current, Pausable):
        current.pause()
