"""Which figures there are, how large the pictures are, and how often each is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench import peers
from bench.network import measure_passes
from bench.pictures import square
from bench.results import Sample, Section

SIDES_PX = (128, 256, 512)
QUICK_DIVISOR = 4


def sections(*, quick: bool) -> dict[str, Section]:
    """By name, in the order in which they are measured. Each takes ten minutes at most on two cores, but for `pass512`."""
    rounds = 2 if quick else 5
    found = [_passes(f"pass{side}", side // QUICK_DIVISOR if quick else side, _peers(side), rounds) for side in SIDES_PX]
    return {section.name: section for section in found}


def _peers(side_px: int) -> Sequence[peers.Peer]:
    """All of them for the small picture; for the larger ones those that matter, since two cores take minutes for each."""
    import torch

    if torch.cuda.is_available():
        return peers.ON_GPU
    few = (peers.REALESRGANER, peers.OPENVINO, peers.OURS)
    return {128: peers.ON_CPU, 256: (*few, peers.NCNN)}.get(side_px, few)


def _passes(name: str, side_px: int, who: Sequence[peers.Peer], rounds: int) -> Section:
    def measure(missing: int) -> Iterator[Sample]:
        return measure_passes(missing, square(side_px), who)

    return Section(name, {"side_px": side_px, "peers": [peer.name for peer in who]}, rounds, measure)


def device_name() -> tuple[str, str]:
    """`cpu` or `cuda`, and what a reader knows it by."""
    from config import Settings
    from model_utility import select_device

    settings = Settings.from_env()
    device = select_device(settings.device, settings.precision, settings.torch_threads)
    return device.torch_device.type, f"{device}, {device.precision}"
