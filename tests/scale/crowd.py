"""Clients that ask at once, each for pictures of its own, and compare every answer pixel by pixel."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.helpers import HANG_SECONDS, encode

SIDE_PX = 64
_seeds = itertools.count(time.time_ns())


def new_pixels(side_px: int = SIDE_PX) -> NDArray[np.uint8]:
    """That nobody has asked for yet."""
    return np.random.default_rng(next(_seeds)).integers(0, 256, (side_px, side_px, 3), np.uint8)


@dataclass(frozen=True)
class Outcome:
    """What became of one picture: right, or what came instead; and after how many refusals."""

    seconds: float
    refusals: int
    fault: str = ""


@dataclass(frozen=True)
class Report:
    """All of them, and how long the whole took."""

    outcomes: Sequence[Outcome]
    seconds: float

    @property
    def faults(self) -> list[str]:
        return [outcome.fault for outcome in self.outcomes if outcome.fault]

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return (len(self.outcomes) - len(self.faults)) / self.seconds

    def percentile(self, percent: float) -> float:
        """Of the seconds from a picture's first request to its right answer."""
        return float(np.percentile([outcome.seconds for outcome in self.outcomes], percent))


def crowd(url: str, pictures: int, clients: int = 8, meanwhile: Callable[[], object] = lambda: None) -> Report:
    """So many pictures from so many clients at once; `meanwhile` runs once they are on their way.

    A client repeats what a server that is full, or going, refuses with 503 and `Retry-After`, and nothing else.
    """
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as executor:
        asked = [executor.submit(_ask, url) for _ in range(pictures)]
        meanwhile()
        outcomes = [each.result() for each in asked]
    return Report(outcomes, time.perf_counter() - start)


def _ask(url: str) -> Outcome:
    pixels, refusals, start = new_pixels(), 0, time.perf_counter()
    headers = {"Content-Type": "image/png", "Accept": "image/*"}
    with httpx.Client(timeout=HANG_SECONDS) as client:
        while True:
            try:
                response = client.post(f"{url}/upscale?scale=4&output_format=png", content=encode(pixels), headers=headers)
            except httpx.TransportError as exc:
                return Outcome(time.perf_counter() - start, refusals, repr(exc))
            if response.status_code != 503 or "Retry-After" not in response.headers:
                break
            refusals += 1
            time.sleep(min(float(response.headers["Retry-After"]), 1.0))
    return Outcome(time.perf_counter() - start, refusals, _fault(response, pixels))


def _fault(response: httpx.Response, pixels: NDArray[np.uint8]) -> str:
    if response.status_code != 200:
        return f"{response.status_code}: {response.text[:300]}"
    right = pixels.repeat(4, axis=0).repeat(4, axis=1)
    return "" if np.array_equal(np.asarray(Image.open(io.BytesIO(response.content))), right) else "other pixels"
