"""How far a load is: transformers' own progress bar over the weights, turned into reports."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.engine.types import Progress


@contextmanager
def progress_of_weights(progress: Progress) -> Iterator[None]:
    """Report transformers' own progress over the weights; for one load at a time, its hook is global."""
    from transformers.utils import logging as transformers_logging

    def hook(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return _Bar(args[0] if args else options.get("iterable"), options.get("total"), progress)

    previous = transformers_logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)


class _Bar:
    """As much of tqdm as transformers uses while it reads weights."""

    def __init__(self, iterable: Any, total: int | None, progress: Progress) -> None:
        self._iterable = iterable
        self._total = total or (len(iterable) if hasattr(iterable, "__len__") else 0)
        self._progress = progress
        self._done = 0

    def update(self, count: int = 1) -> None:
        self._done += count
        self._progress("reading the weights", self._done / self._total if self._total else 0.0)

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self.update()

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None
