"""RRDBNet on one image: super-resolution by 2 or 4, without seams, within the memory that there is."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from typing import cast

import cv2
import numpy as np
import torch
from basicsr.archs.rrdbnet_arch import ResidualDenseBlock, RRDBNet
from torch import Tensor
from torch.nn import functional as F

from core.progress import NullProgress, Progress
from models.device import Device, Image
from models.device_faults import is_out_of_memory
from models.process import return_freed_memory

logger = logging.getLogger(__name__)

UPSAMPLER_TILE_PX = 128  # side of a tile of the upsampler, in pixels of the features: some 100 MB at a time in bf16
UPSAMPLER_HALO_PX = 2  # its four 3×3 convolutions reach 1/2 + 1/4 + 1/4 + 1/4 of a feature pixel, after nearest upsampling
BODY_HALO_PX = 32  # the body reaches some 350 px, so no pad is exact; this one keeps a tiled photograph above 40 dB
BODY_MIN_TILE_PX = 96  # with its halo: below, the halo is most of the work
# Live per feature pixel: what a convolution reads, writes and rearranges, at 16 times as many.
UPSAMPLER_CHANNELS = 3 * 64 * 16
BODY_CHANNELS = 850  # live per pixel in the body at its peak, as counted: residuals (fp32, so twice), growth, copies by `cat`
FLOPS_PER_BLOCK_PX = 2 * 718_848  # of one block of RRDBNet, per pixel of the features, multiply and add counted apart
FLOPS_AROUND_BLOCKS_PX = 2 * 38_592  # of the convolutions before and after the blocks
FLOPS_UPSAMPLER_PX = 2 * 1_354_752  # of the last four


class _Uncounted(NullProgress):
    """Of a pass that is run again: it may be stopped, and its work is counted already."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def advance(self, work: float) -> None:
        """Let the task be stopped here."""
        self._progress.advance(0.0)


class _NonFiniteError(ArithmeticError):
    """The model overflowed in a narrow precision."""


def build_rrdbnet(state_dict: Mapping[str, Tensor], scale: int) -> RRDBNet:
    """RRDBNet with as many blocks as are there, 23 or (anime) 6, loaded strictly. `scale` is 4, or 2 for x2plus."""
    blocks = len({name.split(".")[1] for name in state_dict if name.startswith("body.")})
    rrdbnet = RRDBNet(num_in_ch=3, num_out_ch=3, scale=scale, num_feat=64, num_block=blocks, num_grow_ch=32)
    rrdbnet.load_state_dict(state_dict, strict=True)
    return rrdbnet.eval().requires_grad_(False)


class SuperResolver:
    """Super-resolves one image at a time, without seams.

    Why the result equals that of the untiled model, bit for bit: the body, whose receptive field is wider than any pad,
    always sees the whole image, at 64 channels and the input's size. What needs memory is the upsampler, which works at 16
    times as many pixels; but it only reaches two feature pixels far, so it runs in tiles with a halo of two, and each tile
    goes to the uint8 result at once. The body is tiled only where `device.memory_bytes` is too small for it.
    """

    def __init__(self, models: Mapping[int, RRDBNet], device: Device) -> None:
        """`models` maps 4 to x4plus, or its kin, and, where it is there, 2 to x2plus."""
        self.device = device
        self.shortages = 0  # how often a pass ran out of memory: its tiles, and so its bytes, are not the usual ones
        self._originals = models  # in fp32, for the images that overflow in a narrower precision
        self._models = {scale: self._prepare(rrdbnet, device.dtype) for scale, rrdbnet in models.items()}

    def flops(self, height: int, width: int, scale: int) -> float:
        """Work of one pass over an image of that size, as `progress` will add it up."""
        if scale == 2 and 2 in self._models:  # x2plus works on a pixel-unshuffled half
            height, width = -(-height // 2), -(-width // 2)
        return flops_per_feature_px(len(self._models.get(scale, self._models[4]).body)) * height * width

    def memory_bytes(self, height: int, width: int, scale: int) -> int:
        """What one pass over an image of that size takes at its peak, beside the models, to a factor of two."""
        if scale == 2 and 2 in self._models:
            height, width = -(-height // 2), -(-width // 2)
        pixel_count, bytes_per_channel = height * width, self.device.dtype.itemsize
        body_px = min(pixel_count, self._body_tile_px(pixel_count, bytes_per_channel) ** 2)
        upsampler_px = min(pixel_count, (UPSAMPLER_TILE_PX + 2 * UPSAMPLER_HALO_PX) ** 2)
        live_channels = max(body_px * BODY_CHANNELS, upsampler_px * UPSAMPLER_CHANNELS)
        return _kept_bytes(pixel_count, bytes_per_channel) + live_channels * bytes_per_channel

    def super_resolve(self, image: Image, scale: int, progress: Progress) -> Image:
        """Enlarge an image by 2 or 4.

        Args:
            image: uint8 `(h, w, 3)` RGB or `(h, w)` gray, 0–255, any size from 1×1.
            scale: 2 or 4. Without x2plus, 2 is x4plus halved by Lanczos, as `RealESRGANer.enhance(outscale=2)` does.
            progress: told of each convolution of the body and each tile of the upsampler; what it raises ends the pass.

        Returns:
            uint8 `(h * scale, w * scale, 3)` or `(h * scale, w * scale)`.
        """
        if image.ndim == 2:
            rgb = cast(Image, cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
            return cast(Image, cv2.cvtColor(self.super_resolve(rgb, scale, progress), cv2.COLOR_RGB2GRAY))
        native = scale if scale in self._models else 4
        try:
            result = self._run(self._models[native], image, progress)
        except _NonFiniteError:
            logger.warning("%s overflowed in %s; the pass is run again in fp32", f"x{native}plus", self.device.precision)
            fp32 = self._prepare(self._originals[native], torch.float32)
            result = self._run(fp32, image, _Uncounted(progress))
        return_freed_memory()
        if native == scale:
            return result
        height, width = image.shape[:2]
        return cast(Image, cv2.resize(result, (width * scale, height * scale), interpolation=cv2.INTER_LANCZOS4))

    def _prepare(self, rrdbnet: RRDBNet, dtype: torch.dtype) -> RRDBNet:
        copied = copy.deepcopy(rrdbnet)
        copied.to(self.device.torch_device, dtype, memory_format=torch.channels_last)
        copied.conv_first.float()
        return copied

    @torch.inference_mode()
    def _run(self, rrdbnet: RRDBNet, image: Image, progress: Progress) -> Image:
        height, width = image.shape[:2]
        batch = _to_batch(image, self.device.torch_device, rrdbnet.scale)
        features = self._features(rrdbnet, batch, progress)
        result = torch.empty((features.shape[2] * 4, features.shape[3] * 4, 3), dtype=torch.uint8)
        for tile, padded, inner in _tiles(features.shape[2], features.shape[3], UPSAMPLER_TILE_PX, UPSAMPLER_HALO_PX):
            rendered = _upsample(rrdbnet, features[:, :, *padded])[:, :, *_times(inner, 4)]
            result[_times(tile, 4)] = _to_uint8(rendered).cpu()
            progress.advance(FLOPS_UPSAMPLER_PX * rendered.shape[2] * rendered.shape[3] / 16)
        return result.numpy()[: height * rrdbnet.scale, : width * rrdbnet.scale]

    def _features(self, rrdbnet: RRDBNet, batch: Tensor, progress: Progress) -> Tensor:
        """The body, on the whole image if memory allows, else in tiles as large as memory allows."""
        unshuffled = F.pixel_unshuffle(batch, 2) if rrdbnet.scale == 2 else batch
        height, width = unshuffled.shape[2:]
        tile_px = self._body_tile_px(height * width, rrdbnet.conv_body.weight.element_size())
        while True:
            try:
                if height * width <= tile_px**2:
                    return _body(rrdbnet, unshuffled, progress)
                return _tiled_body(rrdbnet, unshuffled, tile_px, progress)
            except RuntimeError as exc:
                if not is_out_of_memory(exc) or tile_px <= BODY_MIN_TILE_PX:
                    raise
                tile_px = max(min(tile_px, max(height, width)) // 2, BODY_MIN_TILE_PX)
                self.shortages += 1
                logger.warning("out of memory on %s; again in tiles of %d px", self.device, tile_px)

    def _body_tile_px(self, pixel_count: int, bytes_per_channel: int) -> int:
        """Side of the largest square whose body fits into memory beside what is kept of all pixels: features and result."""
        free_bytes = max(self.device.memory_bytes - _kept_bytes(pixel_count, bytes_per_channel), 0)
        return max(int((free_bytes / (BODY_CHANNELS * bytes_per_channel)) ** 0.5), BODY_MIN_TILE_PX)


def _kept_bytes(pixel_count: int, bytes_per_channel: int) -> int:
    """Features, twice, and the result, of all pixels."""
    return pixel_count * (2 * 64 * bytes_per_channel + 3 * 4 * 4)


Region = tuple[slice, slice]


def _tiles(height: int, width: int, tile_px: int, halo_px: int) -> Iterator[tuple[Region, Region, Region]]:
    """Cut a plane into tiles: each one's region, the region padded by the halo, and the first within the second."""
    for top in range(0, height, tile_px):
        for left in range(0, width, tile_px):
            bottom, right = min(top + tile_px, height), min(left + tile_px, width)
            pad_top, pad_left = max(top - halo_px, 0), max(left - halo_px, 0)
            padded = (slice(pad_top, min(bottom + halo_px, height)), slice(pad_left, min(right + halo_px, width)))
            inner = (slice(top - pad_top, bottom - pad_top), slice(left - pad_left, right - pad_left))
            yield (slice(top, bottom), slice(left, right)), padded, inner


def _times(region: Region, factor: int) -> Region:
    rows, columns = region
    return slice(rows.start * factor, rows.stop * factor), slice(columns.start * factor, columns.stop * factor)


def _to_batch(image: Image, device: torch.device, scale: int) -> Tensor:
    """uint8 `(h, w, 3)` RGB to fp32 `(1, 3, h, w)` in 0–1 on the device, padded to even for x2plus."""
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(device)
    batch = pixels.permute(2, 0, 1)[None].float() / 255
    if scale == 2:
        height, width = image.shape[:2]
        mode = "reflect" if min(height, width) > 1 else "replicate"  # reflection needs a second pixel to mirror
        batch = F.pad(batch, (0, width % 2, 0, height % 2), mode)
    return batch.contiguous(memory_format=torch.channels_last)


def flops_per_feature_px(blocks: int) -> float:
    """Work of RRDBNet with so many blocks, for one pixel of its features."""
    return float(FLOPS_PER_BLOCK_PX * blocks + FLOPS_AROUND_BLOCKS_PX + FLOPS_UPSAMPLER_PX)


def _body(rrdbnet: RRDBNet, batch: Tensor, progress: Progress) -> Tensor:
    """The beginning of RRDBNet: `(1, 3 or 12, h, w)` in fp32 to `(1, 64, h, w)` features.

    Pixels, and what is between two blocks, are in fp32 always: rounded to bf16, 25 times, they cost up to 2.5 dB.
    """
    dtype = rrdbnet.conv_body.weight.dtype
    shallow = rrdbnet.conv_first(batch)
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


def _tiled_body(rrdbnet: RRDBNet, batch: Tensor, tile_px: int, progress: Progress) -> Tensor:
    height, width = batch.shape[2:]
    dtype = rrdbnet.conv_body.weight.dtype
    features = batch.new_empty((1, height, width, 64), dtype=dtype).permute(0, 3, 1, 2)  # channels_last
    for tile, padded, inner in _tiles(height, width, tile_px - 2 * BODY_HALO_PX, BODY_HALO_PX):
        features[:, :, *tile] = _body(rrdbnet, batch[:, :, *padded], progress)[:, :, *inner]
    return features


def _upsample(rrdbnet: RRDBNet, features: Tensor) -> Tensor:
    """The end of RRDBNet: `(1, 64, h, w)` features to `(1, 3, 4h, 4w)` RGB around 0–1."""
    for convolution in (rrdbnet.conv_up1, rrdbnet.conv_up2):
        features = rrdbnet.lrelu(convolution(F.interpolate(features, scale_factor=2, mode="nearest")))
    return cast(Tensor, rrdbnet.conv_last(rrdbnet.lrelu(rrdbnet.conv_hr(features))))


def _to_uint8(rendered: Tensor) -> Tensor:
    """`(1, 3, h, w)` around 0–1 to uint8 `(h, w, 3)`, rounded as the reference does."""
    if not bool(torch.isfinite(rendered).all()):  # what overflowed in the body has come through to here
        raise _NonFiniteError
    return rendered[0].permute(1, 2, 0).float().clamp_(0, 1).mul_(255).round_().to(torch.uint8)
