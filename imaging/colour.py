"""Colour: which profile is kept or made, CMYK to sRGB, transparency flattened on white."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import ImageCms

from imaging.colour_tags import UNSPECIFIED, profile_of_cicp, profile_of_tags
from imaging.formats import OpenedImage
from imaging.picture import Array, stripes

MAX_TAGS = 100  # of a colour profile: lcms reads no more either


@dataclass(frozen=True)
class Colours:
    """What the colours of a file mean, as far as the result goes on saying it."""

    icc_profile: bytes | None = None
    cicp: bytes | None = None  # where no profile says the same
    to_srgb: ImageCms.ImageCmsTransform | None = None  # of CMYK, which is converted


def use_colours(opened: OpenedImage, warnings: list[str]) -> Colours:
    """What counts of all that a file says: cICP before a profile, then sRGB, then gAMA and cHRM, as the PNG standard has it.

    A sentence is appended to `warnings` for what is ignored.
    """
    cicp = opened.file.cicp
    if cicp is not None and UNSPECIFIED not in cicp[:2]:
        try:
            profile, is_said = profile_of_cicp(cicp, opened.is_gray)
        except ValueError:
            warnings.append(_IGNORED.format("cICP"))
        else:
            if is_said:
                return Colours(profile)
            return replace(_use_profile(opened, warnings), cicp=cicp)
    return _use_profile(opened, warnings)


_IGNORED = "The image's colour tags ({}) are damaged, or describe no colours: they were ignored."


def _use_profile(opened: OpenedImage, warnings: list[str]) -> Colours:
    profile = opened.file.profile
    if profile is None:
        return _use_tags(opened, warnings)
    size = int.from_bytes(profile[:4], "big")
    profile = profile[:size]  # what follows it, of whatever kind, does not go out again
    is_cmyk = opened.mode == "CMYK"
    space = b"CMYK" if is_cmyk else b"GRAY" if opened.is_gray else b"RGB "
    to_srgb = None
    is_usable = len(profile) == size and profile[36:40] == b"acsp" and profile[16:20] == space
    if is_usable and is_cmyk:
        to_srgb = _cmyk_to_srgb(profile)
        is_usable = to_srgb is not None
    if not is_usable:
        warnings.append("The colour profile is damaged or of another kind of image: it was ignored.")
        return _use_tags(opened, warnings)
    return Colours(None if is_cmyk else profile, to_srgb=to_srgb)


def _use_tags(opened: OpenedImage, warnings: list[str]) -> Colours:
    file = opened.file
    if file.is_srgb or (file.gama is None and file.chrm is None):
        return Colours()
    try:
        return Colours(profile_of_tags(file.gama, file.chrm, opened.is_gray))
    except (ValueError, struct.error):
        warnings.append(_IGNORED.format("gAMA, cHRM"))
        return Colours()


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
    """round(p·a/255 + 255 − a), in whole numbers, some rows at a time; of 16 bits, with 65,535 in place of 255.

    Both are of the same dtype, `pixels` `(h, w, 3)` or `(h, w)` and `alpha` `(h, w)`; 0 is transparent.
    """
    flat = np.empty_like(pixels)
    full = int(np.iinfo(alpha.dtype).max)
    wide: DTypeLike = np.uint32 if full > 255 else np.uint16  # holds full · full + full / 2
    for rows in stripes(*alpha.shape[:2]):
        a: NDArray[Any] = alpha[rows].astype(wide)
        if pixels.ndim == 3:
            a = a[..., None]
        flat[rows] = full - ((full - pixels[rows]) * a + full // 2) // full
    return flat
