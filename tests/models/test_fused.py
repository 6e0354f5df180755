"""Our kernels for GPUs: the same source, compiled for the cards by NVRTC, and run on this CPU by an emulator of warps."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.progress import NullProgress
from models.engines import fused
from models.engines.fused import TILE_COLUMNS, TILE_ROWS, Convolution, FusedNetwork
from models.engines.rrdbnet import FLOPS_AROUND_BLOCKS_PX, FLOPS_PER_BLOCK_PX
from tests.models.networks import random_network

from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip - after models has prepared the process

EMULATOR = Path(__file__).with_name("cuda_emulator.cpp")
GXX = shutil.which("g++") or ""

needs_compiler = pytest.mark.skipif(not GXX, reason="the emulator is built with g++")


class Emulated:
    """Runs a kernel here."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def launch(self, name: str, convolution: Convolution, grid: tuple[int, int, int]) -> None:
        """Run it to its end."""
        kinds = ("grow", "dense", "block", "body", "enlarge", "last")
        self._library.emulate(kinds.index(name), ctypes.byref(convolution), *grid)


class Told(NullProgress):
    """The work that was told."""

    work = 0.0

    def advance(self, work: float) -> None:
        self.work += work


@pytest.fixture(scope="module", params=["", "-DHOPPER"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    """As they are for Ampere and later, and as they are for Hopper."""
    library = tmp_path_factory.mktemp("emulator") / "emulator.so"
    options = ["-std=c++17", "-O3", "-march=native", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", f'-DSOURCE="{fused.SOURCE}"']
    chosen = [request.param] if request.param else []
    subprocess.run([GXX, *options, *chosen, str(EMULATOR), "-o", str(library)], check=True)  # noqa: S603
    return Emulated(ctypes.CDLL(str(library)))


def network() -> RRDBNet:
    """One block, which changes what comes in by as much again."""
    rrdbnet = random_network(4, 1)
    for weight in rrdbnet.body.parameters():
        weight.mul_(3)
    return rrdbnet


def random_features(height: int, width: int) -> Tensor:
    torch.manual_seed(height)
    return torch.randn(1, 64, height, width).contiguous(memory_format=torch.channels_last)


@needs_compiler
@pytest.mark.parametrize("size", [(9, 5), (1, 1)], ids=["more than a tile", "one pixel"])
@torch.inference_mode()
def test_the_body_is_that_of_the_network_to_the_rounding_of_fp16(kernels: Emulated, size: tuple[int, int]) -> None:
    rrdbnet, shallow, progress = network(), random_features(*size), Told()
    result = FusedNetwork(rrdbnet, kernels).body(shallow, progress)
    expected = shallow + rrdbnet.conv_body(rrdbnet.body(shallow))
    assert result.shape == shallow.shape
    assert result.dtype == torch.float16
    assert float((result - expected).norm() / expected.norm()) < 4e-4
    computed_px = -(-size[0] // TILE_ROWS) * TILE_ROWS * -(-size[1] // TILE_COLUMNS) * TILE_COLUMNS
    assert progress.work == pytest.approx((FLOPS_PER_BLOCK_PX + FLOPS_AROUND_BLOCKS_PX) * computed_px)


@needs_compiler
@pytest.mark.parametrize("size", [(5, 19), (1, 1)], ids=["odd", "one pixel"])
@torch.inference_mode()
def test_the_upsampler_is_that_of_the_network_within_a_grey_level(kernels: Emulated, size: tuple[int, int]) -> None:
    rrdbnet, features = network(), random_features(*size).half()
    result, finite = FusedNetwork(rrdbnet, kernels).upsample(features)
    enlarged = features.float()
    for convolution in (rrdbnet.conv_up1, rrdbnet.conv_up2):
        enlarged = rrdbnet.lrelu(convolution(F.interpolate(enlarged, scale_factor=2, mode="nearest")))
    rendered = rrdbnet.conv_last(rrdbnet.lrelu(rrdbnet.conv_hr(enlarged)))
    expected = rendered[0].permute(1, 2, 0).clamp(0, 1).mul(255).round()
    assert expected.std() > 10
    assert (result - expected).abs().max() <= 1
    assert bool(finite)


@needs_compiler
@torch.inference_mode()
def test_what_overflows_is_told(kernels: Emulated) -> None:
    features = random_features(1, 1).half() * 1e4
    _, finite = FusedNetwork(network(), kernels).upsample(features * 100)
    assert not bool(finite)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)], ids=["A100", "H100", "RTX 5090"])
def test_nvrtc_compiles_them_for_a_card(capability: tuple[int, int]) -> None:
    assert fused._compile(fused.SOURCE.read_bytes(), capability).startswith(b"\x7fELF")


def test_what_nvrtc_refuses_is_said_in_its_words() -> None:
    with pytest.raises(RuntimeError, match="no_such_type"):
        fused._compile(b"no_such_type x;", (8, 0))


def test_an_older_card_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"8\.0 and later"):
        fused.CompiledKernels((7, 5))
