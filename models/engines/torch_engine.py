"""RRDBNet on torch: on a GPU in fp16, and in fp32 on a CPU that the engine of our own is not for."""

from __future__ import annotations

import copy
import logging
from typing import cast

import numpy as np
import torch
from basicsr.archs.rrdbnet_arch import ResidualDenseBlock, RRDBNet
from torch import Tensor
from torch.nn import functional as F

from core.progress import NullProgress, Progress
from models.device import Device, Image, noise
from models.device_faults import is_out_of_memory
from models.engines.fused import UNIT_PX, FusedNetwork, build_fused
from models.engines.pace import Paced
from models.engines.rrdbnet import FLOPS_AROUND_BLOCKS_PX, FLOPS_UPSAMPLER_PX, feature_size, flops
from models.engines.tiles import BODY_HALO_PX, BODY_MIN_TILE_PX, computed_px, tiles, times

logger = logging.getLogger(__name__)

UPSAMPLER_TILE_PX = {"cpu": 128, "cuda": 256}  # side of a tile of the upsampler, in pixels of the features
UPSAMPLER_MIN_TILE_PX = 32
UPSAMPLER_HALO_PX = 2  # its four 3×3 convolutions reach 1/2 + 1/4 + 1/4 + 1/4 of a feature pixel, after nearest upsampling
# Live per feature pixel: what a convolution reads, writes and rearranges, at 16 times as many.
UPSAMPLER_CHANNELS = 3 * 64 * 16
BODY_CHANNELS = 850  # live per pixel in the body at its peak, as counted: residuals (fp32, so twice), growth, copies by `cat`
FIRST_PX = 64  # side of the picture of a first pass
WIDE = torch.int16  # holds uint16, which torch has not everywhere: 65535 as -1
BODY_MOST_PX = 2**31 // 192  # of one tile: beyond it, a tensor has more elements than cuDNN's kernels count in 32 bits


class Uncounted(NullProgress):
    """Of a pass that is run again: it may be stopped, and its work is counted already."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def advance(self, work: float) -> None:
        """Let the task be stopped here."""
        self._progress.advance(0.0)


class NonFiniteError(ArithmeticError):
    """The model overflowed in a narrow precision."""


class TorchEngine:
    """One RRDBNet on torch, on whole images, without seams.

    Why tiles leave no trace: the body, whose receptive field is wider than any pad, always sees the whole image, at 64
    channels and the input's size. What needs memory is the upsampler, which works at 16 times as many pixels; but it only
    reaches two feature pixels far, so it runs in tiles with a halo of two, and each tile goes to the result at once. On
    a CPU the result equals that of the untiled model bit for bit; a GPU may choose another kernel for a tile, and round
    otherwise. The body is tiled only where `device.memory_bytes` is too small for it.
    """

    def __init__(self, rrdbnet: RRDBNet, device: Device, *, fused: bool = True) -> None:
        """`fused` lets a GPU that can run the kernels of our own; without, torch's run everywhere."""
        self.shortages = 0  # how often a pass ran out of memory: its tiles, and so its bytes, are not the usual ones
        self._device = device
        self._original = rrdbnet  # in fp32, for the images that overflow in a narrower precision
        self._rrdbnet = self._prepare(device.dtype)
        self._fused = build_fused(self._rrdbnet, device) if fused else None

    @property
    def name(self) -> str:
        """For people: what runs, and in what precision."""
        return f"{'fused kernels' if self._fused else 'torch'} {self._device.precision}"

    def flops(self, height: int, width: int) -> float:
        """Work of a pass over an image of that size, as `progress` will add it up: all that the body computes."""
        height, width = feature_size(height, width, self._original.scale)
        tile_px = self._body_tile_px(height * width, self._device.dtype.itemsize)
        tile, halo = (max(height, width), 0) if height * width <= tile_px**2 else (tile_px - 2 * BODY_HALO_PX, BODY_HALO_PX)
        body_px = computed_px((height, width), tile, halo, UNIT_PX if self._fused else (1, 1))
        return flops(len(self._original.body), body_px, height * width)

    def memory_bytes(self, height: int, width: int) -> int:
        """What a pass over an image of that size takes at its peak, beside the model, to a factor of two."""
        height, width = feature_size(height, width, self._original.scale)
        pixel_count, bytes_per_channel = height * width, self._device.dtype.itemsize
        body_px = min(pixel_count, self._body_tile_px(pixel_count, bytes_per_channel) ** 2)
        upsampler_tile_px = UPSAMPLER_TILE_PX[self._device.torch_device.type]
        upsampler_px = min(pixel_count, (upsampler_tile_px + 2 * UPSAMPLER_HALO_PX) ** 2)
        live_channels = max(body_px * BODY_CHANNELS, upsampler_px * UPSAMPLER_CHANNELS)
        return _kept_bytes(pixel_count, bytes_per_channel) + live_channels * bytes_per_channel

    def run_once(self) -> None:
        """One pass over a small picture: libraries load, and kernels are chosen."""
        self.upscale(noise(FIRST_PX), NullProgress())

    def upscale(self, image: Image, progress: Progress) -> Image:
        """Enlarge an image by the network's own scale.

        Args:
            image: uint8 or uint16 `(h, w, 3)` RGB, any size from 1×1.
            progress: told of each convolution of the body and each tile of the upsampler when it has run; what it raises
                ends the pass.

        Returns:
            `(h * scale, w * scale, 3)` of the same dtype.
        """
        with self._device.current():
            try:
                return self._run(self._rrdbnet, self._fused, image, progress)
            except NonFiniteError:
                logger.warning("a pass overflowed in %s; it is run again in fp32", self._device.precision)
                return self._run(self._prepare(torch.float32), None, image, Uncounted(progress))

    def _prepare(self, dtype: torch.dtype) -> RRDBNet:
        copied = copy.deepcopy(self._original)
        copied.to(self._device.torch_device, dtype, memory_format=torch.channels_last)
        copied.conv_first.float()
        return copied

    @torch.inference_mode()
    def _run(self, rrdbnet: RRDBNet, fused: FusedNetwork | None, image: Image, progress: Progress) -> Image:
        height, width = image.shape[:2]
        batch = _to_batch(image, self._device.torch_device, rrdbnet.scale)
        if paced := paced_on_gpu(batch, progress, self.flops(batch.shape[2], batch.shape[3])):
            progress = paced
        features = self._features(rrdbnet, fused, batch, progress)
        is_wide = image.dtype == np.uint16
        # Our kernels write bytes.
        result, finite = self._upsampled(
            rrdbnet, None if is_wide else fused, features, progress, WIDE if is_wide else torch.uint8
        )
        if paced:
            paced.drain()
        if not finite:
            raise NonFiniteError
        return to_host(result[: height * rrdbnet.scale, : width * rrdbnet.scale]).view(image.dtype)

    def _features(self, rrdbnet: RRDBNet, fused: FusedNetwork | None, batch: Tensor, progress: Progress) -> Tensor:
        """The body, on the whole image if memory allows, else in tiles as large as memory allows."""
        unshuffled = F.pixel_unshuffle(batch, 2) if rrdbnet.scale == 2 else batch
        height, width = unshuffled.shape[2:]
        tile_px = self._body_tile_px(height * width, rrdbnet.conv_body.weight.element_size())
        while True:
            try:
                if height * width <= tile_px**2:
                    return _body(rrdbnet, fused, unshuffled, progress)
                return _tiled_body(rrdbnet, fused, unshuffled, tile_px, progress)
            except RuntimeError as exc:
                if not is_out_of_memory(exc) or tile_px <= BODY_MIN_TILE_PX:
                    raise
            tile_px = max(min(tile_px, max(height, width)) // 2, BODY_MIN_TILE_PX)
            self._note_shortage(tile_px)

    def _upsampled(
        self, rrdbnet: RRDBNet, fused: FusedNetwork | None, features: Tensor, progress: Progress, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The upsampler, in tiles: `(4h, 4w, 3)`, and whether all of it was finite, a bool of no dimension."""
        height, width = features.shape[2:]
        tile_px = UPSAMPLER_TILE_PX[self._device.torch_device.type]
        result = torch.empty((height * 4, width * 4, 3), dtype=dtype, device=features.device)
        while True:
            finite = torch.ones((), dtype=torch.bool, device=features.device)
            try:
                for tile, padded, inner in tiles(height, width, tile_px, UPSAMPLER_HALO_PX):
                    upsampled, tile_finite = (
                        fused.upsample(features[:, :, *padded])
                        if fused
                        else _upsample(rrdbnet, features[:, :, *padded], dtype)
                    )
                    finite &= tile_finite  # what overflowed in the body has come through to here
                    part = result[times(tile, 4)]
                    part.copy_(upsampled[times(inner, 4)])
                    progress.advance(FLOPS_UPSAMPLER_PX * part.shape[0] * part.shape[1] / 16)
            except RuntimeError as exc:
                if not is_out_of_memory(exc) or tile_px <= UPSAMPLER_MIN_TILE_PX:
                    raise
            else:
                return result, finite
            tile_px //= 2
            self._note_shortage(tile_px)

    def _note_shortage(self, tile_px: int) -> None:
        self.shortages += 1
        logger.warning("out of memory on %s; again in tiles of %d px", self._device, tile_px)
        self._device.release_cached_memory()

    def _body_tile_px(self, pixel_count: int, bytes_per_channel: int) -> int:
        """Side of the largest square whose body fits into memory beside what is kept of all pixels: features and result."""
        free_bytes = max(self._device.memory_bytes - _kept_bytes(pixel_count, bytes_per_channel), 0)
        most_px = min(free_bytes / (BODY_CHANNELS * bytes_per_channel), BODY_MOST_PX)
        return max(int(most_px**0.5), BODY_MIN_TILE_PX)


def paced_on_gpu(batch: Tensor, progress: Progress, pass_work: float) -> Paced | None:
    """On a GPU, progress that counts what has run and not what is queued."""
    if not batch.is_cuda:
        return None

    def record() -> torch.cuda.Event:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    return Paced(progress, record, pass_work)


def _kept_bytes(pixel_count: int, bytes_per_channel: int) -> int:
    """Features, twice, and the result, of all pixels."""
    return pixel_count * (2 * 64 * bytes_per_channel + 3 * 4 * 4)


def to_batch(image: Image, device: torch.device) -> Tensor:
    """`(h, w, 3)` RGB to fp32 `(1, 3, h, w)` in 0–1 on the device."""
    levels = image if image.dtype == np.uint8 else image.astype(np.float32)  # torch computes little in uint16
    pixels = torch.from_numpy(np.require(levels, requirements=["C", "W"])).to(device)
    batch = pixels.permute(2, 0, 1)[None].float() / np.iinfo(image.dtype).max
    return batch.contiguous(memory_format=torch.channels_last)


def _to_batch(image: Image, device: torch.device, scale: int) -> Tensor:
    """The same, padded to even for x2plus."""
    batch = to_batch(image, device)
    if scale == 2:
        height, width = image.shape[:2]
        mode = "reflect" if min(height, width) > 1 else "replicate"  # reflection needs a second pixel to mirror
        batch = F.pad(batch, (0, width % 2, 0, height % 2), mode)
    return batch.contiguous(memory_format=torch.channels_last)


def _body(rrdbnet: RRDBNet, fused: FusedNetwork | None, batch: Tensor, progress: Progress) -> Tensor:
    """The beginning of RRDBNet: `(1, 3 or 12, h, w)` in fp32 to `(1, 64, h, w)` features.

    Pixels, and what is between two blocks, are in fp32 always: rounded 25 times, they would cost quality.
    """
    dtype = rrdbnet.conv_body.weight.dtype
    shallow = rrdbnet.conv_first(batch)
    if fused:
        return fused.body(shallow, progress)
    features = shallow
    for block in rrdbnet.body:
        dense = features.to(dtype)
        for dense_block in (block.rdb1, block.rdb2, block.rdb3):
            dense = _dense_block(dense_block, dense, progress)
        features = dense.mul_(0.2) + features  # as RRDB.forward does
    result = shallow + rrdbnet.conv_body(features.to(dtype))
    progress.advance(FLOPS_AROUND_BLOCKS_PX * batch.shape[2] * batch.shape[3])
    return cast(Tensor, result).to(dtype)


def _dense_block(block: ResidualDenseBlock, features: Tensor, progress: Progress) -> Tensor:
    """What ResidualDenseBlock.forward does, with a step after each convolution: of a large picture, each takes seconds."""
    flops_per_weight = 2.0 * features.shape[2] * features.shape[3]
    grown = features
    for convolution in (block.conv1, block.conv2, block.conv3, block.conv4):
        grown = torch.cat((grown, block.lrelu(convolution(grown))), 1)
        progress.advance(flops_per_weight * convolution.weight.numel())
    result = block.conv5(grown)
    progress.advance(flops_per_weight * block.conv5.weight.numel())
    return cast(Tensor, result.mul_(0.2).add_(features))


def _tiled_body(rrdbnet: RRDBNet, fused: FusedNetwork | None, batch: Tensor, tile_px: int, progress: Progress) -> Tensor:
    height, width = batch.shape[2:]
    dtype = rrdbnet.conv_body.weight.dtype
    features = batch.new_empty((1, height, width, 64), dtype=dtype).permute(0, 3, 1, 2)  # channels_last
    for tile, padded, inner in tiles(height, width, tile_px - 2 * BODY_HALO_PX, BODY_HALO_PX):
        features[:, :, *tile] = _body(rrdbnet, fused, batch[:, :, *padded], progress)[:, :, *inner]
    return features


def _upsample(rrdbnet: RRDBNet, features: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The end of RRDBNet: `(1, 64, h, w)` features to `(4h, 4w, 3)` RGB, and whether all was finite."""
    for convolution in (rrdbnet.conv_up1, rrdbnet.conv_up2):
        features = rrdbnet.lrelu(convolution(F.interpolate(features, scale_factor=2, mode="nearest")))
    features = rrdbnet.lrelu(rrdbnet.conv_hr(features))
    if dtype is WIDE:  # fp16 has 2048 levels below 1
        last = rrdbnet.conv_last
        rendered = F.conv2d(features.float(), last.weight.float(), cast(Tensor, last.bias).float(), padding=1)
        levels = rendered[0].permute(1, 2, 0).clamp(0, 1).mul_(65535).round_().to(torch.int32)
    else:
        rendered = rrdbnet.conv_last(features)
        levels = rendered[0].permute(1, 2, 0).float().clamp_(0, 1).mul_(255).round_()
    return levels.to(dtype), torch.isfinite(rendered).all()


def to_host(result: Tensor) -> Image:
    """`(h, w, 3)` as an array; from a GPU through page-locked memory, which copies several times as fast."""
    if not result.is_cuda:
        return result.numpy()
    host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
    host.copy_(result, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return host.numpy()
