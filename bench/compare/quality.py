"""What tiles and precision cost: results of photographs against our own in one tile, and against the plain model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from unittest import mock

from bench.compare.baselines import X4PLUS, Upscale, build_ours
from bench.images.photographs import Image, largest_difference, psnr_db, square
from bench.results import Sample
from core.config import Settings


def measure_quality(missing: int, side_px: int, photographs: Sequence[str]) -> Iterator[Sample]:
    """One sample a photograph."""
    ours, fp32 = build_ours(side_px), _build_untiled_fp32()
    for name in photographs[-missing:]:
        image = square(side_px, name)
        picture = ours(image)
        with mock.patch.dict("models.engines.torch_engine.UPSAMPLER_TILE_PX", cpu=side_px, cuda=side_px):
            untiled = ours(image)
        yield {
            "against untiled, same precision, grey levels": largest_difference(picture, untiled),
            "against untiled fp32, dB": psnr_db(picture, fp32(image)),
        }


def _build_untiled_fp32() -> Upscale:
    """basicsr's own model, on the whole picture at once."""
    import torch

    from models.checkpoint import load_state_dict
    from models.device import select_device
    from models.engines.rrdbnet import build_rrdbnet

    settings = Settings.from_env()
    device = select_device(settings.device).torch_device
    model = build_rrdbnet(load_state_dict(settings.weights_dir / X4PLUS), 4)
    model = model.to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def upscale(image: Image) -> Image:
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None]
        batch = (pixels.float() / 255).contiguous(memory_format=torch.channels_last)
        result = model(batch)[0].permute(1, 2, 0).clamp_(0, 1).mul_(255).round_()
        picture: Image = result.to(torch.uint8).cpu().numpy()
        return picture

    return upscale
