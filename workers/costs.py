"""What a worker elsewhere says that pictures cost, from a few sizes: the first message of a task corrects the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import numpy as np

from core.config import ModelName
from schemas.plan import Plan, Size
from workers.worker import Worker

Factor = Literal[2, 4]
FACTORS: tuple[Factor, ...] = (2, 4)
SIDES_PX = tuple(2**power for power in range(14))  # to 8192, beyond which no pass begins


class Sampled:
    """A positive function of height and width, known where both are in `SIDES_PX`; in between, it grows by powers of them."""

    def __init__(self, function: Callable[[Size], float]) -> None:
        values = [[max(function(Size(width, height)), 1.0) for width in SIDES_PX] for height in SIDES_PX]
        self._logarithms = np.log2(np.array(values))

    def at(self, size: Size) -> float:
        """Its value there, about."""
        (top, down), (left, right) = _place(size.height), _place(size.width)
        (a, b), (c, d) = self._logarithms[top : top + 2, left : left + 2]
        upper, lower = a + (b - a) * right, c + (d - c) * right
        return float(2 ** (upper + (lower - upper) * down))


@dataclass(frozen=True)
class Costs:
    """The FLOPs and bytes of one pass, by model and factor, and the FLOPs of the search for faces."""

    flops: Mapping[tuple[str, Factor], Sampled]
    bytes: Mapping[tuple[str, Factor], Sampled]
    face_search: Sampled

    @classmethod
    def of(cls, worker: Worker) -> Costs:
        """Ask the worker for each; it must answer at once."""
        kinds = [(model, factor) for model in worker.capabilities.models for factor in FACTORS]
        flops = {kind: Sampled(partial(_flops, worker, *kind)) for kind in kinds}
        peaks = {kind: Sampled(partial(_bytes, worker, *kind)) for kind in kinds}
        return cls(flops, peaks, Sampled(partial(_face_search, worker, *kinds[0])))

    def work(self, plan: Plan, has_alpha: bool, enhance_faces: bool) -> float:
        """As `Upscaler.work`."""
        passes = sum(self.flops[plan.model, factor].at(size) for size, factor in _passes(plan))
        return passes * (2 if has_alpha else 1) + (self.face_search.at(plan.original) if enhance_faces else 0.0)

    def memory_bytes(self, plan: Plan) -> int:
        """As `Upscaler.memory_bytes`."""
        return round(max(self.bytes[plan.model, factor].at(size) for size, factor in _passes(plan)))


def _place(side_px: int) -> tuple[int, float]:
    """The last of `SIDES_PX` that is not above it, and the share of the way to the next, in powers."""
    power = min(int(math.log2(side_px)), len(SIDES_PX) - 2)
    return power, math.log2(side_px) - power


def _passes(plan: Plan) -> Iterator[tuple[Size, Factor]]:
    """What goes into each pass, and by what factor it grows there."""
    size = plan.original
    for factor in plan.passes:
        yield size, factor
        size *= factor


def _one_pass(model: str, factor: Factor, size: Size) -> Plan:
    return Plan(size, None, (factor,), size * factor, model=cast(ModelName, model))


def _flops(worker: Worker, *one_pass: *tuple[str, Factor, Size]) -> float:
    return worker.work(_one_pass(*one_pass), has_alpha=False, enhance_faces=False)


def _bytes(worker: Worker, *one_pass: *tuple[str, Factor, Size]) -> float:
    return worker.memory_bytes(_one_pass(*one_pass))


def _face_search(worker: Worker, *one_pass: *tuple[str, Factor, Size]) -> float:
    return worker.work(_one_pass(*one_pass), has_alpha=False, enhance_faces=True) - _flops(worker, *one_pass)
