"""Colour: which profile is kept, CMYK to sRGB, transparency flattened on white."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import ImageCms

from imaging.formats import OpenedImage
from imaging.picture import Array, stripes

MAX_TAGS = 100  # of a colour profile: lcms reads no more either


def use_profile(opened: OpenedImage, warnings: list[str]) -> tuple[bytes | None, ImageCms.ImageCmsTransform | None]:
    """The profile to keep, or for CMYK the way from it to sRGB. A sentence is appended to `warnings` where it is ignored."""
    profile = opened.file.profile
    if profile is None:
        return None, None
    profile = profile[: int.from_bytes(profile[:4], "big")]  # what follows it, of whatever kind, does not go out again
    is_cmyk = opened.mode == "CMYK"
    space = b"CMYK" if is_cmyk else b"GRAY" if opened.is_gray else b"RGB "
    to_srgb = None
    is_usable = profile[36:40] == b"acsp" and profile[16:20] == space
    if is_usable and is_cmyk:
        to_srgb = _cmyk_to_srgb(profile)
        is_usable = to_srgb is not None
    if not is_usable:
        warnings.append("The colour profile is damaged or of another kind of image: it was ignored.")
    return (profile if is_usable and not is_cmyk else None), to_srgb


def _cmyk_to_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    try:
        source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(_with_its_table_alone(profile))), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, srgb, "CMYK", "RGB")
    except (OSError, ValueError, struct.error, ImageCms.PyCMSError):
        return None


def _with_its_table_alone(profile: bytes) -> bytes:
    """The profile with the one tag that the way to sRGB takes: its table of perceptual colours.

    Other tags may hold a program of any length (`mpet`), which is run for each of 83,521 colours.

    Raises:
        ValueError, struct.error: it has no such table.
    """
    (count,) = struct.unpack_from(">I", profile, 128)
    for name, start, size in struct.iter_unpack(">4sII", profile[132 : 132 + 12 * min(count, MAX_TAGS)]):
        table = profile[start : start + size]
        if name == b"A2B0" and table[:4] in (b"mft1", b"mft2", b"mAB "):
            head = struct.pack(">I", 144 + len(table)) + profile[4:128]
            return head + struct.pack(">I4sII", 1, name, 144, len(table)) + table
    raise ValueError("no table of perceptual colours")


def flatten_on_white(pixels: Array, alpha: Array) -> Array:
    """round(p·a/255 + 255 − a), in whole numbers, some rows at a time: uint8 like `pixels`, `(h, w, 3)` or `(h, w)`.

    `alpha` is uint8 `(h, w)`; 0 is transparent.
    """
    flat = np.empty_like(pixels)
    for rows in stripes(*alpha.shape):
        a = alpha[rows].astype(np.uint16)
        if pixels.ndim == 3:
            a = a[..., None]
        flat[rows] = 255 - ((255 - pixels[rows]) * a + 127) // 255  # at most 65,152: fits in 16 bits
    return flat
