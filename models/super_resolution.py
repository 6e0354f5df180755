"""Super-resolution of one image by 2 or 4, whatever engine runs the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import cv2
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet

from core.progress import Progress
from models.device import Device, Image
from models.engines import winograd
from models.engines.torch_engine import TorchEngine
from models.process import return_freed_memory


class Engine(Protocol):
    """What runs one network on one image at the network's own scale."""

    @property
    def name(self) -> str:
        """For people: what runs, and in what precision."""

    @property
    def shortages(self) -> int:
        """How often a pass ran out of memory: its tiles, and so its bytes, are not the usual ones."""

    def flops(self, height: int, width: int) -> float:
        """Work of a pass over an image of that size, as `progress` will add it up: all that the body computes."""

    def memory_bytes(self, height: int, width: int) -> int:
        """What a pass over an image of that size takes at its peak, beside the model, to a factor of two."""

    def run_once(self) -> None:
        """Do what would make a first pass slow: load libraries, choose kernels."""

    def upscale(self, image: Image, progress: Progress) -> Image:
        """RGB `(h, w, 3)`, uint8 or uint16, to `(h * scale, w * scale, 3)` of that dtype; what `progress` raises ends it."""


def runs_winograd(device: Device) -> bool:
    """Whether the engine for CPUs runs on that device."""
    return device.torch_device.type == "cpu" and device.dtype is torch.float32 and not winograd.unavailable_reason()


def build_engine(rrdbnet: RRDBNet, device: Device) -> Engine:
    """The fastest engine for the network on that device."""
    if runs_winograd(device):
        return winograd.WinogradEngine(rrdbnet, device.memory_bytes, torch.get_num_threads())
    return TorchEngine(rrdbnet, device)


class SuperResolver:
    """Super-resolves one image at a time, without seams."""

    def __init__(self, models: Mapping[int, RRDBNet], device: Device) -> None:
        """`models` maps 4 to x4plus, or its kin, and, where it is there, 2 to x2plus."""
        self.device = device
        self._engines = {scale: build_engine(rrdbnet, device) for scale, rrdbnet in models.items()}

    @classmethod
    def of(cls, engines: Mapping[int, Engine], device: Device) -> SuperResolver:
        """By engines that are there, one of them for 4."""
        resolver = cls({}, device)
        resolver._engines = dict(engines)
        return resolver

    @property
    def engine(self) -> str:
        """For people: what runs, and in what precision."""
        return self._engines[4].name

    @property
    def shortages(self) -> int:
        """How often a pass ran out of memory: its tiles, and so its bytes, are not the usual ones."""
        return sum(engine.shortages for engine in self._engines.values())

    def run_once(self) -> None:
        """Do what would make the first pass of any of the networks slow."""
        for engine in self._engines.values():
            engine.run_once()

    def flops(self, height: int, width: int, scale: int) -> float:
        """Work of one pass over an image of that size, as `progress` will add it up."""
        return self._engines[self._native(scale)].flops(height, width)

    def memory_bytes(self, height: int, width: int, scale: int) -> int:
        """What one pass over an image of that size takes at its peak, beside the models, to a factor of two."""
        return self._engines[self._native(scale)].memory_bytes(height, width)

    def super_resolve(self, image: Image, scale: int, progress: Progress) -> Image:
        """Enlarge an image by 2 or 4.

        Args:
            image: uint8 or uint16, `(h, w, 3)` RGB or `(h, w)` gray, any size from 1×1.
            scale: 2 or 4. Without x2plus, 2 is x4plus halved by Lanczos, as `RealESRGANer.enhance(outscale=2)` does.
            progress: told of each step that is done; what it raises ends the pass.

        Returns:
            `(h * scale, w * scale, 3)` or `(h * scale, w * scale)` of the same dtype.
        """
        if image.ndim == 2:
            rgb = cast(Image, cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
            return cast(Image, cv2.cvtColor(self.super_resolve(rgb, scale, progress), cv2.COLOR_RGB2GRAY))
        native = self._native(scale)
        result = self._engines[native].upscale(image, progress)
        return_freed_memory()
        if native == scale:
            return result
        height, width = image.shape[:2]
        return cast(Image, cv2.resize(result, (width * scale, height * scale), interpolation=cv2.INTER_LANCZOS4))

    def _native(self, scale: int) -> int:
        """The scale of the network that a pass takes."""
        return scale if scale in self._engines else 4
