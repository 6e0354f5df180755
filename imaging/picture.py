"""The picture: pixels, transparency and colour profile of one still image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.uint8]

# Pixels converted at a time: no second whole copy exists, and Pillow, where it holds the interpreter's lock, soon lets it go.
STRIPE_PX = 1024 * 1024


@dataclass(frozen=True, eq=False)
class Picture:
    """One still image, upright.

    pixels: uint8, (h, w, 3) in RGB order or (h, w) gray; alpha: uint8, (h, w), 0 is transparent, or None; icc_profile: of the
    same colour space as the pixels, None where they are sRGB or nothing is known. Both arrays of decode_image are contiguous
    and writable.
    """

    pixels: Array
    alpha: Array | None = None
    icc_profile: bytes | None = None

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def size_bytes(self) -> int:
        """Of its pixels in memory."""
        return self.pixels.nbytes + (0 if self.alpha is None else self.alpha.nbytes)


def beside_pixels(picture: Picture) -> dict[str, Any]:
    """The fields of a picture that no network changes: all but its pixels and alpha."""
    return {field.name: getattr(picture, field.name) for field in fields(picture) if field.name not in ("pixels", "alpha")}


def stripes(height: int, width: int) -> Iterator[slice]:
    """Ranges of rows that cover an image of that size, each of at most STRIPE_PX pixels, or of one row."""
    step = max(1, STRIPE_PX // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def as_rgb(pixels: Array) -> Array:
    """uint8 `(h, w, 3)` of `(h, w)` gray; RGB as it is."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def as_gray(pixels: Array) -> Array:
    """uint8 `(h, w)` of `(h, w, 3)` RGB: its luma (ITU-R 601-2)."""
    return np.asarray(Image.fromarray(pixels).convert("L"))


def resized(picture: Picture, width: int, height: int) -> Picture:
    """The picture at that size in pixels, by one antialiased Lanczos filter; one that has it stays as it is."""
    if (picture.width, picture.height) == (width, height):
        return picture

    def resize(plane: Array) -> Array:
        image = Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS)
        resized = np.empty((height, width, *plane.shape[2:]), np.uint8)
        for rows in stripes(height, width):
            resized[rows] = np.asarray(image.crop((0, rows.start, width, rows.stop)))
        return resized

    return replace(picture, pixels=resize(picture.pixels), alpha=None if picture.alpha is None else resize(picture.alpha))
