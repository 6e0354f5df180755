"""Pictures as JPEG, PNG and WebP files."""

from __future__ import annotations

import io
import os
import resource
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from core.config import OutputFormat
from imaging.colour import flatten_on_white
from imaging.containers.png import encode_png16, with_chunks
from imaging.formats import memory_errors
from imaging.metadata import NO_METADATA, Metadata, with_metadata
from imaging.picture import Picture, eight_bits, resized

PREVIEW_QUALITY = 90
END_OF_JPEG = b"\xff\xd9"


def encode_image(
    picture: Picture, image_format: str, quality: int, metadata: Metadata = NO_METADATA
) -> tuple[bytes, list[str]]:
    """An image file of the picture, and warnings for the client in whole sentences.

    The same picture always gives the same bytes: no date is written, and beside `metadata` only the profile, unchanged. WebP
    has no gray, and its encoder drops an alpha plane that is 255 throughout.

    Args:
        picture: gray or RGB, with or without alpha.
        image_format: "jpeg", "png" or "webp".
        quality: 1 to 100, for JPEG and WebP.
        metadata: of `kept_metadata`, for this format and size.

    Raises:
        ValueError: the format is none of the three, or cannot hold a picture of this size (the caller's mistake).
    """
    if image_format not in _MAX_SIDE_PX:
        raise ValueError(f"{image_format!r} is none of {', '.join(_MAX_SIDE_PX)}.")
    longest = max(picture.width, picture.height)
    if longest > _MAX_SIDE_PX[image_format]:
        raise ValueError(f"{image_format} holds at most {_MAX_SIDE_PX[image_format]} px a side, not {longest}.")
    warnings: list[str] = []
    pixels, alpha = picture.pixels, picture.alpha
    if alpha is not None and image_format == "jpeg":
        pixels, alpha = flatten_on_white(pixels, alpha), None
        warnings.append("JPEG cannot hold transparency: it was flattened on white.")
    icc_profile = picture.icc_profile
    if icc_profile is not None and pixels.ndim == 2 and image_format == "webp":
        icc_profile = None
        warnings.append("WebP has no gray: the colour profile of the gray image was left out.")
    if picture.cicp is not None and image_format != "png":
        name = "JPEG" if image_format == "jpeg" else "WebP"
        warnings.append(f"{name} cannot say what the image's colours mean (cICP, as for HDR): they will look wrong. PNG can.")
    if pixels.dtype == np.uint16 and image_format == "png":
        data = encode_png16(pixels, alpha, icc_profile)
    else:
        pixels, alpha = eight_bits(pixels), None if alpha is None else eight_bits(alpha)
        image = Image.fromarray(pixels)
        if alpha is not None:
            image.putalpha(Image.fromarray(alpha))
        with memory_errors(), _file_in_memory() as file:
            image.save(file, image_format, icc_profile=icc_profile, **_save_options(image_format, quality))
            file.seek(0)
            data = file.read()
    if image_format == "png":
        data = with_chunks(data, [(b"cICP", picture.cicp)] if picture.cicp is not None else [])
    if image_format == "jpeg" and not data.endswith(END_OF_JPEG):  # Pillow does not look at what its writing comes to
        raise MemoryError("there is no room for the encoded picture")
    return with_metadata(data, image_format, metadata, picture.width, picture.height), warnings


def encode_preview(picture: Picture, max_px: int) -> tuple[bytes, OutputFormat]:
    """A file of eight bits that browsers show, and its format: no longer than `max_px` a side, and never enlarged."""
    share = min(max_px / max(picture.width, picture.height), 1)
    small = resized(picture, max(round(picture.width * share), 1), max(round(picture.height * share), 1))
    image_format: OutputFormat = "jpeg" if small.alpha is None else "png"
    alpha = None if small.alpha is None else eight_bits(small.alpha)
    data, _ = encode_image(replace(small, pixels=eight_bits(small.pixels), alpha=alpha), image_format, PREVIEW_QUALITY)
    return data, image_format


def _file_in_memory() -> BinaryIO:
    """A real file where the system has such: JPEGs are then encoded without the interpreter's lock, and in half the time."""
    is_limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY  # of files on disk, and of this one
    return io.BytesIO() if is_limited or not hasattr(os, "memfd_create") else os.fdopen(os.memfd_create("image"), "w+b")


_MAX_SIDE_PX = {"jpeg": 65500, "png": 2**31 - 1, "webp": 16383}


def _save_options(image_format: str, quality: int) -> dict[str, Any]:
    """Pillow's options. Measured: astronaut enlarged to 2048×2048, one core; coffee, 2400×1600, differs by a few per cent."""
    if image_format == "png":
        # Level 1: 237 ms, 4.06 MB; 4: 397 ms, 3.53 MB; 6: 1117 ms, 3.42 MB; 9: 7121 ms, 3.29 MB.
        return {"compress_level": 4}
    if image_format == "webp":
        # Quality 95, method 2: 148 ms, 455 kB, 45.9 dB; 4: 300 ms, 451 kB, 46.3 dB; 6: 638 ms, 443 kB, 46.3 dB. Above about
        # 15 million pixels of detail, 4 encodes again and again: 7680×7680 took 15 s, and 2.2 s with 2.
        return {"quality": quality, "method": 2}
    return {"quality": quality, "subsampling": "4:4:4" if quality >= 90 else "4:2:0"}
