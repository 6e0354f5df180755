"""Medians, ratios and slopes: the arithmetic of every benchmark."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of several values, with the least and the largest of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError where there are no values."""
        if not values:
            raise ValueError("nothing was measured")
        return cls(statistics.median(values), min(values), max(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Pair by pair: values of the same round."""
    return [numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)]


def log_log_slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The least-squares slope of log y over log x: 1 where y grows in proportion to x."""
    return statistics.linear_regression([math.log(x) for x in xs], [math.log(y) for y in ys]).slope
