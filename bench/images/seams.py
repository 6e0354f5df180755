"""Show what tiles do to a picture: `python -m bench.images.seams` writes `docs/seams.png` and prints the errors.

A detail of the sample is enlarged four times by the reference library without tiles, which is the truth; by the same in tiles
with the usual padding; and by this service. The picture shows the errors of the last two, amplified. It takes half a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.server import ROOT, SAMPLE
from core.config import Settings
from core.progress import NullProgress
from models.checkpoint import load_state_dict
from models.device import select_device
from models.engines.rrdbnet import build_rrdbnet
from models.super_resolution import SuperResolver

from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip - after model_utility's shim
from realesrgan import RealESRGANer  # isort: skip

DETAIL_PX = (130, 20, 322, 148)  # left, top, right, bottom: the face
TILE_PX, PAD_PX = 64, 10
AMPLIFIED = 8
CAPTION_PX = 28
X4PLUS = Settings.from_env().weights_dir / "RealESRGAN_x4plus.pth"


def main() -> int:
    """Measure, write the picture, and print its numbers."""
    with Image.open(SAMPLE) as image:
        detail = np.array(image.convert("RGB").crop(DETAIL_PX))
    truth = _reference(detail, tile_px=0)
    ours = SuperResolver({4: build_rrdbnet(load_state_dict(X4PLUS), 4)}, select_device("cpu", "fp32"))
    results = {
        f"RealESRGANer, tiles of {TILE_PX} px, pad {PAD_PX}": _reference(detail, TILE_PX),
        "this service": ours.super_resolve(detail, 4, NullProgress()),
    }
    errors = {name: np.abs(result.astype(int) - truth).max(axis=2) for name, result in results.items()}
    for name, error in errors.items():
        sys.stdout.write(
            f"{name}: largest error {error.max()} grey levels, 99.9th percentile {np.percentile(error, 99.9):.0f}, "
            f"{(error > 0).mean():.1%} of the pixels differ\n"
        )
    write_errors(errors, ROOT / "docs" / "seams.png")
    return 0


def _reference(image: NDArray[np.uint8], tile_px: int) -> NDArray[np.uint8]:
    """The reference library's result, in fp32 on the CPU; it wants BGR, and gives it."""
    model = RRDBNet(num_in_ch=3, num_out_ch=3, scale=4, num_feat=64, num_block=23, num_grow_ch=32)
    reference = RealESRGANer(
        4, str(X4PLUS), model=model, tile=tile_px, tile_pad=PAD_PX, pre_pad=0, half=False, device=torch.device("cpu")
    )
    enlarged: NDArray[np.uint8] = reference.enhance(image[:, :, ::-1])[0][:, :, ::-1]
    return enlarged


def write_errors(errors: dict[str, NDArray[np.int_]], path: Path) -> None:
    """The errors side by side, each under its caption, as gray PNG."""
    height, width = next(iter(errors.values())).shape
    picture = Image.new("L", (len(errors) * (width + 8) - 8, height + CAPTION_PX), 255)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    for index, (name, error) in enumerate(errors.items()):
        left = index * (width + 8)
        draw.text(
            (left + 4, 3), f"{name}: error, {AMPLIFIED} times amplified; at most {error.max()} of 255", fill=0, font=font
        )
        picture.paste(Image.fromarray(np.minimum(error * AMPLIFIED, 255).astype(np.uint8)), (left, CAPTION_PX))
    picture.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
