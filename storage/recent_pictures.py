"""Pictures that were made last, kept in memory for a while: a request for the same in another format needs no network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Kept(Generic[T]):
    picture: T
    size_bytes: int
    used_at: float


class RecentPictures(Generic[T]):
    """At most `limit_bytes` of them, each for `seconds` after its last use; what was not used for longest goes first."""

    def __init__(self, limit_bytes: int, seconds: float, clock: Callable[[], float]) -> None:
        self._limit_bytes = limit_bytes
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()  # by their keys, in the order of their use
        self._held_bytes = 0

    def keep(self, key: str, picture: T, size_bytes: int) -> None:
        """Keep a picture, unless it alone is too large."""
        self._drop(key)
        if size_bytes > self._limit_bytes:
            return
        self._kept[key] = _Kept(picture, size_bytes, self._clock())
        self._held_bytes += size_bytes
        while self._held_bytes > self._limit_bytes:
            self._drop(next(iter(self._kept)))

    def find(self, key: str) -> T | None:
        """The picture of that key, which is used by this."""
        self.drop_old()
        kept = self._kept.get(key)
        if kept is None:
            return None
        self.keep(key, kept.picture, kept.size_bytes)
        return kept.picture

    def drop_old(self) -> bool:
        """Drop what was not used for too long; whether there was any."""
        old = [key for key, kept in self._kept.items() if self._clock() - kept.used_at >= self._seconds]
        for key in old:
            self._drop(key)
        return bool(old)

    def clear(self) -> None:
        """Drop them all."""
        self._kept.clear()
        self._held_bytes = 0

    def _drop(self, key: str) -> None:
        if kept := self._kept.pop(key, None):
            self._held_bytes -= kept.size_bytes
