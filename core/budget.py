"""Budgets of memory: who needs room takes it first, and it is free again when what lay in it is dropped."""

from __future__ import annotations

import weakref
from collections import deque


class MemoryBudget:
    """Bytes that may be in memory for one purpose, and how many are.

    The event loop alone takes. Any thread may give back, in the middle of anything: what is dropped may be so anywhere, and
    must not wait for a lock there.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._held_bytes = 0
        self._given_back: deque[int] = deque()

    @property
    def held_bytes(self) -> int:
        """How many there are now; for the event loop."""
        while self._given_back:
            self._held_bytes -= self._given_back.popleft()
        return self._held_bytes

    def take(self, size_bytes: int) -> bool:
        """Count so many more in, unless they would be too many."""
        if self.held_bytes + size_bytes > self.limit_bytes:
            return False
        self._held_bytes += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """Count so many out."""
        self._given_back.append(size_bytes)


class Room:
    """A share of a budget, of no bytes at first."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._size_bytes = 0

    def resize(self, size_bytes: int) -> bool:
        """Have so many bytes from now on; False, and nothing changed, where the budget has not as many."""
        more_bytes = size_bytes - self._size_bytes
        if more_bytes > 0 and not self._budget.take(more_bytes):
            return False
        if more_bytes < 0:
            self._budget.give_back(-more_bytes)
        self._size_bytes = size_bytes
        return True

    def grow(self, more_bytes: int) -> bool:
        """Have so many more; False, and nothing changed, where the budget has not as many."""
        return self.resize(self._size_bytes + more_bytes)

    def release(self) -> None:
        """Give it back."""
        self.resize(0)

    def hold_for(self, thing: object) -> None:
        """Give it back when `thing` is dropped, by whichever thread has it last."""
        weakref.finalize(thing, self.release).atexit = False
