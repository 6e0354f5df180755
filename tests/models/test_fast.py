"""The fast models against the reference: animevideov3's real weights, and random ones of general-x4v3's shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from core.progress import NullProgress
from model_utility import Models
from models import device as device_module
from models.checkpoint import load_state_dict
from models.device import Device, Image, select_device
from models.engines import srvgg
from models.engines.srvgg import SrvggEngine, Weights, convolutions_of, flops
from models.engines.winograd import CAPABILITIES, Build, _cpu_has
from models.engines.winograd_srvgg import WinogradSrvgg
from models.fast import KEPT_STRENGTHS, MEASURED_PX, FastModel
from models.super_resolution import Engine
from tests.helpers import WEIGHTS, FakeResolver, max_difference, psnr, sample_crop
from tests.models.networks import Steps, random_compact
from workers.task import DeviceTask

from realesrgan import RealESRGANer  # isort: skip - after models has prepared the process
from realesrgan.archs.srvgg_arch import SRVGGNetCompact  # isort: skip

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ANIME = WEIGHTS / "realesr-animevideov3.pth"
NOBODY = NullProgress()
PLENTY = 2**40
CPU = Device(torch.device("cpu"), torch.float32, PLENTY)
FACE = sample_crop(72, 64, left=170, top=60)
PICTURES = [FACE, FACE[:33, :57], FACE[:1, :1], FACE[:1], FACE[:, :2]]
BUILDS = [build for build in CAPABILITIES if _cpu_has(build)]

Make = Callable[..., Engine]


def on_torch(weights: Weights, memory_bytes: int = PLENTY) -> SrvggEngine:
    return SrvggEngine(lambda: weights, convolutions_of(weights), Device(CPU.torch_device, CPU.dtype, memory_bytes))


def on_winograd(weights: Weights, memory_bytes: int = PLENTY, threads: int = 2, build: Build | None = None) -> WinogradSrvgg:
    return WinogradSrvgg(lambda: weights, convolutions_of(weights), memory_bytes, threads, build)


ENGINES = [pytest.param(on_torch, id="torch")] + ([pytest.param(on_winograd, id="winograd")] if BUILDS else [])


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files as the official ones are: of the network and of its twin."""
    folder = tmp_path_factory.mktemp("general")
    paths = folder / "x4v3.pth", folder / "wdn.pth"
    for seed, path in enumerate(paths):
        torch.save({"params": random_compact(seed)}, path)
    return paths


def enhance(
    image: Image, model_path: str | list[str], convolutions: int, outscale: int, shares: list[float] | None = None
) -> Image:
    """What the reference makes of RGB."""
    network = SRVGGNetCompact(num_conv=convolutions - 2, upscale=4, act_type="prelu")
    options = {"dni_weight": shares, "model": network, "tile": 0, "pre_pad": 0, "half": False, "device": CPU.torch_device}
    output: Image = RealESRGANer(4, model_path, **options).enhance(image[:, :, ::-1], outscale=outscale)[0][:, :, ::-1]
    return output


@pytest.mark.parametrize("outscale", [4, 2])
def test_anime_fast_equals_the_reference_within_one_grey_level(outscale: int) -> None:
    ours = FastModel(load_state_dict(ANIME), CPU).at(1.0)
    for image in PICTURES:
        result = ours.super_resolve(image, outscale, NOBODY)
        assert max_difference(result, enhance(image, str(ANIME), 18, outscale)) <= 1
    assert psnr(ours.super_resolve(FACE, 4, NOBODY)[::4, ::4], FACE) > 20, "the result is another picture"


@pytest.mark.parametrize("denoise", [1.0, 0.5, 0.0])
def test_photo_fast_equals_the_reference_at_any_denoise(general: tuple[Path, Path], denoise: float) -> None:
    usual, weak = general
    ours = FastModel(load_state_dict(usual), CPU, load_state_dict(weak)).at(denoise)
    for outscale, images in ((4, PICTURES), (2, PICTURES[1:3])):
        for image in images:
            expected = enhance(image, [str(usual), str(weak)], 34, outscale, [denoise, 1 - denoise])
            assert max_difference(ours.super_resolve(image, outscale, NOBODY), expected) <= 1


def test_each_denoise_gives_a_picture_of_its_own_and_few_are_kept(general: tuple[Path, Path]) -> None:
    model = FastModel(load_state_dict(general[0]), CPU, load_state_dict(general[1]))
    strengths = [1.0, 0.75, 0.5, 0.0]
    pictures = [model.at(denoise).super_resolve(FACE, 4, NOBODY) for denoise in strengths]
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert model.at(1.0) is model.at(1.0)
    assert [model.at(denoise) is model.at(denoise) for denoise in strengths] == [True] * 4
    kept = [model.at(denoise) for denoise in strengths[-KEPT_STRENGTHS:]]
    model.at(0.25)
    assert model.at(strengths[-1]) is kept[-1]
    assert model.at(strengths[-KEPT_STRENGTHS]) is not kept[0]


def test_weights_of_another_network_are_refused_at_the_start() -> None:
    weights = dict(random_compact(0, 18))
    del weights["body.1.weight"]
    with pytest.raises(RuntimeError, match=r"body\.1\.weight"):
        FastModel(weights, CPU)
    with pytest.raises(RuntimeError, match="size mismatch"):
        FastModel(random_compact(0, 18), CPU, random_compact(0, 18) | {"body.0.bias": torch.zeros(3)})


@pytest.mark.parametrize("make", ENGINES)
def test_16_bits_come_from_the_networks_own_numbers(make: Make) -> None:
    engine = make(random_compact(0, 18))
    narrow = engine.upscale(FACE, NOBODY)
    wide: Any = engine.upscale(cast(Any, FACE.astype(np.uint16) * 257), NOBODY)
    assert (wide.dtype.name, narrow.dtype.name) == ("uint16", "uint8")
    assert np.abs(wide / 257 - narrow).max() <= 0.51
    assert len(np.unique(wide)) > 10 * len(np.unique(narrow))


def test_tiles_leave_no_trace_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_compact(0, 18)
    whole = on_torch(weights).upscale(FACE, NOBODY)
    monkeypatch.setattr(srvgg, "TILE_PX", 24)
    assert np.array_equal(on_torch(weights).upscale(FACE, NOBODY), whole)


@pytest.mark.skipif(not BUILDS, reason="no engine for this CPU")
def test_tiles_of_the_engine_for_cpus_are_off_by_rounding() -> None:
    weights, image = random_compact(0, 18), sample_crop(160, 130)
    whole, tiled = on_winograd(weights), on_winograd(weights, memory_bytes=0)
    task = DeviceTask(0)
    result, expected = tiled.upscale(image, task), whole.upscale(image, NOBODY)
    assert max_difference(result, expected) <= 1
    assert np.mean(result != expected) < 0.001
    assert task.done == pytest.approx(tiled.flops(130, 160))
    assert tiled.flops(130, 160) > 2 * whole.flops(130, 160), "halos are work"
    assert tiled.memory_bytes(1000, 1000) < whole.memory_bytes(1000, 1000) / 2
    assert tiled.shortages == 0


@pytest.mark.skipif(not BUILDS, reason="no engine for this CPU")
def test_the_engine_for_cpus_gives_the_same_bytes_with_any_threads_and_either_build() -> None:
    weights, image = random_compact(0, 18), np.rot90(sample_crop(97, 50))  # of any strides
    first, *others = [
        on_winograd(weights, threads=threads, build=build).upscale(image, NOBODY) for build in BUILDS for threads in (1, 3)
    ]
    assert all(np.array_equal(first, other) for other in others)
    assert max_difference(first, on_torch(weights).upscale(np.ascontiguousarray(image), NOBODY)) <= 1


@pytest.mark.skipif(not BUILDS, reason="no engine for this CPU")
def test_weights_that_overflow_give_bytes() -> None:
    for factor in (1e30, math.nan):
        weights = random_compact(0, 18)
        weights["body.0.weight"] *= factor
        assert on_winograd(weights).upscale(FACE, NOBODY).shape == (256, 288, 3)


@pytest.mark.parametrize("make", ENGINES)
@pytest.mark.parametrize("size", [(60, 54), (7, 31)])
def test_progress_adds_up_and_can_stop_a_pass(make: Make, size: tuple[int, int]) -> None:
    engine, steps = make(random_compact(0, 18)), Steps()
    engine.upscale(FACE[: size[0], : size[1]], steps)
    assert math.isclose(sum(steps.works), engine.flops(*size), rel_tol=1e-9)
    with pytest.raises(InterruptedError):
        engine.upscale(sample_crop(300, 200), Steps(most=1))
    engine.upscale(FACE[:8, :8], NOBODY)


def test_each_convolution_of_torch_is_a_step() -> None:
    steps = Steps()
    on_torch(random_compact(0)).upscale(FACE[:8, :8], steps)
    assert len(steps.works) == 34
    assert sum(steps.works) == pytest.approx(flops(34, 64))


def test_a_shortage_costs_smaller_tiles_and_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, residual, sides = on_torch(random_compact(0, 18)), srvgg._residual, []
    whole = engine.upscale(sample_crop(200, 40), NOBODY)

    def short_of_memory(network: SRVGGNetCompact, pixels: torch.Tensor, progress: NullProgress) -> torch.Tensor:
        sides.append(max(pixels.shape[2:]))
        if sides[-1] > 140:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return residual(network, pixels, progress)

    monkeypatch.setattr(srvgg, "_residual", short_of_memory)
    assert np.array_equal(engine.upscale(sample_crop(200, 40), NOBODY), whole)
    assert engine.shortages == 1
    assert sides[0] == 200


def test_an_overflow_is_redone_in_fp32(caplog: pytest.LogCaptureFixture) -> None:
    """fp16 ends at 65,504: features beyond it are NaN in the picture unless somebody looks."""
    hot, image = random_compact(0, 18), FACE[:12, :12]
    hot["body.0.weight"] *= 1e6
    hot["body.34.weight"] *= 1e-6
    narrow = SrvggEngine(lambda: hot, 18, Device(CPU.torch_device, torch.float16, PLENTY))
    assert max_difference(narrow.upscale(image, NOBODY), on_torch(hot).upscale(image, NOBODY)) == 0
    assert "again in fp32" in caplog.text


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything takes that long."""
    ticks = iter(range(100))
    monkeypatch.setattr(device_module.time, "perf_counter", lambda: next(ticks) / 2)  # type: ignore[attr-defined]
    yield


@pytest.mark.usefixtures("half_a_second")
def test_what_a_pass_costs_is_measured_and_told_as_it_is_predicted() -> None:
    model, side_px = FastModel(random_compact(0, 18), CPU), MEASURED_PX["cpu"]
    before = model.at(1.0).flops(side_px, side_px, 4)
    Models({"photo": FakeResolver()}, fast={"anime_fast": model}).measure_others(1e12)  # type: ignore[dict-item]
    assert model.at(1.0).flops(side_px, side_px, 4) == pytest.approx(1e12 / 2)
    assert before != pytest.approx(1e12 / 2)
    steps = Steps()
    model.at(1.0).super_resolve(FACE, 2, steps)
    assert sum(steps.works) == pytest.approx(model.at(1.0).flops(64, 72, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_gpu_is_within_50_db_of_the_reference_and_repeats_itself(precision: str) -> None:
    for weights in (load_state_dict(ANIME), random_compact(0)):
        expected = on_torch(weights).upscale(FACE, NOBODY)
        on_gpu = FastModel(weights, select_device("cuda", precision)).at(1.0)
        result = on_gpu.super_resolve(FACE, 4, NOBODY)
        assert psnr(result, expected) >= 50
        assert np.array_equal(on_gpu.super_resolve(FACE, 4, NOBODY), result)
        engine = SrvggEngine(partial(dict, weights), convolutions_of(weights), select_device("cuda", precision))
        wide: Any = engine.upscale(cast(Any, FACE.astype(np.uint16) * 257), NOBODY)
        assert np.abs(wide / 257 - result).max() <= 0.51
