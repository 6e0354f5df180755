"""Colour: which profile is kept, CMYK to sRGB, transparency flattened on white."""

from __future__ import annotations

import io

import numpy as np
from PIL import ImageCms

from imaging.formats import OpenedImage
from imaging.picture import Array, stripes


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
        source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, srgb, "CMYK", "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None


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
