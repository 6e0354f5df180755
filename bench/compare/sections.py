"""What is measured: the sections, the sizes of their pictures, and the number of rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.compare import baselines
from bench.compare.passes import measure_passes, measure_sizes
from bench.compare.quality import measure_quality
from bench.compare.runner import Section
from bench.compare.service import measure_memory, measure_overhead, measure_starts
from bench.images.photographs import PHOTOGRAPHS, square
from bench.results import Sample

ROUNDS = 5
SIDES_PX = (128, 256, 512)


def sections(*, quick: bool) -> dict[str, Section]:
    """By name, in the order in which they are measured. Each takes ten minutes at most on two cores, but for `pass512`."""
    found = _quick_sections() if quick else _sections()
    return {section.name: section for section in found}


def _sections() -> list[Section]:
    return [
        *(_passes(f"pass{side_px}", side_px, _engines(side_px), ROUNDS) for side_px in SIDES_PX),
        _sizes([128, 181, 256, 362, 512], ROUNDS),
        _quality(256),
        _overhead(512, ROUNDS),
        _memory(540, ROUNDS),
        _paste((7680, 4320), 10, ROUNDS),
        Section("start", {}, ROUNDS, measure_starts),
    ]


def _quick_sections() -> list[Section]:
    """The same with small pictures, all engines and two rounds; the larger passes would show nothing new."""
    return [
        _passes("pass128", 32, _engines(128), 2),
        _sizes([32, 64], 2),
        _quality(32),
        _overhead(32, 2),
        _memory(32, 1),
        _paste((1920, 1080), 3, 2),
        Section("start", {}, 1, measure_starts),
    ]


def _engines(side_px: int) -> Sequence[baselines.Engine]:
    """All of them for the small picture; for the larger ones those that matter, since two cores take minutes for each.

    OpenVINO needs more than 22 GB for 512².
    """
    import torch

    if torch.cuda.is_available():
        return baselines.ON_GPU
    few = (baselines.REALESRGANER, baselines.OURS)
    return {128: baselines.ON_CPU, 256: (*few, baselines.OPENVINO, baselines.NCNN)}.get(side_px, few)


def _passes(name: str, side_px: int, engines: Sequence[baselines.Engine], rounds: int) -> Section:
    def measure(missing: int) -> Iterator[Sample]:
        return measure_passes(missing, square(side_px), engines)

    return Section(name, {"side_px": side_px, "engines": [engine.name for engine in engines]}, rounds, measure)


def _sizes(sides_px: list[int], rounds: int) -> Section:
    def measure(missing: int) -> Iterator[Sample]:
        return measure_sizes(missing, [square(side_px) for side_px in sides_px])

    return Section("sizes", {"sides_px": sides_px}, rounds, measure)


def _quality(side_px: int) -> Section:
    def measure(missing: int) -> Iterator[Sample]:
        return measure_quality(missing, side_px, PHOTOGRAPHS)

    return Section("quality", {"side_px": side_px, "photographs": list(PHOTOGRAPHS)}, len(PHOTOGRAPHS), measure)


def _overhead(height: int, rounds: int) -> Section:
    """512 px wide in any case, so that 2k is one pass of 4×."""

    def measure(missing: int) -> Iterator[Sample]:
        return measure_overhead(missing, square(512)[:height])

    return Section("http", {"width": 512, "height": height}, rounds, measure)


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
    """`cpu` or `cuda`, and what a reader knows the device by."""
    from core.config import Settings
    from models.device import select_device

    settings = Settings.from_env()
    device = select_device(settings.device, settings.precision, settings.torch_threads)
    return device.torch_device.type, {"device": str(device), "precision": device.precision}
