"""Super-resolution with the real weights, against the reference library."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.server import ROOT
from core.config import ConfigError
from core.progress import NullProgress
from models.checkpoint import load_state_dict
from models.device import Device, Image, _unusable_gpu_reason, select_device
from models.engines import torch_engine
from models.engines.fused import LEAST_CAPABILITY
from models.engines.rrdbnet import build_rrdbnet
from models.engines.torch_engine import TorchEngine
from models.engines.winograd import best_build, unavailable_reason
from models.super_resolution import SuperResolver
from tests.helpers import WEIGHTS, max_difference, psnr, sample_crop
from tests.models.networks import Steps, random_network

from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip - after models has prepared the process
from realesrgan import RealESRGANer  # isort: skip

X4PLUS = WEIGHTS / "RealESRGAN_x4plus.pth"
ANIME = WEIGHTS / "RealESRGAN_x4plus_anime_6B.pth"
FACE = sample_crop(44, 40, left=184, top=72)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


NOBODY = NullProgress()


def x4plus() -> RRDBNet:
    return build_rrdbnet(load_state_dict(X4PLUS), 4)


@pytest.fixture(scope="module")
def fp32() -> SuperResolver:
    return SuperResolver({4: x4plus()}, select_device("cpu", "fp32"))


@pytest.fixture(scope="module")
def torch_fp32() -> TorchEngine:
    return TorchEngine(x4plus(), select_device("cpu"))


@pytest.fixture(scope="module")
def fp32_with_x2plus() -> SuperResolver:
    return SuperResolver({4: x4plus(), 2: random_network(2, 6)}, select_device("cpu", "fp32"))


@pytest.fixture(scope="module")
def result(fp32: SuperResolver) -> Image:
    return fp32.super_resolve(FACE, 4, NOBODY)


@pytest.fixture(scope="module")
def reference() -> RealESRGANer:
    network = RRDBNet(3, 3, scale=4, num_feat=64, num_block=23, num_grow_ch=32)
    return RealESRGANer(4, str(X4PLUS), model=network, tile=0, pre_pad=0, half=False, device=torch.device("cpu"))


def enhance(reference: RealESRGANer, image: Image, outscale: int | None = None) -> Image:
    """The reference wants BGR, and gives it."""
    output: Image = reference.enhance(image[:, :, ::-1], outscale=outscale)[0][:, :, ::-1]
    return output


@pytest.fixture(scope="module")
def expected(reference: RealESRGANer) -> Image:
    return enhance(reference, FACE)


@pytest.fixture(scope="module")
def x2_reference() -> RealESRGANer:
    reference = RealESRGANer(2, str(X4PLUS), model=_Accepting(), tile=0, pre_pad=0, half=False, device=torch.device("cpu"))
    reference.model = random_network(2, 6)
    return reference


def test_fp32_equals_the_reference_within_one_grey_level(result: Image, expected: Image) -> None:
    assert max_difference(result, expected) <= 1


def test_torchs_engine_equals_the_reference_within_one_grey_level(torch_fp32: TorchEngine, expected: Image) -> None:
    assert max_difference(torch_fp32.upscale(FACE, NOBODY), expected) <= 1


def test_the_engine_is_named(fp32: SuperResolver, torch_fp32: TorchEngine) -> None:
    assert torch_fp32.name == "torch fp32"
    assert fp32.engine == (torch_fp32.name if unavailable_reason() else f"winograd fp32 ({best_build()})")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["auto", "fp16", "fp32"])
def test_a_gpu_is_within_50_db_of_the_reference_and_repeats_itself(expected: Image, precision: str) -> None:
    on_gpu = SuperResolver({4: x4plus()}, select_device("cuda", precision))
    if torch.cuda.get_device_capability() >= LEAST_CAPABILITY:
        assert on_gpu.engine == ("torch fp32" if precision == "fp32" else "fused kernels fp16")
    result = on_gpu.super_resolve(FACE, 4, NOBODY)
    assert psnr(result, expected) >= 50
    assert np.array_equal(on_gpu.super_resolve(FACE, 4, NOBODY), result)


@pytest.mark.gpu
def test_on_a_gpu_the_upsamplers_tiles_leave_no_trace_of_our_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(x4plus(), select_device("cuda"))
    if engine.name != "fused kernels fp16":
        pytest.skip("an older card")
    whole = engine.upscale(FACE, NOBODY)
    monkeypatch.setitem(torch_engine.UPSAMPLER_TILE_PX, "cuda", 24)
    assert np.array_equal(engine.upscale(FACE, NOBODY), whole)


def test_the_network_sees_rgb(fp32: SuperResolver, expected: Image) -> None:
    """The network is no symmetric function of its channels: fed BGR, it gives a visibly different picture."""
    swapped = fp32.super_resolve(np.ascontiguousarray(FACE[:, :, ::-1]), 4, NOBODY)[:, :, ::-1]
    assert psnr(swapped, expected) < 45


def test_anime_equals_the_reference_at_4_and_2_and_its_work_adds_up(fp32: SuperResolver) -> None:
    network = RRDBNet(3, 3, scale=4, num_feat=64, num_block=6, num_grow_ch=32)
    reference = RealESRGANer(4, str(ANIME), model=network, tile=0, pre_pad=0, half=False, device=torch.device("cpu"))
    anime = SuperResolver({4: build_rrdbnet(load_state_dict(ANIME), 4)}, select_device("cpu", "fp32"))
    image, steps = FACE[:24, :31], Steps()
    result = anime.super_resolve(image, 4, steps)
    assert max_difference(result, enhance(reference, image)) <= 1
    assert max_difference(anime.super_resolve(image, 2, NOBODY), enhance(reference, image, 2)) <= 1
    assert math.isclose(sum(steps.works), anime.flops(24, 31, 4), rel_tol=1e-9)
    assert 3 < fp32.flops(24, 31, 4) / anime.flops(24, 31, 4) < 23 / 6
    assert psnr(result, fp32.super_resolve(image, 4, NOBODY)) < 40, "this is the network of photographs"


def test_without_x2plus_a_2x_pass_is_the_reference_at_outscale_2(fp32: SuperResolver, reference: RealESRGANer) -> None:
    image = FACE[:20, :31]
    result = fp32.super_resolve(image, 2, NOBODY)
    assert result.shape == (40, 62, 3)
    assert np.abs(result.astype(int) - enhance(reference, image, 2)).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(24, 32), (23, 31), (24, 31)])
def test_x2plus_equals_the_reference_at_even_and_odd_sizes(
    fp32_with_x2plus: SuperResolver, x2_reference: RealESRGANer, height: int, width: int
) -> None:
    image = FACE[:height, :width]
    result = fp32_with_x2plus.super_resolve(image, 2, NOBODY)
    assert result.shape == (height * 2, width * 2, 3)
    assert result.std() > 10
    assert np.abs(result.astype(int) - enhance(x2_reference, image)).max() <= 1


class _Accepting(torch.nn.Module):
    """Takes any state dict: RealESRGANer insists on loading one."""

    def load_state_dict(self, *_args: object, **_options: object) -> None:
        """Nothing."""


def test_upsampler_tiles_leave_no_trace(torch_fp32: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    untiled = torch_fp32.upscale(FACE, NOBODY)
    monkeypatch.setitem(torch_engine.UPSAMPLER_TILE_PX, "cpu", 24)
    assert np.array_equal(torch_fp32.upscale(FACE, NOBODY), untiled)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (2, 3), (9, 1)])
@pytest.mark.parametrize("scale", [2, 4])
def test_tiny_images_and_gray_ones_keep_their_shape(fp32: SuperResolver, shape: tuple[int, ...], scale: int) -> None:
    result = fp32.super_resolve(np.full(shape, 128, np.uint8), scale, NOBODY)
    assert result.shape == (shape[0] * scale, shape[1] * scale, *shape[2:])
    assert result.dtype == np.uint8


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 2, 3), (3, 1, 3)])
def test_x2plus_takes_images_without_a_second_pixel(fp32_with_x2plus: SuperResolver, shape: tuple[int, int, int]) -> None:
    result = fp32_with_x2plus.super_resolve(np.full(shape, 128, np.uint8), 2, NOBODY)
    assert result.shape == (shape[0] * 2, shape[1] * 2, 3)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("gray", [False, True], ids=["rgb", "gray"])
def test_a_gradient_of_sixteen_bits_has_no_steps(fp32: SuperResolver, scale: int, gray: bool) -> None:
    ramp = np.tile(np.linspace(20_000, 23_000, 60).astype(np.uint16), (12, 1))
    result = fp32.super_resolve(ramp if gray else np.repeat(ramp[..., None], 3, axis=2), scale, NOBODY)
    green = (result if gray else result[..., 1])[12, 20:-20].astype(int)
    assert result.dtype == np.uint16
    assert np.abs(green - np.linspace(20_000, 23_000, 60 * scale)[20:-20]).max() < 1500
    assert len(np.unique(green)) > 0.8 * len(green), "eight bits have a dozen levels here"
    assert np.std(green % 257) > 50, "eight bits have steps of 257"


def test_an_overflow_is_redone_in_fp32(fp32: SuperResolver, caplog: pytest.LogCaptureFixture) -> None:
    """fp16 ends at 65,504: features beyond it are NaN in the picture unless somebody looks."""
    hot = build_rrdbnet(load_state_dict(ANIME), 4)
    hot.conv_first.weight *= 1e5
    image = FACE[:8, :8]
    expected = SuperResolver({4: hot}, select_device("cpu", "fp32")).super_resolve(image, 4, NOBODY)
    result = SuperResolver({4: hot}, Device(torch.device("cpu"), torch.float16, 2**32)).super_resolve(image, 4, NOBODY)
    assert psnr(result, expected) > 30
    assert "again in fp32" in caplog.text


def test_progress_adds_up_and_can_stop_a_pass(fp32: SuperResolver, torch_fp32: TorchEngine) -> None:
    steps, of_torch = Steps(), Steps()
    fp32.super_resolve(FACE, 4, steps)
    torch_fp32.upscale(FACE[:8, :8], of_torch)
    assert math.isclose(sum(steps.works), fp32.flops(FACE.shape[0], FACE.shape[1], 4), rel_tol=1e-9)
    assert math.isclose(sum(of_torch.works), torch_fp32.flops(8, 8), rel_tol=1e-9)
    assert len(of_torch.works) > 23 * 15, "each convolution is a step"
    assert max(of_torch.works) < 0.1 * sum(of_torch.works)

    with pytest.raises(InterruptedError):
        fp32.super_resolve(FACE, 4, Steps(most=2))
    with pytest.raises(InterruptedError):
        torch_fp32.upscale(FACE[:8, :8], Steps(most=5))


def test_the_same_image_gives_the_same_bytes(fp32: SuperResolver, result: Image) -> None:
    fp32.super_resolve(FACE[:9, :9], 4, NOBODY)
    assert np.array_equal(fp32.super_resolve(FACE, 4, NOBODY), result)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine's card can be used")
def test_a_card_that_torch_cannot_use_is_said_loudly(tmp_path: Path) -> None:
    driver = tmp_path / "version"
    assert _unusable_gpu_reason(driver) == ""
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.0")
    warning = _unusable_gpu_reason(driver)
    assert "THE GRAPHICS CARD IS NOT USED" in warning
    assert f"CUDA {torch.version.cuda}" in warning


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="DEVICE=cuda"):
        select_device("cuda")


def test_memory_freed_in_a_pass_is_given_out_again_and_returned_after_it() -> None:
    """The kernel clears each page that it gives; an array like the last one should cost nothing of that."""
    watch = """
import resource, sys
import models, torch

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.ones(16 * 2**20)
before = faults()
for _ in range(8):
    torch.ones(16 * 2**20)
again = faults() - before
models.process.return_freed_memory()
before = faults()
torch.ones(16 * 2**20)
sys.stdout.write(f"{again} {faults() - before}")
"""
    run = subprocess.run([sys.executable, "-c", watch], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    again, returned = map(int, run.stdout.split())
    pages = 64 * 2**20 // resource.getpagesize()
    assert again < 6 * pages  # of 8 times as many
    assert returned > pages / 2
