"""Image files to pictures, upright and in eight bits a channel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import cast

import numpy as np
from PIL import Image, ImageCms
from PIL.WebPImagePlugin import WebPImageFile

from imaging.colour import use_colours
from imaging.formats import OpenedImage, translate_errors
from imaging.picture import Array, Picture, stripes


def decode_image(opened: OpenedImage) -> tuple[Picture, list[str]]:
    """The upright picture in an opened file, and warnings for the client in whole sentences.

    Sixteen bits become eight, palettes and CMYK become RGB; gray stays gray. A profile is kept only where it describes the
    pixels that are returned: not one of RGB on a gray image, which PNG forbids and other readers ignore as well.

    Raises:
        BrokenImage: it is truncated or damaged.
    """
    warnings: list[str] = []
    orientation = _orientation(opened, warnings)
    colours = use_colours(opened, warnings)
    is_webp = opened.plugin is WebPImageFile
    with translate_errors("WebP" if is_webp else opened.plugin.format):
        pixels, alpha = _decode_webp(opened) if is_webp else _decode_others(opened, colours.to_srgb)
    turn = _TURNS[orientation]
    upright_alpha = None if alpha is None else np.ascontiguousarray(turn(alpha))
    return Picture(np.ascontiguousarray(turn(pixels)), upright_alpha, colours.icc_profile, colours.cicp), warnings


def header_warnings(opened: OpenedImage) -> list[str]:
    """The warnings of `decode_image`, from the header alone."""
    warnings: list[str] = []
    _orientation(opened, warnings)
    use_colours(opened, warnings)
    return warnings


def decoding_bytes(opened: OpenedImage) -> int:
    """What `decode_image` takes in memory at its peak, at most: measured for each format and mode, and rounded up."""
    return opened.width * opened.height * (7 if opened.is_gray else 12)


def _orientation(opened: OpenedImage, warnings: list[str]) -> int:
    if (orientation := opened.orientation) is None:
        warnings.append("The EXIF data is damaged: the image was not rotated.")
    return orientation or 1


_TURNS: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def _decode_webp(opened: OpenedImage) -> tuple[Array, Array | None]:
    """With OpenCV: Pillow holds the interpreter's lock meanwhile, for a second at 7680×7680, and takes twice the memory."""
    import cv2  # here, since it takes a fifth of a second

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong with a file is its client's to know
    try:
        decoded = cv2.imdecode(np.frombuffer(opened.file.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        if exc.code == cv2.Error.StsNoMem:
            raise MemoryError(str(exc)) from exc
        raise
    if decoded is None or decoded.shape[1::-1] != opened.size:
        raise ValueError("libwebp does not decode it")
    pixels, alpha = _empty(opened)
    for rows in stripes(*decoded.shape[:2]):
        pixels[rows] = decoded[rows, :, 2::-1]
        if alpha is not None:
            alpha[rows] = decoded[rows, :, 3] if decoded.shape[2] == 4 else 255
    return pixels, alpha


def _decode_others(opened: OpenedImage, to_srgb: ImageCms.ImageCmsTransform | None) -> tuple[Array, Array | None]:
    pixels, alpha = _empty(opened)
    with closing(opened.load()) as image:
        for rows in stripes(image.height, image.width):
            stripe = _plain(image.crop((0, rows.start, image.width, rows.stop)), to_srgb)
            samples = np.asarray(stripe).reshape(-1, image.width, len(stripe.getbands()))
            color = samples[..., : pixels.shape[2]]
            if alpha is not None:
                key = opened.file.color_key
                alpha[rows] = samples[..., -1] if key is None else np.where((color == key).all(axis=2), 0, 255)
            pixels[rows] = color if color.dtype == np.uint8 else (color.astype(np.uint32) + 128) // 257  # round(v / 257)
    return pixels[..., 0] if opened.is_gray else pixels, alpha


def _empty(opened: OpenedImage) -> tuple[Array, Array | None]:
    width, height = opened.size
    alpha = np.empty((height, width), np.uint8) if opened.has_alpha else None
    return np.empty((height, width, 1 if opened.is_gray else 3), np.uint8), alpha


def _plain(image: Image.Image, to_srgb: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """The same in a mode that numpy reads as it is: L, LA, I;16, RGB or RGBA."""
    if to_srgb is not None:
        return cast(Image.Image, ImageCms.applyTransform(image, to_srgb))
    if image.mode in ("L", "LA", "I;16", "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
