"""The pixels of TIFF and GIF files, from what their decoders unpack; colours out of premultiplied ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from imaging.containers import tiff
from imaging.containers.gif import GifHeader
from imaging.containers.tiff import TiffHeader
from imaging.picture import stripes

Samples = NDArray[Any]


def unmultiplied(color: Samples, alpha: Samples) -> Samples:
    """The colours `(n, w, c)` that were multiplied with `alpha`, both of the same unsigned type; black where it is 0."""
    full = np.iinfo(alpha.dtype).max
    divisor = np.maximum(alpha, 1).astype(np.uint32)[..., None]
    whole: Samples = np.minimum((color.astype(np.uint32) * full + divisor // 2) // divisor, full)
    return whole.astype(alpha.dtype)


def decode_gif(data: bytes, header: GifHeader) -> Iterator[tuple[slice, Samples, Samples]]:
    """Ranges of rows of the picture: their colours `(n, w, 3)` and alpha `(n, w)`."""
    left, top, width, height = header.frame
    # -1: what is transparent is for us to say
    frame = Image.frombytes(
        "L", (width, height), data[header.pixels_at :], "gif", (header.code_bits, header.is_interlaced, -1)
    )
    colors = np.zeros((256, 4), np.uint8)
    colors[: len(header.palette) // 3, :3] = np.frombuffer(header.palette, np.uint8).reshape(-1, 3)
    colors[:, 3] = 255
    if header.transparent is not None:
        colors[header.transparent, 3] = 0
    with closing(frame):
        for rows in stripes(header.size[1], header.size[0]):
            picture = np.zeros((rows.stop - rows.start, header.size[0], 4), np.uint8)
            first, last = max(rows.start, top), min(rows.stop, top + height)
            if first < last:
                indices = np.asarray(frame.crop((0, first - top, width, last - top)))
                picture[first - rows.start : last - rows.start, left : left + width] = colors[indices]
            yield rows, picture[..., :3], picture[..., 3]


class _SamplesFile(TiffImageFile):
    """Strips or tiles as one gray image, whose width in bytes Pillow would take for pixels, and for too many."""

    def load_prepare(self) -> None:
        ImageFile.load_prepare(self)


def decode_tiff(
    data: bytes, header: TiffHeader, inks_to_rgb: Callable[[Samples], Samples]
) -> Iterator[tuple[slice, Samples, Samples | None]]:
    """Ranges of rows of the picture, their colours `(n, w, 1 or 3)` and alpha `(n, w)`, if it has any."""
    wanted = [*range(header.color_count), *([] if header.alpha is None else [header.alpha])]
    planes = wanted if header.is_planar else [0]
    with ExitStack() as stack:
        images = []
        for plane in planes:
            image = stack.enter_context(closing(_SamplesFile(io.BytesIO(tiff.samples_file(data, header, plane)))))
            image.load()
            images.append(image)
        for rows in stripes(header.size[1], header.size[0]):
            parts = [_samples(image, rows, header) for image in images]
            samples = np.concatenate(parts, axis=2) if header.is_planar else parts[0][..., wanted]
            alpha = None if header.alpha is None else samples[..., -1]
            yield rows, _colors(samples[..., : header.color_count], alpha, header, inks_to_rgb), alpha


def _samples(image: Image.Image, rows: slice, header: TiffHeader) -> Samples:
    """Of one plane, `(n, w, samples of a pixel)`: as the file has them, but for their order of bytes."""
    width, count = header.size[0], 1 if header.is_planar else header.sample_count
    packed = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
    if header.depth < 8:
        bits = np.unpackbits(packed, axis=1).reshape(len(packed), -1, header.depth)
        weights = 1 << np.arange(header.depth - 1, -1, -1)
        return (bits[:, :width] @ weights.astype(np.uint8))[..., None]
    samples = packed.view(header.order + f"u{header.depth // 8}").reshape(len(packed), width, count)
    samples = samples.astype(samples.dtype.newbyteorder("="))
    if header.has_differences:
        step = header.tile[0] if header.tile else width
        for left in range(0, width, step):
            piece = samples[:, left : left + step]
            np.cumsum(piece, axis=1, dtype=samples.dtype, out=piece)
    return samples


def _colors(colors: Samples, alpha: Samples | None, header: TiffHeader, inks_to_rgb: Callable[[Samples], Samples]) -> Samples:
    if header.photometric == tiff.PALETTE:
        return np.array(header.palette, np.uint8).reshape(3, -1).T[colors[..., 0]]
    if header.depth < 8:
        colors = colors * np.uint8(255 // (2**header.depth - 1))
    if header.photometric == tiff.WHITE_IS_ZERO:
        colors = ~colors
    if alpha is not None and header.is_premultiplied:
        colors = unmultiplied(colors, alpha)
    return inks_to_rgb(np.ascontiguousarray(colors)) if header.photometric == tiff.INKS else colors
