"""Show what a narrow precision does to a texture: `python -m bench.images.errors` writes `docs/errors.png` and the numbers.

A detail of fur is enlarged four times by basicsr's model in fp32, which is the truth, by the same in bf16, and by this
service. The picture shows the first, and the errors of the other two, amplified. It takes half a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from bench.compare.baselines import OURS, Upscale, rrdbnet
from bench.images.photographs import Image, largest_difference, psnr_db
from bench.images.textures import texture
from bench.server import ROOT

WIDTH, HEIGHT = 72, 72
AMPLIFIED = 32
CAPTION_PX, GAP_PX = 26, 8
FILE = ROOT / "docs" / "errors.png"


def main() -> int:
    """Measure, write the picture, and print its numbers."""
    detail = texture(WIDTH, HEIGHT, "fur")
    truth = build_plain(torch.float32)(detail)
    ours = OURS.build((HEIGHT, WIDTH))(detail)
    results = {"bf16": build_plain(torch.bfloat16)(detail), "this service": truth if ours is None else ours}
    for name, result in results.items():
        largest, psnr = largest_difference(result, truth), psnr_db(result, truth)
        sys.stdout.write(f"{name}: largest error {largest} grey levels, {psnr:.1f} dB\n")
    write_panels(truth, results, FILE)
    return 0


def build_plain(dtype: torch.dtype) -> Upscale:
    """basicsr's own model on the CPU, everything in one type."""
    model = rrdbnet().to(dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def upscale(image: Image) -> Image:
        batch = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255).to(dtype, memory_format=torch.channels_last)
        pixels = model(batch)[0].permute(1, 2, 0).float().clamp_(0, 1).mul_(255).round_()
        result: Image = pixels.to(torch.uint8).numpy()
        return result

    return upscale


def write_panels(truth: Image, results: dict[str, Image], path: Path) -> None:
    """The truth, and beside it each result's error, the largest of the three colours at each pixel; captions above."""
    panels = {"fur, enlarged in fp32": PILImage.fromarray(truth)}
    for name, result in results.items():
        error = np.abs(result.astype(int) - truth).max(axis=2)
        caption = f"{name}: error, {AMPLIFIED} times; at most {error.max()}"
        panels[caption] = PILImage.fromarray(np.minimum(error * AMPLIFIED, 255).astype(np.uint8)).convert("RGB")
    height, width = truth.shape[:2]
    picture = PILImage.new("RGB", (len(panels) * (width + GAP_PX) - GAP_PX, height + CAPTION_PX), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(17)
    for index, (caption, panel) in enumerate(panels.items()):
        left = index * (width + GAP_PX)
        draw.text((left + 2, 2), caption, fill="black", font=font)
        picture.paste(panel, (left, CAPTION_PX))
    picture.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
