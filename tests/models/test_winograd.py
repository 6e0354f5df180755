"""The engine for CPUs, with the real weights and with small random ones, against torch in fp32."""

from __future__ import annotations

import contextlib
import gc
import math
import re
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.server import ROOT
from core.progress import NullProgress
from models.checkpoint import load_state_dict
from models.device import Image, select_device
from models.engines import winograd
from models.engines.rrdbnet import build_rrdbnet
from models.engines.torch_engine import _to_batch
from models.engines.winograd import WinogradEngine, best_build, unavailable_reason
from models.super_resolution import build_engine
from tests.helpers import WEIGHTS, max_difference, psnr, sample_crop
from tests.models.networks import random_network

from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip - after models has prepared the process

pytestmark = [
    pytest.mark.skipif(best_build() is None, reason=unavailable_reason()),
    pytest.mark.usefixtures("one_torch_thread"),
]

PLENTY = 2**32
TEXTURE = sample_crop(40, 32, left=160, top=45)  # hair and its edge


class Watch(NullProgress):
    """Notes the work that it is told of, and calls `then` with how often it has been told."""

    def __init__(self, then: Callable[[int], None] = lambda _: None) -> None:
        self.works: list[float] = []
        self._then = then

    def advance(self, work: float) -> None:
        self.works.append(work)
        self._then(len(self.works))


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def small() -> WinogradEngine:
    return WinogradEngine(random_network(4, 1), PLENTY, 2)


def engine(network: RRDBNet, memory_bytes: int = PLENTY, threads: int = 2) -> WinogradEngine:
    return WinogradEngine(network, memory_bytes, threads)


@torch.inference_mode()
def expected(network: RRDBNet, image: Image) -> Image:
    """What the network makes of the whole image, on torch in fp32."""
    output = network(_to_batch(image, torch.device("cpu"), network.scale))[0].permute(1, 2, 0)
    result: Image = output.clamp_(0, 1).mul_(np.iinfo(image.dtype).max).round_().numpy().astype(image.dtype)
    return result[: image.shape[0] * network.scale, : image.shape[1] * network.scale]


def threads_alive() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("weights", ["RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B"])
def test_real_networks_are_within_one_grey_level_of_torch(weights: str) -> None:
    network = build_rrdbnet(load_state_dict(WEIGHTS / f"{weights}.pth"), 4)
    ours = engine(network)
    for image in (TEXTURE, noise(25, 31)):
        result, watch = ours.upscale(image, NullProgress()), expected(network, image)
        assert max_difference(result, watch) <= 1
        assert psnr(result, watch) >= 75


@pytest.mark.parametrize(("height", "width"), [(24, 32), (23, 31), (24, 31), (1, 1), (1, 2), (3, 1)])
def test_x2plus_equals_torch_at_even_and_odd_sizes(height: int, width: int) -> None:
    network = random_network(2, 2)
    image = TEXTURE[:height, :width]
    result = engine(network).upscale(image, NullProgress())
    assert result.shape == (height * 2, width * 2, 3)
    assert max_difference(result, expected(network, image)) <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (700, 1), (71, 30), (40, 300), (7, 13), (6, 6), (130, 37)])
def test_any_size_equals_torch(small: WinogradEngine, height: int, width: int) -> None:
    image, watch = noise(height, width), Watch()
    result = small.upscale(image, watch)
    difference = np.abs(result.astype(int) - expected(random_network(4, 1), image))
    assert difference.max() <= 1
    assert difference.mean() < 0.002
    assert math.isclose(sum(watch.works), small.flops(height, width), rel_tol=1e-9)


@pytest.mark.parametrize("scale", [4, 2])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (23, 31), (71, 30)])
def test_sixteen_bits_equal_torch_as_closely_as_eight(scale: int, height: int, width: int) -> None:
    network, image = random_network(scale, 1), np.random.default_rng(1).integers(0, 65536, (height, width, 3), np.uint16)
    result = engine(network).upscale(image, NullProgress())
    assert result.dtype == np.uint16
    assert max_difference(result, expected(network, image)) <= 100, "0.4 of a level of 256"
    bytes_ = engine(network).upscale((image // 257).astype(np.uint8), NullProgress())
    wide = engine(network).upscale(image // 257 * 257, NullProgress())
    assert max_difference((wide + np.uint32(128)) // 257, bytes_) <= 1, "rounded twice, else the same"


def test_the_work_of_a_narrow_picture_is_what_it_takes() -> None:
    """In time of this thread alone, and in turns: what else the machine does slows down all."""
    ours = engine(build_rrdbnet(load_state_dict(WEIGHTS / "RealESRGAN_x4plus_anime_6B.pth"), 4), threads=1)
    narrow = [(1000, 1), (1, 1000), (800, 2), (2, 800), (500, 7), (7, 500), (13, 300)]

    def seconds_per_flop(size: tuple[int, int]) -> float:
        image, start = noise(*size), time.thread_time()
        ours.upscale(image, NullProgress())
        return (time.thread_time() - start) / ours.flops(*size)

    seconds_per_flop((1, 1))  # packs the weights
    turns = [[seconds_per_flop(size) for size in ((80, 80), *narrow)] for _ in range(3)]
    usual, *others = map(min, zip(*turns, strict=True))
    assert [size for size, each in zip(narrow, others, strict=True) if not 1 / 2.5 < each / usual < 2.5] == []


def test_bytes_depend_neither_on_threads_nor_on_the_build() -> None:
    """Sizes of one strip and of two, of one row of tiles a step and of several."""
    network = random_network(4, 1)
    builds = [
        build for build in winograd.CAPABILITIES if winograd._cpu_has(build) and not isinstance(winograd._load(build), str)
    ]
    images = [noise(20, 310), noise(45, 64), noise(180, 12), noise(45, 64) * np.uint16(257)]
    first = [engine(network, threads=1).upscale(image, NullProgress()) for image in images]
    for build in builds:
        for threads in (1, 2, 5):
            ours = WinogradEngine(network, PLENTY, threads, build)
            assert build in ours.name
            assert all(
                np.array_equal(ours.upscale(image, NullProgress()), one) for image, one in zip(images, first, strict=True)
            )


def test_any_strides_are_taken_and_anything_but_rgb_bytes_is_refused(small: WinogradEngine) -> None:
    image = noise(20, 18)
    result = small.upscale(image, NullProgress())
    assert np.array_equal(small.upscale(image[::-1, ::-1][::-1, ::-1], NullProgress()), result)
    assert np.array_equal(small.upscale(np.asfortranarray(image), NullProgress()), result)
    assert np.array_equal(small.upscale(np.repeat(image, 2, axis=1)[:, ::2], NullProgress()), result)
    with pytest.raises(TypeError, match="float32"):
        small.upscale(image.astype(np.float32), NullProgress())
    for wrong in (image[:, :, 0], image[:, :, :2], image[:0]):
        with pytest.raises(ValueError, match="image must be"):
            small.upscale(wrong, NullProgress())


def test_what_progress_raises_ends_the_pass_and_leaves_no_thread(small: WinogradEngine) -> None:
    def stop(_: int) -> None:
        raise InterruptedError("enough")

    alive, started, watch = threads_alive(), time.process_time(), Watch(stop)
    with pytest.raises(InterruptedError, match="enough"):
        small.upscale(np.zeros((1080, 1920, 3), np.uint8), watch)
    assert len(watch.works) == 1
    assert time.process_time() - started < 3, "the whole pass takes ten times that"
    assert threads_alive() <= alive
    assert small.upscale(TEXTURE, NullProgress()).any()


@pytest.mark.parametrize("stopped", [False, True], ids=["done", "stopped"])
def test_nothing_of_a_pass_waits_for_a_garbage_collection(small: WinogradEngine, stopped: bool) -> None:
    def stop(_: int) -> None:
        if stopped:
            raise InterruptedError

    def run() -> weakref.ref[Watch]:
        watch = Watch(stop)
        with contextlib.suppress(InterruptedError):
            small.upscale(noise(150, 150), watch)
        return weakref.ref(watch)

    gc.disable()
    try:
        assert run()() is None
    finally:
        gc.enable()


def test_a_pass_may_run_inside_another_one_whose_threads_sleep_meanwhile(small: WinogradEngine) -> None:
    outer_image = noise(300, 200)
    alone, inner_alone = small.upscale(outer_image, NullProgress()), small.upscale(TEXTURE, NullProgress())
    inner: list[Image] = []
    busy_seconds: list[float] = []

    def nest(count: int) -> None:
        if count == 2:
            inner.append(small.upscale(TEXTURE, NullProgress()))
            time.sleep(0.1)  # what was begun is soon done
            before = time.process_time()
            time.sleep(0.2)
            busy_seconds.append(time.process_time() - before)

    watch = Watch(nest)
    assert np.array_equal(small.upscale(outer_image, watch), alone)
    assert np.array_equal(inner[0], inner_alone)
    assert busy_seconds[0] < 0.1
    assert math.isclose(sum(watch.works), small.flops(300, 200), rel_tol=1e-9)


@pytest.mark.parametrize("scale", [4, 2])
def test_little_memory_tiles_the_body_with_a_small_error(scale: int) -> None:
    network = (
        random_network(scale, 2)
        if scale == 2
        else build_rrdbnet(load_state_dict(WEIGHTS / "RealESRGAN_x4plus_anime_6B.pth"), 4)
    )
    image = sample_crop(130 * 4 // scale, 100 * 4 // scale, left=20, top=10)
    tiled, whole, watch = engine(network, memory_bytes=0), engine(network), Watch()
    result = tiled.upscale(image, watch)
    assert psnr(result, whole.upscale(image, NullProgress())) >= 40
    assert math.isclose(sum(watch.works), tiled.flops(*image.shape[:2]), rel_tol=1e-9)
    assert tiled.flops(*image.shape[:2]) > 2 * whole.flops(*image.shape[:2]), "halos are work"
    assert tiled.memory_bytes(1000, 1000) < whole.memory_bytes(1000, 1000) / 2
    assert tiled.shortages == 0


def test_weights_that_overflow_give_bytes() -> None:
    for factor in (1e30, math.nan):
        network = random_network(4, 1)
        network.conv_first.weight *= factor
        result = engine(network).upscale(TEXTURE, NullProgress())
        assert result.shape == (TEXTURE.shape[0] * 4, TEXTURE.shape[1] * 4, 3)


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="64 features"):
        engine(RRDBNet(3, 3, scale=4, num_feat=32, num_block=1, num_grow_ch=32))


@pytest.fixture
def other_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Of libraries, in place of the true one; empty."""
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(winograd, "SOURCES", tmp_path)
    for cached in (winograd._load, winograd._sources_sha256):
        cached.cache_clear()
    yield tmp_path / "lib"
    for cached in (winograd._load, winograd._sources_sha256):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("library", "reason"),
    [(None, "is not there"), (b"no library", "invalid ELF header|file too short"), ("true", "built from other sources")],
    ids=["missing", "broken", "of other sources"],
)
def test_without_its_library_the_engine_says_why_and_torch_runs(
    other_folder: Path, library: bytes | str | None, reason: str
) -> None:
    for build in winograd.CAPABILITIES:
        path = other_folder / f"winograd_{build}.so"
        if isinstance(library, bytes):
            path.write_bytes(library)
        elif library:
            shutil.copy(Path(winograd.__file__).parent / "lib" / path.name, path)
    assert re.search(reason, unavailable_reason())
    with pytest.raises(RuntimeError, match=reason):
        engine(random_network(4, 1))
    assert build_engine(random_network(4, 1), select_device("cpu")).name == "torch fp32"


def test_a_cpu_that_cannot_run_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable_reason() == ""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert "needs AVX2 and FMA" in unavailable_reason()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "aarch64" in unavailable_reason()


def test_without_memory_a_pass_runs_in_smaller_tiles_or_raises() -> None:
    script = """
import resource, sys
import numpy as np
import models
from basicsr.archs.rrdbnet_arch import RRDBNet
from models.engines.winograd import WinogradEngine
from workers.task import DeviceTask

def limit(more):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))

ours = WinogradEngine(RRDBNet(3, 3, scale=4, num_block=1), 2**32, 2)
image = np.zeros((240, 240, 3), np.uint8)
task = DeviceTask(ours.flops(240, 240))
limit(90 * 2**20)
result = ours.upscale(image, task)
limit(12 * 2**20)
try:
    ours.upscale(image[:200, :200], DeviceTask(0))
except MemoryError:
    sys.stdout.write(f"{result.shape[0]} {ours.shortages > 0} {task.done / task.work:.6f} MemoryError")
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert run.stdout == "960 True 1.000000 MemoryError", run.stderr
