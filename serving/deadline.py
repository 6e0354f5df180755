"""How long a request may take, from its arrival to its response, on a clock that nobody sets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from core.errors import DeadlineExceeded, OutOfRange

TIMEOUT_HEADER = "X-Request-Timeout"


@dataclass(frozen=True)
class Deadline:
    """`seconds` after it was made; `at` is that moment on the event loop's monotonic clock."""

    seconds: float
    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """From now on."""
        return cls.of(seconds, seconds)

    @classmethod
    def of(cls, seconds: float, seconds_left: float) -> Deadline:
        """One of which a part is over; no more is left than all."""
        return cls(seconds, asyncio.get_running_loop().time() + min(seconds_left, seconds))

    @property
    def seconds_left(self) -> float:
        """From now; 0 where it has passed."""
        return max(self.at - asyncio.get_running_loop().time(), 0.0)

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel what is within at the deadline.

        Raises:
            DeadlineExceeded: it was.
        """
        try:
            async with asyncio.timeout_at(self.at) as timeout:
                yield
        except TimeoutError as exc:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(
                f"The request was not done within {self.seconds:g} s, waiting included. Allow more time, or send less.",
                timeout_seconds=self.seconds,
            ) from exc


def parse_timeout(text: str | None, longest_seconds: float) -> float:
    """Seconds that a request may take: what its client asks for in TIMEOUT_HEADER, but no longer than the server's own.

    Raises:
        OutOfRange: it is no positive number.
    """
    if text is None:
        return longest_seconds
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise OutOfRange(f"{TIMEOUT_HEADER} must be a positive number of seconds, not {text[:40]!r}.", field=TIMEOUT_HEADER)
    return min(seconds, longest_seconds)
