"""What is measured: the sections, the sizes of their pictures, and the number of rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image as PILImage

from bench.compare import baselines
from bench.compare.passes import measure_busy, measure_passes, measure_sizes
from bench.compare.quality import measure_quality
from bench.compare.runner import Section
from bench.compare.service import measure_http, measure_memory, measure_starts
from bench.images.photographs import PHOTOGRAPHS, photograph, square
from bench.images.textures import TEXTURES
from bench.results import Sample
from bench.server import SAMPLE
from core.config import Settings

ROUNDS = 5
FEW = 3  # where one takes a minute
BUSY_COUNTS = (0, 2, 4)

ON_CPU = {
    (128, 128): (baselines.REALESRGANER, baselines.ONNXRUNTIME, baselines.NCNN, baselines.OPENVINO, baselines.OURS),
    (192, 128): (baselines.REALESRGANER, baselines.TORCH, baselines.OURS_AVX2, baselines.OURS),
    (256, 256): (baselines.REALESRGANER, baselines.NCNN, baselines.OPENVINO, baselines.OURS),
    (512, 512): (baselines.REALESRGANER, baselines.OURS),  # OpenVINO needs more than 22 GB for it
    (300, 40): (baselines.REALESRGANER, baselines.OURS_AVX2, baselines.OURS),
}
"""By width and height: the engines that matter there, since two cores take a minute for the largest."""


def sections(*, quick: bool) -> dict[str, Section]:
    """By name, in the order in which they are measured: twenty minutes in all on two cores, four at most for each."""
    found = _quick_sections() if quick else _sections()
    return {section.name: section for section in found}


def _sections() -> list[Section]:
    return [
        *(_passes(size, size, FEW if size == (512, 512) else ROUNDS) for size in ON_CPU),
        _busy((192, 128), FEW),
        _sizes([96, 136, 192, 272], FEW),
        _quality((192, 128), PHOTOGRAPHS, TEXTURES),
        _http(300, FEW),
        _memory(540, FEW),
        _paste((7680, 4320), 10, FEW),
        *_fast((480, 300), FEW),
        Section("start", {}, FEW, measure_starts),
    ]


def _quick_sections() -> list[Section]:
    """The same with small pictures and one or two rounds; the larger passes would show nothing new."""
    return [
        _passes((128, 128), (32, 32), 2, without=baselines.ONNXRUNTIME),  # to export it takes half a minute
        _passes((192, 128), (48, 32), 1),
        _busy((24, 16), 1),
        _sizes([32, 64], 1),
        _quality((32, 24), PHOTOGRAPHS[:2], TEXTURES[:2]),
        _http(16, 1),
        _memory(16, 1),
        _paste((1920, 1080), 3, 2),
        *_fast((48, 30), 1),
        Section("start", {}, 1, measure_starts),
    ]


def _passes(
    name_size: tuple[int, int], size: tuple[int, int], rounds: int, *, without: baselines.Engine | None = None
) -> Section:
    """One pass of a picture of `size` by the engines that are for `name_size`, the size of the full measurement."""
    on_gpu = _has_gpu()
    candidates = baselines.ON_GPU if on_gpu else baselines.runnable(ON_CPU[name_size])
    engines = [engine for engine in candidates if engine is not without]
    yardstick = baselines.BF16_PRODUCT if on_gpu else baselines.FP32_PRODUCT

    def measure(missing: int) -> Iterator[Sample]:
        return measure_passes(missing, photograph(*size), engines, yardstick)

    settings = {"width": size[0], "height": size[1], "engines": [engine.name for engine in engines]}
    return Section(f"pass{_words(*name_size)}", settings, rounds, measure)


def _fast(size: tuple[int, int], rounds: int) -> Iterator[Section]:
    """One pass of each fast network whose weights are there, beside one of x4plus."""
    for file, engines in baselines.FAST.items():
        if (Settings.from_env().weights_dir / file).exists():
            settings = {"width": size[0], "height": size[1], "file": file}
            measure = partial(measure_passes, image=photograph(*size), engines=engines, yardstick=baselines.X4PLUS_PASS)
            yield Section(file.removesuffix(".pth"), settings, rounds, measure)


def _words(width: int, height: int) -> str:
    """How a section is called after a size: 128, 192x128."""
    return f"{width}" if width == height else f"{width}x{height}"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _busy(size: tuple[int, int], rounds: int) -> Section:
    def measure(missing: int) -> Iterator[Sample]:
        return measure_busy(missing, photograph(*size), BUSY_COUNTS)

    return Section("busy", {"width": size[0], "height": size[1], "busy": list(BUSY_COUNTS)}, rounds, measure)


def _sizes(sides_px: list[int], rounds: int) -> Section:
    def measure(missing: int) -> Iterator[Sample]:
        return measure_sizes(missing, [square(side_px) for side_px in sides_px])

    return Section("sizes", {"sides_px": sides_px}, rounds, measure)


def _quality(size: tuple[int, int], photographs: Sequence[str], textures: Sequence[str]) -> Section:
    engines = (baselines.OURS,) if _has_gpu() else (baselines.OURS, baselines.OPENVINO)
    names = [*photographs, *textures]

    def measure(missing: int) -> Iterator[Sample]:
        return measure_quality(missing, *size, names, engines)

    settings = {"width": size[0], "height": size[1], "photographs": list(photographs), "textures": list(textures)}
    return Section("quality", settings, len(names), measure)


def _http(height: int, rounds: int) -> Section:
    """The sample, 480 px wide in any case, so that 2k is one pass of 4×."""

    def measure(missing: int) -> Iterator[Sample]:
        with PILImage.open(SAMPLE) as sample:
            return measure_http(missing, np.array(sample.convert("RGB"))[:height])

    return Section("http", {"width": 480, "height": height}, rounds, measure)


def _memory(height: int, rounds: int) -> Section:
    """960 px wide in any case, so that 4k is one pass of 4×."""

    def measure(missing: int) -> Iterator[Sample]:
        return measure_memory(missing, square(960)[:height], "4k")

    return Section("memory", {"width": 960, "height": height}, rounds, measure)


def _paste(size: tuple[int, int], face_count: int, rounds: int) -> Section:
    def measure(missing: int) -> Iterator[Sample]:
        from bench.compare.paste import measure_paste  # imports torch

        return measure_paste(missing, *size, face_count)

    return Section("paste", {"width": size[0], "height": size[1], "faces": face_count}, rounds, measure)


def device_name() -> tuple[str, dict[str, Any]]:
    """`cpu` or `cuda`, and what a reader knows the device and our engine on it by."""
    device = baselines.device()
    described = {"device": str(device), "precision": device.precision, "engine": baselines.engine_name()}
    return device.torch_device.type, {**described, "threads": baselines.threads()}
