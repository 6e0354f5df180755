"""SRVGGNetCompact, the network of the fast models: built from its weights, what it costs, and its engine on torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from realesrgan.archs.srvgg_arch import SRVGGNetCompact
from torch import Tensor
from torch.nn import functional as F

from core.progress import NullProgress, Progress
from models.device import Device, Image, noise
from models.device_faults import is_out_of_memory
from models.engines.tiles import computed_px, tiles, times
from models.engines.torch_engine import WIDE, NonFiniteError, Uncounted, paced_on_gpu, to_batch, to_host

logger = logging.getLogger(__name__)

Weights = Mapping[str, Tensor]

SCALE = 4
FIRST_FLOPS_PX, MIDDLE_FLOPS_PX, LAST_FLOPS_PX = (2 * 9 * count for count in (3 * 64, 64 * 64, 64 * 48))  # of a convolution
TILE_PX = 1024  # side of a tile; the halo around it is work, and what is alive in it is memory
MIN_TILE_PX = 64
LIVE_CHANNELS = 4 * 64  # per pixel of a tile: what a layer reads, writes and rearranges
FIRST_PX = 64  # side of the picture of a first pass


def convolutions_of(weights: Weights) -> int:
    """How many convolutions the network has; a pixel of its result depends on those that are so many pixels away."""
    return sum(weight.ndim == 4 for weight in weights.values())


def build_srvggnet(weights: Weights) -> SRVGGNetCompact:
    """SRVGGNetCompact with as many convolutions as are there, 34 (general) or 18 (anime), loaded strictly."""
    with torch.device("meta"):
        network = SRVGGNetCompact(num_conv=convolutions_of(weights) - 2, upscale=SCALE, act_type="prelu")
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def mixed(first: Weights, second: Weights, share: float) -> Weights:
    """Weights between those of two networks, with that share of the first, as `RealESRGANer.dni` mixes them."""
    return {name: share * weight + (1 - share) * second[name] for name, weight in first.items()}


def flops(convolutions: int, pixels: int) -> float:
    """Work of a network with so many convolutions on so many pixels."""
    return float(FIRST_FLOPS_PX + MIDDLE_FLOPS_PX * (convolutions - 2) + LAST_FLOPS_PX) * pixels


class SrvggEngine:
    """One SRVGGNetCompact on torch.

    A large image runs in tiles with a halo of all that the network reaches, so they leave no trace: on a CPU not in a bit; a
    GPU may choose another kernel for a tile, and round otherwise.
    """

    def __init__(self, weights: Callable[[], Weights], convolutions: int, device: Device) -> None:
        """`weights` is asked at the first pass: a network that nobody uses stays small."""
        self.name = f"torch {device.precision}"
        self.shortages = 0  # how often a pass ran out of memory: its tiles are not the usual ones
        self._weights = weights
        self._convolutions = convolutions
        self._device = device
        self._network: SRVGGNetCompact | None = None

    def flops(self, height: int, width: int) -> float:
        """Work of a pass over an image of that size, as `progress` will add it up, halos included."""
        pixels = computed_px((height, width), self._tile_px(height, width), self._convolutions, (1, 1))
        return flops(self._convolutions, pixels)

    def memory_bytes(self, height: int, width: int) -> int:
        """What a pass over an image of that size takes at its peak, beside the model, to a factor of two."""
        side_px = self._tile_px(height, width) + 2 * self._convolutions
        tile_px = min(height, side_px) * min(width, side_px)
        return kept_bytes(height, width) + tile_px * LIVE_CHANNELS * self._device.dtype.itemsize

    def run_once(self) -> None:
        """One pass over a small picture: libraries load, and kernels are chosen."""
        self.upscale(noise(FIRST_PX), NullProgress())

    def upscale(self, image: Image, progress: Progress) -> Image:
        """Enlarge an image by 4.

        Args:
            image: uint8 or uint16 RGB `(h, w, 3)`, any size from 1×1.
            progress: told of each convolution of each tile when it has run; what it raises ends the pass.

        Returns:
            `(h * 4, w * 4, 3)` of the same dtype.
        """
        if self._network is None:
            self._network = self._prepare(self._device.dtype)
        with self._device.current():
            try:
                return self._run(self._network, image, progress)
            except NonFiniteError:
                logger.warning("a pass overflowed in %s; it is run again in fp32", self._device.precision)
                return self._run(self._prepare(torch.float32), image, Uncounted(progress))

    def _prepare(self, dtype: torch.dtype) -> SRVGGNetCompact:
        network = build_srvggnet(self._weights())
        return network.to(self._device.torch_device, dtype, memory_format=torch.channels_last)

    def _run(self, network: SRVGGNetCompact, image: Image, progress: Progress) -> Image:
        tile_px = self._tile_px(*image.shape[:2])
        while True:
            try:
                return self._tiled(network, image, tile_px, progress)
            except RuntimeError as exc:
                if not is_out_of_memory(exc) or tile_px <= MIN_TILE_PX:
                    raise
            tile_px = max(min(tile_px, max(image.shape[:2])) // 2, MIN_TILE_PX)
            self.shortages += 1
            logger.warning("out of memory on %s; again in tiles of %d px", self._device, tile_px)
            self._device.release_cached_memory()

    @torch.inference_mode()
    def _tiled(self, network: SRVGGNetCompact, image: Image, tile_px: int, progress: Progress) -> Image:
        height, width = image.shape[:2]
        pixels = to_batch(image, self._device.torch_device)
        if paced := paced_on_gpu(pixels, progress, self.flops(height, width)):
            progress = paced
        dtype = torch.uint8 if image.dtype == np.uint8 else WIDE
        result = torch.empty((height * SCALE, width * SCALE, 3), dtype=dtype, device=pixels.device)
        finite = torch.ones((), dtype=torch.bool, device=pixels.device)
        for tile, padded, inner in tiles(height, width, tile_px, self._convolutions):
            residual = _residual(network, pixels[:, :, *padded], progress)[:, :, *inner]
            finite &= torch.isfinite(residual).all()
            levels = _rendered(network, residual, pixels[:, :, *tile], np.iinfo(image.dtype).max)
            result[times(tile, SCALE)] = levels.to(torch.int32).to(dtype)
        if paced:
            paced.drain()
        if not finite:
            raise NonFiniteError
        return to_host(result).view(image.dtype)

    def _tile_px(self, height: int, width: int) -> int:
        """Side of a tile, without its halo: that of all machines with enough memory, so that they give the same bytes."""
        free_bytes = max(self._device.memory_bytes - kept_bytes(height, width), 0)
        side_px = int((free_bytes / (LIVE_CHANNELS * self._device.dtype.itemsize)) ** 0.5)
        return min(max(side_px - 2 * self._convolutions, MIN_TILE_PX), TILE_PX)


def kept_bytes(height: int, width: int) -> int:
    """Image, in floats too, and result, of all pixels."""
    return height * width * 3 * (SCALE**2 + 1 + 4)


def _residual(network: SRVGGNetCompact, pixels: Tensor, progress: Progress) -> Tensor:
    """What the network adds to enlarged pixels, before they are shuffled: `(1, 48, h, w)`."""
    features = pixels.to(network.body[0].weight.dtype)
    for layer in network.body:
        features = layer(features)
        if isinstance(layer, torch.nn.Conv2d):
            progress.advance(2.0 * layer.weight.numel() * pixels.shape[2] * pixels.shape[3])
    return features


def _rendered(network: SRVGGNetCompact, residual: Tensor, pixels: Tensor, full: int) -> Tensor:
    """The end of SRVGGNetCompact: fp32 `(4h, 4w, 3)` of whole numbers from 0 to `full`."""
    sums = network.upsampler(residual).float() + F.interpolate(pixels, scale_factor=SCALE, mode="nearest")
    return cast(Tensor, sums[0].permute(1, 2, 0).clamp_(0, 1).mul_(full).round_())
