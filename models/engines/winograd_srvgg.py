"""SRVGGNetCompact on x86-64 CPUs, in fp32, by the Winograd convolutions of winograd.cpp."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable

from torch import Tensor

from models.engines.srvgg import SCALE, Weights, build_srvggnet, flops, kept_bytes
from models.engines.tiles import BODY_MIN_TILE_PX, computed_px
from models.engines.winograd import UNIT_PX, Build, WinogradEngine

TILE_PX = 240 * UNIT_PX[0]  # side of a tile: its two planes have a gigabyte
BYTES_PX = 2 * 64 * 4  # two planes of 64 channels take turns


class WinogradSrvgg(WinogradEngine):
    """One SRVGGNetCompact on a CPU.

    A large image runs in tiles, whose halo is all that the network reaches, and whose edges are those of the transforms' own
    tiles: they are off by rounding alone, from garbage in the halo that cancels out.
    """

    def __init__(
        self,
        weights: Callable[[], Weights],
        convolutions: int,
        memory_bytes: int,
        threads: int,
        build: Build | None = None,
    ) -> None:
        """The first pass asks for the weights and packs them, to seven times their size.

        Args:
            weights: of SRVGGNetCompact with 64 features.
            convolutions: how many there are.
            memory_bytes: what one pass may use.
            threads: how many a pass uses, the caller's included.
            build: by default, the fastest for this CPU.

        Raises:
            RuntimeError: no build of the library runs here.
        """
        self._load_build(build, memory_bytes, threads)
        self._run_library = self._library.compact_run
        self._scale = SCALE
        self._weights = weights
        self._convolutions = convolutions
        self._halo_px = -(-convolutions // UNIT_PX[0]) * UNIT_PX[0]

    def _flops(self, height: int, width: int, tile_px: int) -> float:
        tiling = self._tile_and_halo(tile_px, height, width)
        return flops(self._convolutions, computed_px((height, width), *tiling, UNIT_PX))

    def memory_bytes(self, height: int, width: int) -> int:
        """What a pass over an image of that size takes at its peak, beside the model, to a factor of two."""
        side_px = self._body_tile_px(height, width)
        of_tile: int = self._library.compact_bytes(min(side_px, height), min(side_px, width), self._threads)
        return of_tile + kept_bytes(height, width)

    def _packed(self) -> ctypes.c_void_p:
        """The network as `compact_run` takes it."""
        if self._network is None:
            self._network = _pack(self._library, self._weights(), self._threads)
            weakref.finalize(self, self._library.compact_destroy, self._network)
        return self._network

    def _body_tile_px(self, height: int, width: int) -> int:
        """Side of a tile with its halo, or the longer side where the whole image is one."""
        of_threads = self._library.compact_bytes(1, 1, self._threads)
        free_bytes = max(self._memory_bytes - kept_bytes(height, width) - of_threads, 0)
        side_px = min(TILE_PX, math.isqrt(free_bytes // BYTES_PX))
        return max(height, width) if height * width <= side_px**2 else max(side_px, BODY_MIN_TILE_PX)

    def _tile_and_halo(self, tile_px: int, height: int, width: int) -> tuple[int, int]:
        if tile_px >= max(height, width):
            return tile_px, 0
        units = max(tile_px - 2 * self._halo_px, UNIT_PX[0]) // UNIT_PX[0]
        return units * UNIT_PX[0], self._halo_px

    def _share(self, height: int, width: int, inner_px: int) -> float:
        return computed_px((height, width), max(height, width), 0, UNIT_PX) / (height * width)


def _pack(library: ctypes.CDLL, weights: Weights, threads: int) -> ctypes.c_void_p:
    """The network with its weights transformed, for `compact_run`; to be destroyed by `compact_destroy`.

    Raises:
        ValueError: it is of another shape than winograd.cpp is made for.
    """
    body = [layer.float().cpu() for layer in build_srvggnet(weights).body]
    convolutions, activations = body[::2], body[1::2]
    if any(tuple(convolution.weight.shape[:2]) != (64, 64) for convolution in convolutions[1:-1]):
        raise ValueError("the engine is made for SRVGGNetCompact with 64 features")

    def pointers(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])

    kept = [
        [tensor.contiguous() for tensor in tensors]
        for tensors in (
            [convolution.weight for convolution in convolutions],
            [convolution.bias for convolution in convolutions],
            [activation.weight for activation in activations],
        )
    ]
    handle = library.compact_create(len(convolutions), *map(pointers, kept), threads)
    if not handle:
        raise MemoryError("no memory for the transformed weights")
    return ctypes.c_void_p(handle)
