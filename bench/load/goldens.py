"""Small pictures of every format and kind, with the results that they must give, byte for byte."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bench.server import SAMPLE
from core.config import OutputFormat, Settings
from core.progress import NullProgress
from imaging.decode import decode_image
from imaging.encode import encode_image
from imaging.formats import open_image
from imaging.picture import Picture
from model_utility import load_models
from schemas.params import UpscaleParams
from schemas.plan import Size, plan_upscale
from upscale import Upscaler

KINDS = (
    ("RGB", "PNG"),
    ("RGB", "JPEG"),
    ("RGB", "WEBP"),
    ("RGB", "BMP"),
    ("L", "PNG"),
    ("L", "JPEG"),
    ("RGBA", "PNG"),
    ("P", "BMP"),
)
HEIGHTS_PX = (1, 2, 5)


@dataclass(frozen=True, eq=False)
class GoldenPicture:
    """A picture to send, and what the pipeline makes of it."""

    file: bytes
    enlarged: Picture

    def result(self, output_format: OutputFormat, quality: int) -> bytes:
        """The file that the service must respond with."""
        return encode_image(self.enlarged, output_format, quality)[0]


def make_golden_pictures() -> list[GoldenPicture]:
    """Each picture, enlarged to 2k by this process's own pipeline."""
    upscaler = Upscaler(load_models(Settings.from_env()))
    return [
        GoldenPicture(file, upscaler.run(decoded, plan, UpscaleParams(), NullProgress()).picture)
        for file in _files()
        for decoded in [decode_image(open_image(file))[0]]
        for plan in [plan_upscale(Size(decoded.width, decoded.height), "2k")]
    ]


def _files() -> list[bytes]:
    photograph = Image.open(SAMPLE).convert("RGB")
    files = []
    for number, (mode, image_format) in enumerate(KINDS):
        for height in HEIGHTS_PX:
            left, top = 10 * number, 20 * number + height
            strip = np.tile(np.asarray(photograph.crop((left, top, left + 270, top + height))), (1, 2, 1))
            files.append(_encode(Image.fromarray(strip[:, : 515 + 3 * number]).convert(mode), image_format))
    return files


def _encode(image: Image.Image, image_format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format)
    return file.getvalue()
