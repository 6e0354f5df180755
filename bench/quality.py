"""What precision and tiles cost: our pictures of real photographs against the plain network's, which sees all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.peers import X4PLUS, Upscale, build_ours
from bench.pictures import Image, largest_difference, psnr_db, square
from bench.results import Sample
from config import Settings


def measure_quality(missing: int, side_px: int, photographs: Sequence[str]) -> Iterator[Sample]:
    """One sample a photograph."""
    ours, same_precision, fp32 = build_ours(side_px), _untiled("ours"), _untiled("fp32")
    for name in photographs[-missing:]:
        image = square(side_px, name)
        picture = ours(image)
        yield {
            "against untiled, same precision, grey levels": largest_difference(picture, same_precision(image)),
            "against untiled fp32, dB": psnr_db(picture, fp32(image)),
        }


def _untiled(precision: str) -> Upscale:
    """basicsr's own network on the whole picture at once, in fp32 or in the precision that ours chooses here."""
    import torch

    from model_utility import build_rrdbnet, load_state_dict, select_device

    settings = Settings.from_env()
    device = select_device(settings.device, settings.precision if precision == "ours" else precision)
    network = build_rrdbnet(load_state_dict(settings.weights_dir / X4PLUS), 4)
    network = network.to(device.torch_device, device.dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def upscale(image: Image) -> Image:
        pixels = torch.from_numpy(image).to(device.torch_device).permute(2, 0, 1)[None]
        batch = (pixels.float() / 255).to(device.dtype).contiguous(memory_format=torch.channels_last)
        result = network(batch)[0].permute(1, 2, 0).float().clamp_(0, 1).mul_(255).round_()
        picture: Image = result.to(torch.uint8).cpu().numpy()
        return picture

    return upscale
