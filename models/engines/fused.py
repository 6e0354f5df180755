"""RRDBNet on an NVIDIA GPU in kernels of our own: each convolution, with all that follows it, in one.

torch's own way moves each activation several times, for the convolution, its bias, LeakyReLU, the concatenation and the
residuals; here each is read for the convolution and written once. `conv3x3.cu` has the kernels.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from torch import Tensor
from torch.nn import functional as F

from core.progress import Progress
from models.device import Device
from models.engines.rrdbnet import FLOPS_AROUND_BLOCKS_PX, FLOPS_PER_BLOCK_PX
from models.engines.tiles import computed_px

logger = logging.getLogger(__name__)

LEAST_CAPABILITY = (8, 0)  # of a card: cp.async, and matrix products of 16×8×16
UNIT_PX = TILE_ROWS, TILE_COLUMNS = 8, 64  # of a thread block, whether they are within the picture or beyond its edge
THREADS = 256
CHUNK = 16  # input channels that are in shared memory at once
OUTPUTS = 32  # output channels of a thread block
GROWN = 192  # channels: a dense block's 64, and the 4 × 32 that it grows
STAGES = 3  # chunks in shared memory: one is multiplied, the others come
PIXELS_BYTES = -(-(TILE_ROWS + 2) * (TILE_COLUMNS + 2) * CHUNK * 2 // 256) * 256  # so that the weights begin at a multiple
SHARED_BYTES = STAGES * (PIXELS_BYTES + 9 * OUTPUTS * CHUNK * 2)

SOURCE = Path(__file__).with_name("conv3x3.cu")


class Convolution(ctypes.Structure):
    """The argument of a kernel, as conv3x3.cu declares it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weights", "bias", "y", "residual")),
        *((name, ctypes.c_int) for name in ("height", "width", "row_pixels", "plane_pixels")),
        *((name, ctypes.c_int) for name in ("x_row_pixels", "x_plane_pixels", "chunks", "offset")),
    )


class Kernels(Protocol):
    """What runs a kernel of conv3x3.cu."""

    def launch(self, name: str, convolution: Convolution, grid: tuple[int, int, int]) -> None:
        """Queue a kernel on the current stream; `grid` is columns, rows and groups of thread blocks."""


class CompiledKernels:
    """The kernels, compiled for the current GPU by NVRTC, which comes with torch; it takes a second or two."""

    def __init__(self, capability: tuple[int, int]) -> None:
        """
        Raises:
            RuntimeError: NVRTC or the driver refuses; the message has its words.
        """
        from cuda.bindings import driver

        self._driver: Any = driver
        if capability < LEAST_CAPABILITY:
            raise RuntimeError("they are for cards of compute capability 8.0 and later")
        cubin = _compile(SOURCE.read_bytes(), capability)
        torch.cuda.current_stream().synchronize()  # makes this thread's CUDA context
        module = _checked(driver.cuModuleLoadData(cubin))
        shared = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._functions = {}
        for name in ("grow", "dense", "block", "body", "enlarge", "last"):
            function = _checked(driver.cuModuleGetFunction(module, name.encode()))
            _checked(driver.cuFuncSetAttribute(function, shared, SHARED_BYTES))
            self._functions[name] = function

    def launch(self, name: str, convolution: Convolution, grid: tuple[int, int, int]) -> None:
        """Queue a kernel on the current stream."""
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(convolution))
        stream = torch.cuda.current_stream().cuda_stream
        launched = self._driver.cuLaunchKernel(
            self._functions[name], *grid, THREADS, 1, 1, SHARED_BYTES, stream, ctypes.addressof(arguments), 0
        )
        _checked(launched)


def build_fused(rrdbnet: RRDBNet, device: Device) -> FusedNetwork | None:
    """The network in kernels of our own, or None where they cannot run; the log says why.

    `rrdbnet` is on the device already, in its precision.
    """
    if device.torch_device.type != "cuda" or device.dtype is not torch.float16:
        return None
    with device.current():
        try:
            return FusedNetwork(rrdbnet, _compiled(torch.cuda.current_device()))
        except (RuntimeError, ImportError) as exc:
            logger.warning("torch's own kernels run in place of ours, which are faster: %s", exc)
            return None


@functools.cache
def _compiled(device_index: int) -> CompiledKernels:
    """Once for all networks on the current device."""
    return CompiledKernels(torch.cuda.get_device_capability(device_index))


class FusedNetwork:
    """The blocks, `conv_body` and the upsampler of one RRDBNet, in fp16, with sums and the residuals of blocks in fp32."""

    def __init__(self, rrdbnet: RRDBNet, kernels: Kernels) -> None:
        """`rrdbnet` is on the device already; its weights are copied."""
        self._kernels = kernels
        self._dense_blocks = [
            [_pack(getattr(dense_block, f"conv{i}")) for i in range(1, 6)]
            for block in rrdbnet.body
            for dense_block in (block.rdb1, block.rdb2, block.rdb3)
        ]
        self._around = {name: _pack(getattr(rrdbnet, f"conv_{name}")) for name in ("body", "up1", "up2", "hr", "last")}

    def body(self, shallow: Tensor, progress: Progress) -> Tensor:
        """fp32 `(1, 64, h, w)` of conv_first to fp16 `(1, 64, h, w)` features, both channels_last."""
        height, width = shallow.shape[2:]
        pixels = computed_px((height, width), max(height, width), 0, UNIT_PX)
        source, target = (_planes(shallow, height, width, GROWN) for _ in range(2))
        first = source.new_zeros((*source.shape[1:3], 64), dtype=torch.float32)
        first[1 : height + 1, 1 : width + 1] = shallow[0].permute(1, 2, 0)
        residual = first.clone()
        _fill(source, shallow)
        for number, (*growing, last) in enumerate(self._dense_blocks):
            for i, packed in enumerate(growing):
                self._convolve("grow", packed, source, source, height, width, offset=(64 + OUTPUTS * i) // CHUNK)
            self._convolve("block" if number % 3 == 2 else "dense", last, source, target, height, width, residual)
            source, target = target, source
            progress.advance(FLOPS_PER_BLOCK_PX / 3 * pixels)
        self._convolve("body", self._around["body"], source, target, height, width, first)
        progress.advance(FLOPS_AROUND_BLOCKS_PX * pixels)
        inner = target[: 64 // CHUNK, 1 : height + 1, 1 : width + 1]
        return inner.permute(1, 2, 0, 3).reshape(height, width, 64).permute(2, 0, 1)[None]

    def upsample(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """fp16 `(1, 64, h, w)` features to uint8 `(4h, 4w, 3)` RGB, and whether all was finite."""
        height, width = features.shape[2:]
        planes = _planes(features, height, width, 64)
        _fill(planes, features)
        for name in ("up1", "up2"):
            height, width = height * 2, width * 2
            enlarged = _planes(features, height, width, 64)
            self._convolve("enlarge", self._around[name], planes, enlarged, height, width)
            planes = enlarged
        enlarged = _planes(features, height, width, 64)
        self._convolve("grow", self._around["hr"], planes, enlarged, height, width)
        result = torch.empty((height, width, 3), dtype=torch.uint8, device=features.device)
        not_finite = torch.zeros(1, dtype=torch.int32, device=features.device)
        self._convolve("last", self._around["last"], enlarged, result, height, width, not_finite)
        return result, not_finite[0] == 0

    def _convolve(
        self,
        kernel: str,
        packed: tuple[Tensor, Tensor],
        x: Tensor,
        y: Tensor,
        height: int,
        width: int,
        residual: Tensor | None = None,
        offset: int = 0,
    ) -> None:
        weights, bias = packed
        groups, chunks = weights.shape[:2]
        columns, rows = -(-width // TILE_COLUMNS), -(-height // TILE_ROWS)
        pointers = (tensor.data_ptr() if tensor is not None else None for tensor in (x, weights, bias, y, residual))
        row_pixels = columns * TILE_COLUMNS + 2
        plane_pixels = row_pixels * (rows * TILE_ROWS + 2)
        x_row_pixels, x_plane_pixels = x.shape[2], x.shape[1] * x.shape[2]
        sizes = height, width, row_pixels, plane_pixels, x_row_pixels, x_plane_pixels, chunks, offset
        convolution = Convolution(*pointers, *sizes)
        self._kernels.launch(kernel, convolution, (columns, rows, groups))


def _planes(like: Tensor, height: int, width: int, channels: int) -> Tensor:
    """Zeros with a border: fp16 `(channels / 16, rows, row_pixels, 16)`, as conv3x3.cu wants it."""
    rows, row_pixels = (-(-size // tile) * tile + 2 for size, tile in ((height, TILE_ROWS), (width, TILE_COLUMNS)))
    return like.new_zeros((channels // CHUNK, rows, row_pixels, CHUNK), dtype=torch.float16)


def _fill(planes: Tensor, features: Tensor) -> None:
    """Write `(1, 64, h, w)` into the first planes."""
    height, width = features.shape[2:]
    by_chunk = features[0].reshape(64 // CHUNK, CHUNK, height, width).permute(0, 2, 3, 1)
    planes[: 64 // CHUNK, 1 : height + 1, 1 : width + 1] = by_chunk


def _pack(convolution: torch.nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weights in the order of shared memory, fp16 `(outputs / 32, inputs / 16, 9, 32, 2, 8)`, and the bias in fp32.

    Outputs are filled up to a multiple of 32 with zeros: conv_last has three.
    """
    missing = -convolution.out_channels % OUTPUTS
    filled = F.pad(convolution.weight, (0, 0, 0, 0, 0, 0, 0, missing))
    bias = F.pad(cast(Tensor, convolution.bias), (0, missing))
    outputs, inputs = filled.shape[:2]
    weight = filled.half().reshape(outputs // OUTPUTS, OUTPUTS, inputs // CHUNK, 2, CHUNK // 2, 9)
    weight = weight.permute(0, 2, 5, 1, 3, 4)
    changed = (torch.arange(OUTPUTS, device=weight.device) // 4 % 2 == 1)[:, None, None]
    weight = torch.where(changed, weight.flip(-2), weight)
    return weight.contiguous(), bias.float()


def _compile(source: bytes, capability: tuple[int, int]) -> bytes:
    from cuda.bindings import nvrtc

    program = _checked(nvrtc.nvrtcCreateProgram(source, SOURCE.name.encode(), 0, [], []))
    options = [b"--std=c++17", f"--gpu-architecture=sm_{capability[0]}{capability[1]}".encode()]
    if capability == (9, 0):  # Hopper multiplies by four warps at a time, in instructions that no other generation has
        options = [b"--std=c++17", b"--gpu-architecture=sm_90a", b"-DHOPPER"]
    (failed,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(failed):
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(f"NVRTC cannot compile {SOURCE.name} with {options}: {log.decode(errors='replace').strip()}")
    cubin = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    _checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    return bytes(cubin)


def _checked(result: tuple[Any, ...]) -> Any:
    """What a call of the CUDA driver or NVRTC returns beside its status.

    Raises:
        RuntimeError: the status is an error.
    """
    status, *values = result
    if int(status):
        raise RuntimeError(f"CUDA error: {status.name}")
    return cast(Any, values[0] if values else None)
