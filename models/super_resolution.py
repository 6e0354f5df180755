"""The networks: which device they run on, in what precision, and how one array is super-resolved by 2 or 4.

Nothing here knows requests, files other than weights, or faces. Only the device's own thread may call into a loaded network.
"""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import logging
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

# Read when torch loads OpenMP, whose threads by default spin while they wait for each other, after each of 351 convolutions.
# As soon as anything else wants a core, an encoder of our own for one, they spin away each other's turn: beside two busy
# processes on two cores, a pass of 64×64 took 1.9–4.1 s, and 0.8–1.5 s when they wait passively (alone: 0.43 and 0.55 s).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _keep_freed_memory() -> None:
    """Let glibc's allocator keep what is freed and give it out again, until `_return_freed_memory`.

    By default it takes every large array from the kernel and gives it back, and the kernel clears each of its pages first:
    half a million in a pass of 257×257. Threads share one heap, since their own end at 64 MB, too little for a feature map.
    """
    if hasattr(_libc, "mallopt"):
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1)):
            _libc.mallopt(option, value)


def _return_freed_memory() -> None:
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


_libc = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h of glibc; musl and macOS have neither function
_keep_freed_memory()


def _map_shared_libraries() -> None:
    """Load torch's libraries, if they are where its wheel has them, without the interpreter's lock.

    `import torch` would hold it, and with it /health, for 0.3 s when the files are in memory already. A call through ctypes
    holds none.
    """
    torch_package = importlib.util.find_spec("torch")
    if sys.platform == "linux" and torch_package and torch_package.origin:
        library = Path(torch_package.origin).parent / "lib" / "libtorch.so"
        _libc.dlopen(os.fsencode(library), os.RTLD_NOW)  # where there is none, import torch does what it does


_map_shared_libraries()

import torch
import torchvision.transforms.functional as tv_functional
from torch import Tensor
from torch.nn import functional as F

# basicsr 1.4.2 imports this module, which torchvision dropped in 0.17; the one function that it takes lives on elsewhere.
_shim = types.ModuleType("torchvision.transforms.functional_tensor")
_shim.rgb_to_grayscale = tv_functional.rgb_to_grayscale  # type: ignore[attr-defined]
sys.modules.setdefault(_shim.__name__, _shim)

from basicsr.archs.rrdbnet_arch import ResidualDenseBlock, RRDBNet

from core.config import ConfigError

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

UPSAMPLER_TILE_PX = 128  # side of a tile of the upsampler, in pixels of the features: some 100 MB at a time in bf16
UPSAMPLER_HALO_PX = 2  # its four 3×3 convolutions reach 1/2 + 1/4 + 1/4 + 1/4 of a feature pixel, after nearest upsampling
BODY_HALO_PX = 32  # the body reaches some 350 px, so no pad is exact; this one keeps a tiled photograph above 40 dB
BODY_MIN_TILE_PX = 96  # with its halo: below, the halo is most of the work
UPSAMPLER_CHANNELS = (
    3 * 64 * 16
)  # live per feature pixel: what a convolution reads, writes and rearranges, at 16 times as many
BODY_CHANNELS = 850  # live per pixel in the body at its peak, as counted: residuals (fp32, so twice), growth, copies by `cat`
FLOPS_PER_BLOCK_PX = 2 * 718_848  # of one block of RRDBNet, per pixel of the features, multiply and add counted apart
FLOPS_AROUND_BLOCKS_PX = 2 * 38_592  # of the convolutions before and after the blocks
FLOPS_UPSAMPLER_PX = 2 * 1_354_752  # of the last four

Image = NDArray[np.uint8]
Advance = Callable[[float], None]
"""Called between steps with the work just done, in FLOPs; it may raise to stop the job."""


class _NonFiniteError(ArithmeticError):
    """The network overflowed in a narrow precision."""


@dataclass(frozen=True)
class Device:
    """Where and how the networks run.

    `memory_bytes` is what one pass may use, half of all that the device has: a choice that followed the momentary load would
    give the same request different bytes.
    """

    torch_device: torch.device
    dtype: torch.dtype
    memory_bytes: int
    warning: str = ""

    def allocated_bytes(self) -> int | None:
        """Memory of the GPU that tensors hold now; None on a CPU."""
        return torch.cuda.memory_allocated(self.torch_device) if self.torch_device.type == "cuda" else None

    @property
    def precision(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype is self.dtype)

    def __str__(self) -> str:
        if self.torch_device.type == "cuda":
            return f"{self.torch_device} ({torch.cuda.get_device_name(self.torch_device)})"
        return f"cpu ({torch.get_num_threads()} threads)"


def select_device(name: str = "auto", precision: str = "auto", threads: int = 0) -> Device:
    """Resolve `DEVICE`, `PRECISION` and `TORCH_THREADS` on this machine.

    Raises:
        ConfigError: the device named is not there.
    """
    if threads:
        torch.set_num_threads(threads)
    unusable = _unusable_gpu_reason()
    torch_device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if torch_device.type == "cuda" and (torch_device.index or 0) >= torch.cuda.device_count():
        found = f"torch finds {torch.cuda.device_count()} CUDA devices here"
        raise ConfigError(f"DEVICE={name}, but {found}. {unusable}".rstrip())
    warning = unusable if torch_device.type == "cpu" and name == "auto" else ""
    dtype = DTYPES[precision] if precision != "auto" else _native_dtype(torch_device)
    return Device(torch_device, dtype, _memory_bytes(torch_device) // 2, warning)


def _unusable_gpu_reason(driver: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Sentences if the machine has an NVIDIA card that torch cannot use, else the empty string."""
    if torch.cuda.is_available() or not driver.exists():
        return ""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as exc:
        reason = str(exc).splitlines()[0].rstrip(".")
    else:
        reason = "no device is visible to this process"
    return (
        "THE GRAPHICS CARD IS NOT USED, and the CPU is far slower. This machine has an NVIDIA driver, but torch "
        f"{torch.__version__} says: {reason}. The driver must support CUDA {torch.version.cuda}, and a container "
        "must be given the card (docker run --gpus all)."
    )


def _native_dtype(device: torch.device) -> torch.dtype:
    """The fastest dtype that the device computes natively: elsewhere half precision is emulated, and slower than fp32."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if capability >= (8, 0) else torch.float16 if capability >= (7, 0) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _cgroup_limit_bytes())


def _cgroup_limit_bytes() -> int:
    """The container's memory limit (cgroup v2, else v1), or a very large number where there is none."""
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if path.exists() and (text := path.read_text().strip()).isdigit():
            return int(text)
    return sys.maxsize


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read an official or a converted weights file; never executes what it holds.

    Raises:
        OSError, RuntimeError, pickle.UnpicklingError: the file is not a weights file of torch.
    """
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("params_ema", "params"):
        loaded = loaded.get(key, loaded)
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def build_rrdbnet(state_dict: Mapping[str, Tensor], network_scale: int) -> RRDBNet:
    """RRDBNet with as many blocks as are there, 23 or (anime) 6, loaded strictly; network_scale is 4, and 2 for x2plus."""
    blocks = len({name.split(".")[1] for name in state_dict if name.startswith("body.")})
    network = RRDBNet(num_in_ch=3, num_out_ch=3, scale=network_scale, num_feat=64, num_block=blocks, num_grow_ch=32)
    network.load_state_dict(state_dict, strict=True)
    return network.eval().requires_grad_(False)


class SuperResolver:
    """Super-resolves one image at a time, without seams.

    Why the result equals that of the untiled network, bit for bit: the body, whose receptive field is wider than any pad,
    always sees the whole image, at 64 channels and the input's size. What needs memory is the upsampler, which works at 16
    times as many pixels; but it only reaches two feature pixels far, so it runs in tiles with a halo of two, and each tile
    goes to the uint8 result at once. The body is tiled only where `device.memory_bytes` is too small for it.
    """

    def __init__(self, networks: Mapping[int, RRDBNet], device: Device) -> None:
        """`networks` maps 4 to x4plus, or its kin, and, where it is there, 2 to x2plus."""
        self.device = device
        self.shortages = 0  # how often a pass ran out of memory: its tiles, and so its bytes, are not the usual ones
        self._originals = networks  # in fp32, for the images that overflow in a narrower precision
        self._networks = {scale: self._prepare(network, device.dtype) for scale, network in networks.items()}

    def flops(self, height: int, width: int, scale: int) -> float:
        """Work of one pass over an image of that size, as the `advance` callbacks will add it up."""
        if scale == 2 and 2 in self._networks:  # x2plus works on a pixel-unshuffled half
            height, width = -(-height // 2), -(-width // 2)
        return flops_per_feature_px(len(self._networks.get(scale, self._networks[4]).body)) * height * width

    def memory_bytes(self, height: int, width: int, scale: int) -> int:
        """What one pass over an image of that size takes at its peak, beside the networks, to a factor of two."""
        if scale == 2 and 2 in self._networks:
            height, width = -(-height // 2), -(-width // 2)
        pixel_count, bytes_per_channel = height * width, self.device.dtype.itemsize
        body_px = min(pixel_count, self._body_tile_px(pixel_count, bytes_per_channel) ** 2)
        upsampler_px = min(pixel_count, (UPSAMPLER_TILE_PX + 2 * UPSAMPLER_HALO_PX) ** 2)
        live_channels = max(body_px * BODY_CHANNELS, upsampler_px * UPSAMPLER_CHANNELS)
        return _kept_bytes(pixel_count, bytes_per_channel) + live_channels * bytes_per_channel

    def super_resolve(self, image: Image, scale: int, advance: Advance) -> Image:
        """Enlarge an image by 2 or 4.

        Args:
            image: uint8 `(h, w, 3)` RGB or `(h, w)` gray, 0–255, any size from 1×1.
            scale: 2 or 4. Without x2plus, 2 is x4plus halved by Lanczos, as `RealESRGANer.enhance(outscale=2)` does.
            advance: called after each convolution of the body and each tile of the upsampler; what it raises ends the pass.

        Returns:
            uint8 `(h * scale, w * scale, 3)` or `(h * scale, w * scale)`.
        """
        if image.ndim == 2:
            rgb = cast(Image, cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
            return cast(Image, cv2.cvtColor(self.super_resolve(rgb, scale, advance), cv2.COLOR_RGB2GRAY))
        native = scale if scale in self._networks else 4
        try:
            result = self._run(self._networks[native], image, advance)
        except _NonFiniteError:
            logger.warning("%s overflowed in %s; the pass is run again in fp32", f"x{native}plus", self.device.precision)
            fp32 = self._prepare(self._originals[native], torch.float32)
            result = self._run(fp32, image, lambda _work: advance(0.0))
        _return_freed_memory()
        if native == scale:
            return result
        height, width = image.shape[:2]
        return cast(Image, cv2.resize(result, (width * scale, height * scale), interpolation=cv2.INTER_LANCZOS4))

    def _prepare(self, network: RRDBNet, dtype: torch.dtype) -> RRDBNet:
        copied = copy.deepcopy(network)
        copied.to(self.device.torch_device, dtype, memory_format=torch.channels_last)
        copied.conv_first.float()
        return copied

    @torch.inference_mode()
    def _run(self, network: RRDBNet, image: Image, advance: Advance) -> Image:
        height, width = image.shape[:2]
        batch = _to_batch(image, self.device.torch_device, network.scale)
        features = self._features(network, batch, advance)
        result = torch.empty((features.shape[2] * 4, features.shape[3] * 4, 3), dtype=torch.uint8)
        for tile, padded, inner in _tiles(features.shape[2], features.shape[3], UPSAMPLER_TILE_PX, UPSAMPLER_HALO_PX):
            rendered = _upsample(network, features[:, :, *padded])[:, :, *_times(inner, 4)]
            result[_times(tile, 4)] = _to_uint8(rendered).cpu()
            advance(FLOPS_UPSAMPLER_PX * rendered.shape[2] * rendered.shape[3] / 16)
        return result.numpy()[: height * network.scale, : width * network.scale]

    def _features(self, network: RRDBNet, batch: Tensor, advance: Advance) -> Tensor:
        """The body, on the whole image if memory allows, else in tiles as large as memory allows."""
        unshuffled = F.pixel_unshuffle(batch, 2) if network.scale == 2 else batch
        height, width = unshuffled.shape[2:]
        tile_px = self._body_tile_px(height * width, network.conv_body.weight.element_size())
        while True:
            try:
                if height * width <= tile_px**2:
                    return _body(network, unshuffled, advance)
                return _tiled_body(network, unshuffled, tile_px, advance)
            except RuntimeError as exc:
                if not _is_out_of_memory(exc) or tile_px <= BODY_MIN_TILE_PX:
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


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)  # on a GPU, on the CPU


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


def _to_batch(image: Image, device: torch.device, network_scale: int) -> Tensor:
    """uint8 `(h, w, 3)` RGB to fp32 `(1, 3, h, w)` in 0–1 on the device, padded to even for x2plus."""
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(device)
    batch = pixels.permute(2, 0, 1)[None].float() / 255
    if network_scale == 2:
        height, width = image.shape[:2]
        mode = "reflect" if min(height, width) > 1 else "replicate"  # reflection needs a second pixel to mirror
        batch = F.pad(batch, (0, width % 2, 0, height % 2), mode)
    return batch.contiguous(memory_format=torch.channels_last)


def flops_per_feature_px(blocks: int) -> float:
    """Work of RRDBNet with so many blocks, for one pixel of its features."""
    return float(FLOPS_PER_BLOCK_PX * blocks + FLOPS_AROUND_BLOCKS_PX + FLOPS_UPSAMPLER_PX)


def _body(network: RRDBNet, batch: Tensor, advance: Advance) -> Tensor:
    """The beginning of RRDBNet: `(1, 3 or 12, h, w)` in fp32 to `(1, 64, h, w)` features.

    Pixels, and what is between two blocks, are in fp32 always: rounded to bf16, 25 times, they cost up to 2.5 dB.
    """
    dtype = network.conv_body.weight.dtype
    shallow = network.conv_first(batch)
    features = shallow
    for block in network.body:
        dense = features.to(dtype)
        for dense_block in (block.rdb1, block.rdb2, block.rdb3):
            dense = _dense_block(dense_block, dense, advance)
        features = dense.mul_(0.2) + features  # as RRDB.forward does
    result = shallow + network.conv_body(features.to(dtype))
    advance(FLOPS_AROUND_BLOCKS_PX * batch.shape[2] * batch.shape[3])
    return cast(Tensor, result).to(dtype)


def _dense_block(block: ResidualDenseBlock, features: Tensor, advance: Advance) -> Tensor:
    """What ResidualDenseBlock.forward does, with a step after each convolution: of a large picture, each takes seconds."""
    flops_per_weight = 2.0 * features.shape[2] * features.shape[3]
    grown = features
    for convolution in (block.conv1, block.conv2, block.conv3, block.conv4):
        grown = torch.cat((grown, block.lrelu(convolution(grown))), 1)
        advance(flops_per_weight * convolution.weight.numel())
    result = block.conv5(grown)
    advance(flops_per_weight * block.conv5.weight.numel())
    return cast(Tensor, result.mul_(0.2).add_(features))


def _tiled_body(network: RRDBNet, batch: Tensor, tile_px: int, advance: Advance) -> Tensor:
    height, width = batch.shape[2:]
    dtype = network.conv_body.weight.dtype
    features = batch.new_empty((1, height, width, 64), dtype=dtype).permute(0, 3, 1, 2)  # channels_last
    for tile, padded, inner in _tiles(height, width, tile_px - 2 * BODY_HALO_PX, BODY_HALO_PX):
        features[:, :, *tile] = _body(network, batch[:, :, *padded], advance)[:, :, *inner]
    return features


def _upsample(network: RRDBNet, features: Tensor) -> Tensor:
    """The end of RRDBNet: `(1, 64, h, w)` features to `(1, 3, 4h, 4w)` RGB around 0–1."""
    for convolution in (network.conv_up1, network.conv_up2):
        features = network.lrelu(convolution(F.interpolate(features, scale_factor=2, mode="nearest")))
    return cast(Tensor, network.conv_last(network.lrelu(network.conv_hr(features))))


def _to_uint8(rendered: Tensor) -> Tensor:
    """`(1, 3, h, w)` around 0–1 to uint8 `(h, w, 3)`, rounded as the reference does."""
    if not bool(torch.isfinite(rendered).all()):  # what overflowed in the body has come through to here
        raise _NonFiniteError
    return rendered[0].permute(1, 2, 0).float().clamp_(0, 1).mul_(255).round_().to(torch.uint8)
