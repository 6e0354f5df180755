"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_RETRY_SECONDS = 1.0


def retry_delay(failures: int, ceiling_seconds: float, rng: Callable[[], float] = random.random) -> float:
    """Seconds to wait after the n-th failure in a row: exponential backoff with full jitter.

    Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) keeps a fleet of services from
    coming back at the same moment as their registry.
    """
    seconds = FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 64)  # beyond 2.0**1023 is OverflowError
    return rng() * min(ceiling_seconds, seconds)
