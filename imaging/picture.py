"""The picture: pixels, transparency and colour profile of one still image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.uint8 | np.uint16]

# Pixels converted at a time: no second whole copy exists, and Pillow, where it holds the interpreter's lock, soon lets it go.
STRIPE_PX = 1024 * 1024
LANCZOS_PX = 3  # how far the filter reaches
_LUMA = np.array([19595, 38470, 7471], np.uint32)  # of 65,536, as Pillow has it


@dataclass(frozen=True, eq=False)
class Picture:
    """One still image, upright.

    pixels: uint8 or uint16, (h, w, 3) in RGB order or (h, w) gray; alpha: of that dtype, (h, w), 0 is transparent, or None;
    icc_profile: of the same colour space as the pixels, None where they are sRGB or nothing is known; cicp: the body of a
    PNG's cICP where no profile says the same, as for HDR. Both arrays of decode_image are contiguous and writable.
    """

    pixels: Array
    alpha: Array | None = None
    icc_profile: bytes | None = None
    cicp: bytes | None = None

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


def copied(picture: Picture) -> Picture:
    """The same in memory of its own, which may be written to."""
    return replace(picture, pixels=picture.pixels.copy(), alpha=None if picture.alpha is None else picture.alpha.copy())


def beside_pixels(picture: Picture) -> dict[str, Any]:
    """The fields of a picture that no network changes: all but its pixels and alpha."""
    return {field.name: getattr(picture, field.name) for field in fields(picture) if field.name not in ("pixels", "alpha")}


def stripes(height: int, width: int) -> Iterator[slice]:
    """Ranges of rows that cover an image of that size, each of at most STRIPE_PX pixels, or of one row."""
    step = max(1, STRIPE_PX // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def as_rgb(pixels: Array) -> Array:
    """`(h, w, 3)` of `(h, w)` gray; RGB as it is."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def as_gray(pixels: Array) -> Array:
    """`(h, w)` of `(h, w, 3)` RGB: its luma (ITU-R 601-2)."""
    gray = np.empty(pixels.shape[:2], pixels.dtype)
    for rows in stripes(*pixels.shape[:2]):
        gray[rows] = (pixels[rows] @ _LUMA + 0x8000) >> 16  # fits in 32 bits
    return gray


def eight_bits(pixels: Array) -> Array:
    """Sixteen bits rounded to eight; eight as they are."""
    if pixels.dtype == np.uint8:
        return pixels
    rounded = np.empty(pixels.shape, np.uint8)
    for rows in stripes(*pixels.shape[:2]):
        rounded[rows] = (pixels[rows] + np.uint32(128)) // 257
    return rounded


def resized(picture: Picture, width: int, height: int) -> Picture:
    """The picture at that size in pixels, by one antialiased Lanczos filter; one that has it stays as it is.

    Colours count by their alpha: what is hidden reaches no visible pixel. Pixels of alpha 0 become black.
    """
    if (picture.width, picture.height) == (width, height):
        return picture
    pixels = np.empty((height, width, *picture.pixels.shape[2:]), picture.pixels.dtype)
    if picture.alpha is None and pixels.dtype == np.uint8:
        image = Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.LANCZOS)
        for rows in stripes(height, width):
            pixels[rows] = np.asarray(image.crop((0, rows.start, width, rows.stop)))
        return replace(picture, pixels=pixels)
    alpha = None if picture.alpha is None else np.empty_like(pixels, shape=(height, width))
    for rows in stripes(height, width):
        _resize_rows(picture, pixels, alpha, rows)
    return replace(picture, pixels=pixels, alpha=alpha)


def _resize_rows(picture: Picture, pixels: Array, alpha: Array | None, rows: slice) -> None:
    """Some rows of the result, in floating point, a plane at a time."""
    height, width = pixels.shape[:2]
    ratio = picture.height / height
    reach = math.ceil(LANCZOS_PX * max(ratio, 1)) + 1
    top = max(int(rows.start * ratio) - reach, 0)
    source = slice(top, math.ceil(rows.stop * ratio) + reach)
    box = (0, rows.start * ratio - top, picture.width, min(rows.stop * ratio, picture.height) - top)
    full = np.iinfo(pixels.dtype).max

    def resize(plane: NDArray[Any]) -> NDArray[np.float32]:
        image = Image.fromarray(plane.astype(np.float32))
        return np.array(image.resize((width, rows.stop - rows.start), Image.Resampling.LANCZOS, box))

    weight = visible = np.ones((1, 1), np.float32)
    if picture.alpha is not None and alpha is not None:
        weight = picture.alpha[source].astype(np.float32)
        visible = resize(weight)
        alpha[rows] = np.rint(visible.clip(0, full))
        visible[alpha[rows] == 0] = np.inf
    planes = [...] if pixels.ndim == 2 else [(..., channel) for channel in range(3)]
    for plane in planes:
        pixels[rows][plane] = np.rint((resize(picture.pixels[source][plane] * weight) / visible).clip(0, full))
