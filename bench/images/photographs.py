"""The photographs that are measured with, and how alike two pictures are.

They come with scikit-image, whose documentation says whose they are: https://scikit-image.org/docs/stable/api/skimage.data.html
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

Image = NDArray[np.uint8 | np.uint16]

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")


def square(side_px: int, name: str = "astronaut") -> Image:
    """The middle square of a photograph, shrunk to that side: uint8 RGB `(side_px, side_px, 3)`."""
    return photograph(side_px, side_px, name)


def photograph(width: int, height: int, name: str = "astronaut") -> Image:
    """The middle of a photograph, as much as has these proportions, shrunk to that size: uint8 RGB `(height, width, 3)`."""
    whole = PILImage.fromarray(load(name))
    factor = min(whole.width / width, whole.height / height)
    cut_width, cut_height = round(width * factor), round(height * factor)
    left, top = (whole.width - cut_width) // 2, (whole.height - cut_height) // 2
    cut = whole.crop((left, top, left + cut_width, top + cut_height))
    return np.array(cut.resize((width, height), PILImage.Resampling.LANCZOS))


def load(name: str) -> Image:
    """One of scikit-image's pictures, as large as it is: uint8 RGB `(h, w, 3)`."""
    import skimage.data  # a tenth of a second, and not there in tests

    loaded = getattr(skimage.data, name)()
    pixels: Image = loaded[0] if isinstance(loaded, tuple) else loaded
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def jpeg(pixels: Image) -> bytes:
    """A JPEG file of uint8 RGB `(h, w, 3)`, as a camera would have made it."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def largest_difference(first: Image, second: Image) -> int:
    """In grey levels, 0–255."""
    return int(np.abs(first.astype(np.int16) - second).max())


def psnr_db(first: Image, second: Image) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures of one shape, in dB, but 100 at most: JSON has no infinity."""
    squared_error = float(np.mean((first.astype(np.float64) - second) ** 2))
    return min(10 * math.log10(255**2 / squared_error), 100.0) if squared_error else 100.0
