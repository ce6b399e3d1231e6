"""A bounded memory: what was used least recently goes first."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

ENTRY = 4096
"""Bytes that each value counts for beside its own: its key, and the objects around it."""
Key = TypeVar("Key")
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """Values by key, of at most `budget` bytes together, `size` of each and ENTRY; safe for many threads."""

    def __init__(self, budget: int, size: Callable[[Value], int]) -> None:
        self._budget = budget
        self._size: Callable[[Value], int] = lambda value: ENTRY + size(value)
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()
        self.held = 0

    def get(self, key: Key) -> Value | None:
        """What is kept under a key, now the most recently used; None if there is nothing."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, unless it alone takes more than half of the budget."""
        with self._lock:
            if (old := self._values.pop(key, None)) is not None:
                self.held -= self._size(old)
            if self._size(value) > self._budget // 2:
                return
            self._values[key] = value
            self.held += self._size(value)
            while self.held > self._budget:
                self.held -= self._size(self._values.popitem(last=False)[1])

    def __len__(self) -> int:
        return len(self._values)
