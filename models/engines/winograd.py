"""RRDBNet on x86-64 CPUs, in fp32: Winograd's F(6×6, 3×3) in winograd.cpp, some five times as fast as torch."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import platform
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from basicsr.archs.rrdbnet_arch import ResidualDenseBlock, RRDBNet

from core.progress import Progress
from models.device import Image
from models.engines.rrdbnet import feature_size, flops
from models.engines.tiles import BODY_HALO_PX, BODY_MIN_TILE_PX, Region, computed_px, tiles, times

logger = logging.getLogger(__name__)

Build = Literal["avx512", "avx2"]

SOURCES = Path(__file__).parent
CAPABILITIES: dict[Build, tuple[str, ...]] = {  # as torch names them; it asks the operating system, too
    "avx512": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "fma3"),
    "avx2": ("avx2", "fma3"),
}
UNIT_PX = (6, 6)  # what a Winograd transform makes, whether it is wanted or beyond the picture's edge
BODY_BYTES_PX = 3 * 64 * 4  # three planes of 64 channels take turns
KEPT_BYTES_PX = 4 * 4 * 3 + 12 + 4 * 12  # of all pixels: the result, and the image as bytes and as floats
OUT_OF_MEMORY = 2  # what winograd_run returns, beside 0; 1 is for what `progress` raised

_Tell = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_double, ctypes.c_void_p)


def unavailable_reason() -> str:
    """Why this engine cannot run here, as a sentence for people; the empty string if it can."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"The engine for CPUs is made for x86-64, and this is {platform.machine()}."
    if not any(map(_cpu_has, CAPABILITIES)):
        return "The engine for CPUs needs AVX2 and FMA, which this CPU or its operating system lacks."
    if best_build() is None:
        build = next(build for build in CAPABILITIES if _cpu_has(build))
        return f"The engine for CPUs is not used, and torch is slower: {_load(build)}. To build it: make setup"
    return ""


def best_build() -> Build | None:
    """The fastest build that is there and that this CPU runs. Both give the same bytes."""
    return next((build for build in CAPABILITIES if _cpu_has(build) and not isinstance(_load(build), str)), None)


def _cpu_has(build: Build) -> bool:
    capabilities = torch.cpu.get_capabilities()
    return all(capabilities.get(name) for name in CAPABILITIES[build])


@cache
def _sources_sha256() -> str:
    """Of what the libraries are built from."""
    sources = [*sorted(SOURCES.glob("*.cpp")), *sorted(SOURCES.glob("*.h"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


@cache
def _load(build: Build) -> ctypes.CDLL | str:
    """The library, or why it cannot be used."""
    path = SOURCES / "lib" / f"winograd_{build}.so"
    if not path.exists():
        return f"{path} is not there"
    try:
        library = ctypes.CDLL(str(path))  # its calls release the interpreter's lock
        library.winograd_sources.restype = ctypes.c_char_p
        if library.winograd_sources().decode() != _sources_sha256():
            return f"{path} was built from other sources"
    except (OSError, AttributeError) as exc:
        return str(exc)
    pointer, integer, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "destroy": (None, [pointer]),
        "bytes": (size, [integer] * 3),
        "run": (integer, [*[pointer] * 2, *[integer] * 2, *[pointer] * 2, size, *[integer] * 2, _Tell, pointer]),
    }
    creations = {"winograd": [integer, integer, pointer, pointer, integer], "compact": [integer, *[pointer] * 3, integer]}
    for network, creation in creations.items():
        for action, (result, arguments) in (signatures | {"create": (pointer, creation)}).items():
            function = getattr(library, f"{network}_{action}")
            function.restype, function.argtypes = result, arguments
    return library


class WinogradEngine:
    """One RRDBNet on a CPU, on whole images.

    The same image gives the same bytes with any number of threads, with either build and on any machine, within one grey
    level of torch in fp32. Nothing is kept between two passes but the packed weights, 470 MB for 23 blocks, and no thread; so
    a pass may run inside another's `progress`. Where the body does not fit into memory it runs in tiles with a halo.
    """

    def __init__(self, rrdbnet: RRDBNet, memory_bytes: int, threads: int, build: Build | None = None) -> None:
        """The first pass packs the weights, to seven times their size, in a third of a second; `rrdbnet` is not kept then.

        Args:
            rrdbnet: of scale 4 or 2, with 64 features and growth of 32.
            memory_bytes: what one pass may use.
            threads: how many a pass uses, the caller's included.
            build: by default, the fastest for this CPU.

        Raises:
            RuntimeError: no build of the library runs here; `unavailable_reason()` says why.
            ValueError: the network is of another shape.
        """
        self._load_build(build, memory_bytes, threads)
        self._scale: int = rrdbnet.scale
        self._blocks = len(rrdbnet.body)
        self._unpacked: list[torch.nn.Conv2d] = _convolutions(rrdbnet)

    def _load_build(self, build: Build | None, memory_bytes: int, threads: int) -> None:
        """What an engine has whatever its network."""
        chosen = build or best_build()
        library = _load(chosen) if chosen and _cpu_has(chosen) else f"there is no build {chosen} for this CPU"
        if isinstance(library, str):
            raise RuntimeError(unavailable_reason() or library)
        self.name = f"winograd fp32 ({chosen})"
        self.shortages = 0  # how often a pass ran out of memory: its tiles, and so its bytes, are not the usual ones
        self._library = library
        self._run_library: Callable[..., int] = library.winograd_run
        self._memory_bytes = memory_bytes
        self._threads = max(threads, 1)
        self._network: ctypes.c_void_p | None = None

    def flops(self, height: int, width: int) -> float:
        """Work of a pass over an image of that size, as `progress` will add it up: all that the body computes."""
        height, width = feature_size(height, width, self._scale)
        return self._flops(height, width, self._body_tile_px(height, width))

    def _flops(self, height: int, width: int, tile_px: int) -> float:
        body_px = computed_px((height, width), *self._tile_and_halo(tile_px, height, width), UNIT_PX)
        return flops(self._blocks, body_px, height * width)

    def memory_bytes(self, height: int, width: int) -> int:
        """What a pass over an image of that size takes at its peak, beside the model, to a factor of two."""
        height, width = feature_size(height, width, self._scale)
        tile_px = self._body_tile_px(height, width)
        if tile_px < max(height, width):
            body: int = self._library.winograd_bytes(min(tile_px, height), min(tile_px, width), self._threads)
        else:
            body = self._library.winograd_bytes(height, width, self._threads)
        return body + KEPT_BYTES_PX * height * width

    def upscale(self, image: Image, progress: Progress) -> Image:
        """Enlarge an image by the network's own scale.

        Args:
            image: uint8 or uint16 `(h, w, 3)` RGB, any size from 1×1, any strides.
            progress: told of the work that is done some 50 times a second, on the calling thread, while the others sleep; what
                it raises ends the pass within milliseconds, but for the first one's packing.

        Returns:
            `(h * scale, w * scale, 3)` of the same dtype. Where the network overflows, zero or full.

        Raises:
            TypeError, ValueError: of the image's dtype or shape.
            MemoryError: the smallest tiles do not fit into memory either.
        """
        if image.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"the image must be uint8 or uint16, not {image.dtype}")
        if image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"the image must be (h, w, 3), not {image.shape}")
        pixels = _unshuffled(image) if self._scale == 2 else image
        height, width = pixels.shape[:2]
        result = np.empty((height * 4, width * 4, 3), image.dtype)
        network, work = self._packed(), _Work(progress)
        tile_px = self._body_tile_px(height, width)
        while True:
            try:
                for tile, padded, inner in tiles(height, width, *self._tile_and_halo(tile_px, height, width)):
                    self._run(network, pixels[padded], inner, result[times(tile, 4)], work)
                break
            except _NoMemory as exc:
                if tile_px <= BODY_MIN_TILE_PX:
                    raise MemoryError(str(exc)) from exc
            before, tile_px = tile_px, max(min(tile_px, max(height, width)) // 2, BODY_MIN_TILE_PX)
            self.shortages += 1
            work.restart(self._flops(height, width, tile_px) - self._flops(height, width, before))
            logger.warning("out of memory; again in tiles of %d px", tile_px)
        return result[: image.shape[0] * self._scale, : image.shape[1] * self._scale]

    def run_once(self) -> None:
        """Nothing: a first pass loads and chooses nothing, and a network that nobody uses stays small."""

    def _packed(self) -> ctypes.c_void_p:
        """The network as `winograd_run` takes it."""
        if self._network is None:
            self._network = _pack(self._library, self._unpacked, self._blocks, self._threads)
            self._unpacked = []
            weakref.finalize(self, self._library.winograd_destroy, self._network)
        return self._network

    def _body_tile_px(self, height: int, width: int) -> int:
        """Side of the largest square whose body fits into memory, or the longer side if the whole body does."""
        body_bytes = self._library.winograd_bytes(height, width, self._threads)
        free_bytes = self._memory_bytes - KEPT_BYTES_PX * height * width
        if body_bytes <= free_bytes:
            return max(height, width)
        of_threads = body_bytes - BODY_BYTES_PX * height * width  # at most that, too, for a tile
        return max(math.isqrt(max(free_bytes - of_threads, 0) // BODY_BYTES_PX), BODY_MIN_TILE_PX)

    def _run(self, network: ctypes.c_void_p, pixels: Image, inner: Region, out: Image, work: _Work) -> None:
        """One tile of the features: `(h, w, 3 or 12)`, what of it is wanted, and where that goes."""
        height, width, channels = pixels.shape
        batch = np.zeros((height + 2, width + 2, channels), np.float32)
        np.divide(pixels, np.float32(np.iinfo(pixels.dtype).max), out=batch[1:-1, 1:-1])
        rows, columns = inner
        bounds = (ctypes.c_int * 4)(rows.start, rows.stop, columns.start, columns.stop)
        work.share = self._share(height, width, (rows.stop - rows.start) * (columns.stop - columns.start))
        code = self._run_library(
            network,
            batch.ctypes.data,
            height,
            width,
            bounds,
            out.ctypes.data,
            out.strides[0],
            out.itemsize,
            self._threads,
            _Tell(work.tell),
            None,
        )
        work.raise_error()
        if code == OUT_OF_MEMORY:
            raise _NoMemory(f"no memory for a pass over {width}×{height} features")
        if code:
            raise RuntimeError(f"the engine failed with code {code}")

    def _share(self, height: int, width: int, inner_px: int) -> float:
        """Work of a tile, for each FLOP within the picture; the tile is that large with its halo, and `inner_px` without."""
        computed = flops(self._blocks, computed_px((height, width), max(height, width), 0, UNIT_PX), inner_px)
        return computed / flops(self._blocks, height * width, inner_px)

    def _tile_and_halo(self, tile_px: int, height: int, width: int) -> tuple[int, int]:
        return (tile_px, 0) if tile_px >= max(height, width) else (tile_px - 2 * BODY_HALO_PX, BODY_HALO_PX)


class _NoMemory(Exception):
    """For one call of winograd_run; for smaller tiles, there may be enough."""


class _Work:
    """What of a pass is done, for `progress`. What is computed beyond edges is work too; what runs again is told once."""

    def __init__(self, progress: Progress) -> None:
        self.share = 1.0  # work for each FLOP that winograd_run tells
        self._error: BaseException | None = None
        self._progress = progress
        self._done = self._told = 0.0

    def restart(self, more: float) -> None:
        """All of it is done again, in smaller tiles, whose halos are so much more work."""
        self._progress.add_work(more)
        self._done = 0.0

    def raise_error(self) -> None:
        """Raise what `progress` raised. It is not kept: it holds every frame that it has come through, and so the pictures."""
        error, self._error = self._error, None
        try:
            if error:
                raise error
        finally:
            del error

    def tell(self, work: float, _context: object) -> int:
        """What winograd_run calls."""
        self._done += work * self.share
        told, self._told = self._told, max(self._told, self._done)
        try:
            self._progress.advance(self._told - told)
        except BaseException as exc:  # whatever it is, it is raised again when the pass has ended
            self._error = exc
            return 1
        return 0


def _unshuffled(image: Image) -> Image:
    """`(h, w, 3)` to `(⌈h/2⌉, ⌈w/2⌉, 12)`, padded to even by reflection, as torch's pixel_unshuffle orders channels."""
    height, width = image.shape[:2]
    mode: Literal["reflect", "edge"] = "reflect" if min(height, width) > 1 else "edge"  # reflection needs a second pixel
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode)
    blocks = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, 3)
    return blocks.transpose(0, 2, 4, 1, 3).reshape(blocks.shape[0], blocks.shape[2], 12)


def _convolutions(rrdbnet: RRDBNet) -> list[torch.nn.Conv2d]:
    """All of them, in their order.

    Raises:
        ValueError: they are not those that winograd.cpp is made for.
    """
    dense_blocks: list[ResidualDenseBlock] = [
        dense for block in rrdbnet.body for dense in (block.rdb1, block.rdb2, block.rdb3)
    ]
    found: list[torch.nn.Conv2d] = [
        rrdbnet.conv_first,
        *[getattr(dense, f"conv{i}") for dense in dense_blocks for i in range(1, 6)],
        *(rrdbnet.conv_body, rrdbnet.conv_up1, rrdbnet.conv_up2, rrdbnet.conv_hr, rrdbnet.conv_last),
    ]
    grown = [(64, 32), (96, 32), (128, 32), (160, 32), (192, 64)] * len(dense_blocks)
    expected = [(found[0].in_channels, 64), *grown, *[(64, 64)] * 4, (64, 3)]
    if [(convolution.in_channels, convolution.out_channels) for convolution in found] != expected:
        raise ValueError("the engine is made for RRDBNet with 64 features and growth of 32")
    return found


def _pack(library: ctypes.CDLL, convolutions: list[torch.nn.Conv2d], blocks: int, threads: int) -> ctypes.c_void_p:
    """The network with its weights transformed, for `winograd_run`; to be destroyed by `winograd_destroy`."""
    weights = [convolution.weight.detach().cpu().float().contiguous() for convolution in convolutions]
    biases = [
        convolution.bias.detach().cpu().float().contiguous() for convolution in convolutions if convolution.bias is not None
    ]
    pointers = ctypes.c_void_p * len(convolutions)
    handle = library.winograd_create(
        blocks,
        convolutions[0].in_channels,
        pointers(*[weight.data_ptr() for weight in weights]),
        pointers(*[bias.data_ptr() for bias in biases]),
        threads,
    )
    if not handle:
        raise MemoryError("no memory for the transformed weights")
    return ctypes.c_void_p(handle)
