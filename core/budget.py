"""Budgets of memory: who needs room takes it first, and it is free again when what lay in it is dropped."""

from __future__ import annotations

import threading
import weakref


class MemoryBudget:
    """Bytes that may be in memory for one purpose, and how many are. Any thread may call it."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> bool:
        """Count so many more in, unless they would be too many; below zero, count them out."""
        with self._lock:
            if size_bytes > 0 and self.held_bytes + size_bytes > self.limit_bytes:
                return False
            self.held_bytes += size_bytes
            return True


class Room:
    """A share of a budget, of no bytes at first."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._size_bytes = 0

    def resize(self, size_bytes: int) -> bool:
        """Have so many bytes from now on; False, and nothing changed, where the budget has not as many."""
        has_room = self._budget.take(size_bytes - self._size_bytes)
        if has_room:
            self._size_bytes = size_bytes
        return has_room

    def grow(self, more_bytes: int) -> bool:
        """Have so many more; False, and nothing changed, where the budget has not as many."""
        return self.resize(self._size_bytes + more_bytes)

    def release(self) -> None:
        """Give it back."""
        self.resize(0)

    def hold_for(self, thing: object) -> None:
        """Give it back when `thing` is dropped, by whichever thread has it last."""
        weakref.finalize(thing, self.release).atexit = False
