"""The fast models: a network at a rate of its own, and at any strength of its denoising."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch

from core.progress import NullProgress, Progress
from models.device import Device, Image, noise, seconds_of
from models.engines.srvgg import SCALE, SrvggEngine, Weights, build_srvggnet, convolutions_of, mixed
from models.engines.winograd_srvgg import WinogradSrvgg
from models.super_resolution import Engine, SuperResolver, runs_winograd

KEPT_STRENGTHS = 2  # below 1; each is a network in memory once it has run
MEASURED_PX = {"cpu": 128, "cuda": 512}  # side of the picture whose time is measured


class FastModel:
    """An SRVGGNetCompact and, where it has one, its twin of weak denoising.

    Its work is given in FLOPs of a pass of x4plus that takes as long, since the rate of that one is what is known of a device.
    """

    def __init__(self, weights: Weights, device: Device, weak: Weights | None = None) -> None:
        """Both are loaded strictly."""
        for checked in (weights, weak):
            if checked is not None:
                build_srvggnet(checked)
        self._weights, self._weak, self._device = weights, weak, device
        self._cost = 1.0  # FLOPs of x4plus for each of its own
        self._usual = self._at(1.0)
        self._mixed = lru_cache(KEPT_STRENGTHS)(self._at)

    @property
    def can_mix(self) -> bool:
        """Whether it has strengths below 1."""
        return self._weak is not None

    def at(self, denoise: float) -> SuperResolver:
        """At a strength of denoising from 0 to 1; any thread may ask. Nothing is mixed before its first pass."""
        return self._usual if denoise == 1 else self._mixed(denoise)

    def measure(self, flops_per_second: float) -> None:
        """Learn what a pass costs, where x4plus does so many FLOPs a second."""
        engine, side_px = self._engine(1.0), MEASURED_PX[self._device.torch_device.type]  # it is not kept
        seconds = seconds_of(lambda: engine.upscale(noise(side_px), NullProgress()))
        self._cost = flops_per_second * seconds / engine.flops(side_px, side_px)

    def _at(self, denoise: float) -> SuperResolver:
        return SuperResolver.of({SCALE: _Rated(self._engine(denoise), lambda: self._cost)}, self._device)

    def _engine(self, denoise: float) -> Engine:
        network = partial(self._weights_at, denoise), convolutions_of(self._weights)
        if runs_winograd(self._device):
            return WinogradSrvgg(*network, self._device.memory_bytes, torch.get_num_threads())
        return SrvggEngine(*network, self._device)

    def _weights_at(self, denoise: float) -> Weights:
        return self._weights if self._weak is None or denoise == 1 else mixed(self._weights, self._weak, denoise)


class _Rated:
    """An engine of which each FLOP counts as so many."""

    def __init__(self, engine: Engine, cost: Callable[[], float]) -> None:
        self._engine, self._cost = engine, cost
        self.name = engine.name
        self.memory_bytes, self.run_once = engine.memory_bytes, engine.run_once

    @property
    def shortages(self) -> int:
        return self._engine.shortages

    def flops(self, height: int, width: int) -> float:
        return self._engine.flops(height, width) * self._cost()

    def upscale(self, image: Image, progress: Progress) -> Image:
        return self._engine.upscale(image, _Scaled(progress, self._cost()))


class _Scaled:
    """Progress of an engine of which each FLOP counts as so many."""

    def __init__(self, progress: Progress, cost: float) -> None:
        self._progress, self._cost = progress, cost
        self.clock = progress.clock

    def advance(self, work: float) -> None:
        self._progress.advance(work * self._cost)

    def add_work(self, work: float) -> None:
        self._progress.add_work(work * self._cost)
