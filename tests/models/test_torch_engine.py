"""What a GPU needs of torch's engine and of whoever calls it, as far as a CPU can tell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.progress import NullProgress
from model_utility import Models
from models import device as device_module
from models.device import Device
from models.engines import torch_engine
from models.engines.torch_engine import TorchEngine
from models.face_detection import MEASURED_PX, FaceDetector
from models.face_restoration import FaceRestorer
from models.super_resolution import SuperResolver
from tests.helpers import FakeResolver, max_difference
from tests.models.networks import random_network
from workers.task import DeviceTask

from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip - after models has prepared the process

CPU = torch.device("cpu")
RATE = 1e12


def small_engine() -> TorchEngine:
    return TorchEngine(random_network(4, 1), Device(CPU, torch.float32, 2**50))


def test_a_pass_of_many_tiles_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has to be waited for wherever Python asks a tensor for a value."""
    monkeypatch.setitem(torch_engine.UPSAMPLER_TILE_PX, "cpu", 8)
    waits: list[str] = []

    def counted(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def ask(*arguments: object) -> object:
            waits.append(name)
            return original(*arguments)

        return ask

    for name in ("__bool__", "__int__", "__float__", "item", "tolist", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
    result = small_engine().upscale(np.full((24, 40, 3), 99, np.uint8), NullProgress())
    assert result.shape == (96, 160, 3)
    assert waits == ["__bool__"]


def test_no_tensor_of_the_body_has_more_elements_than_32_bits_count() -> None:
    tile_px = small_engine()._body_tile_px(2**26, 2)
    assert 0.9 * 2**31 < tile_px**2 * 192 < 2**31


@pytest.mark.usefixtures("one_torch_thread")
def test_halos_of_a_device_with_little_memory_are_work() -> None:
    engine, task = TorchEngine(random_network(4, 1), Device(CPU, torch.float32, 0)), DeviceTask(0)
    engine.upscale(np.zeros((100, 130, 3), np.uint8), task)
    assert task.done == pytest.approx(engine.flops(100, 130))
    assert task.done > 2 * small_engine().flops(100, 130)


@pytest.mark.usefixtures("one_torch_thread")
def test_a_shortage_in_the_upsampler_costs_smaller_tiles_and_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, image = small_engine(), np.random.default_rng(1).integers(0, 256, (20, 70, 3), np.uint8)
    whole, upsample, sides = engine.upscale(image, NullProgress()), torch_engine._upsample, []

    def short_of_memory(rrdbnet: RRDBNet, features: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        sides.append(max(features.shape[2:]))
        if sides[-1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return upsample(rrdbnet, features, dtype)

    monkeypatch.setattr(torch_engine, "_upsample", short_of_memory)
    assert np.array_equal(engine.upscale(image, NullProgress()), whole)
    assert engine.shortages == 2
    assert sides[:2] == [70, 66]


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sixteen_bits_are_the_networks_own(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not bytes made wider, from whole pictures and from tiles."""
    image = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), np.uint16)
    engine = TorchEngine(random_network(4, 1), Device(CPU, dtype, 2**50))
    result = engine.upscale(image, NullProgress())
    with torch.inference_mode():
        network = random_network(4, 1)(torch.from_numpy(image.astype(np.float32) / 65535).permute(2, 0, 1)[None])
    expected = network[0].permute(1, 2, 0).clamp(0, 1).numpy() * 65535
    assert result.dtype == np.uint16
    assert result.shape == (80, 120, 3)
    assert len(np.unique(result)) > 5_000
    assert np.abs(result - expected).max() <= (0.51 if dtype is torch.float32 else 200)
    monkeypatch.setitem(torch_engine.UPSAMPLER_TILE_PX, "cpu", 8)
    assert max_difference(engine.upscale(image, NullProgress()), result) <= 2


def test_a_first_pass_sees_what_a_photograph_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card may be faster with zeros, and may choose other kernels."""
    engine, seen = small_engine(), []

    def note(image: NDArray[np.uint8], _progress: object) -> NDArray[np.uint8]:
        seen.append(image)
        return image

    monkeypatch.setattr(engine, "upscale", note)
    engine.run_once()
    assert len(seen) == 1
    assert seen[0].std() > 50


def test_every_network_is_run_once_before_the_first_request() -> None:
    ran = []
    resolver = SuperResolver.__new__(SuperResolver)
    engines = {scale: SimpleNamespace(run_once=lambda scale=scale: ran.append(scale)) for scale in (4, 2)}
    resolver._engines = engines  # type: ignore[assignment]
    Models({"photo": resolver, "anime": resolver}).run_all_once()
    assert ran == [4, 2, 4, 2]


def test_the_threads_current_gpu_is_the_one_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    @contextlib.contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        entered.append(chosen)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    second = torch.device("cuda:1")
    with Device(second, torch.float16, 0).current():
        assert entered == [second]
    with Device(CPU, torch.float32, 0).current():
        assert entered == [second]


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes that long."""
    ticks = iter(range(100))
    monkeypatch.setattr(device_module.time, "perf_counter", lambda: next(ticks) / 2)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("half_a_second")
def test_what_faces_cost_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, restorer = FaceDetector.__new__(FaceDetector), FaceRestorer.__new__(FaceRestorer)
    monkeypatch.setattr(detector, "detect", lambda _image: [])
    monkeypatch.setattr(restorer, "restore", lambda faces: faces)
    monkeypatch.setattr(restorer, "outline", lambda faces: faces)
    Models({"photo": FakeResolver()}, detector, restorer).measure_others(RATE)  # type: ignore[dict-item]
    assert detector.flops(MEASURED_PX, MEASURED_PX) == pytest.approx(RATE / 2)
    assert restorer.flops(3) == pytest.approx(3 * RATE / 2)
