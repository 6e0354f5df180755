"""Image files and arrays: bytes → Picture → bytes.

PNG, JPEG, WebP and BMP come in, as `containers` opens them; JPEG, PNG and WebP go out. This room knows nothing of HTTP, of
torch or of networks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from containers import Source, open_image, read_orientation, translate_errors

Array = NDArray[np.uint8]

STRIPE_PX = 4 * 1024 * 1024  # pixels converted at a time, so that no second whole copy exists


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


@dataclass(frozen=True)
class ImageHeader:
    """What is known of a file before a pixel is decoded; width and height are those after EXIF rotation."""

    width: int
    height: int
    has_alpha: bool


def read_header(data: bytes) -> ImageHeader:
    """Size and transparency of an image file, without decoding a pixel.

    Raises:
        FileTooLarge, NotAnImage, UnsupportedFormat, BrokenImage, AnimatedImage, TooManyPixels: each for what it says.
    """
    source = open_image(data)
    width, height = source.image.size
    if (read_orientation(source.exif) or 1) >= 5:
        width, height = height, width
    return ImageHeader(width, height, source.has_alpha)


def decode_image(data: bytes) -> tuple[Picture, list[str]]:
    """The upright picture in an image file, and warnings for the client in whole sentences.

    Sixteen bits become eight, palettes and CMYK become RGB; gray stays gray. A profile is kept only where it describes the
    pixels that are returned: not one of RGB on a gray image, which PNG forbids and other readers ignore as well.

    Raises:
        FileTooLarge, NotAnImage, UnsupportedFormat, BrokenImage, AnimatedImage, TooManyPixels: each for what it says.
    """
    source = open_image(data)
    warnings: list[str] = []
    orientation = read_orientation(source.exif)
    if orientation is None:
        warnings.append("The EXIF data is damaged: the image was not rotated.")
    icc_profile, to_srgb = _use_profile(source, warnings)
    with translate_errors(source.image.format):
        source.image.load()
        pixels, alpha = _to_arrays(source, to_srgb)
    turn = _TURNS[orientation or 1]
    upright_alpha = None if alpha is None else np.ascontiguousarray(turn(alpha))
    return Picture(np.ascontiguousarray(turn(pixels)), upright_alpha, icc_profile), warnings


def encode_image(picture: Picture, image_format: str, quality: int) -> tuple[bytes, list[str]]:
    """An image file of the picture, and warnings for the client in whole sentences.

    The same picture always gives the same bytes: no date and no EXIF is written, only the profile, unchanged. WebP has no
    gray, and its encoder drops an alpha plane that is 255 throughout.

    Args:
        picture: gray or RGB, with or without alpha.
        image_format: "jpeg", "png" or "webp".
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ValueError: the format is none of the three, or cannot hold a picture of this size (a defect of the caller).
    """
    if image_format not in _MAX_SIDE_PX:
        raise ValueError(f"{image_format!r} is none of {', '.join(_MAX_SIDE_PX)}.")
    longest = max(picture.width, picture.height)
    if longest > _MAX_SIDE_PX[image_format]:
        raise ValueError(f"{image_format} holds at most {_MAX_SIDE_PX[image_format]} px a side, not {longest}.")
    warnings: list[str] = []
    pixels, alpha = picture.pixels, picture.alpha
    if alpha is not None and image_format == "jpeg":
        pixels, alpha = _flatten_on_white(pixels, alpha), None
        warnings.append("JPEG cannot hold transparency: it was flattened on white.")
    icc_profile = picture.icc_profile
    if icc_profile is not None and pixels.ndim == 2 and image_format == "webp":
        icc_profile = None
        warnings.append("WebP has no gray: the colour profile of the gray image was left out.")
    image = Image.fromarray(pixels)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    file = io.BytesIO()
    image.save(file, image_format, icc_profile=icc_profile, **_save_options(image_format, quality))
    return file.getvalue(), warnings


_MAX_SIDE_PX = {"jpeg": 65500, "png": 2**31 - 1, "webp": 16383}


def _save_options(image_format: str, quality: int) -> dict[str, Any]:
    """Pillow's options. Figures: astronaut enlarged to 2048×2048, one core; coffee, 2400×1600, differs by a few per cent."""
    if image_format == "png":
        # Level 1: 237 ms, 4.06 MB; 4: 397 ms, 3.53 MB; 6: 1117 ms, 3.42 MB; 9: 7121 ms, 3.29 MB.
        return {"compress_level": 4}
    if image_format == "webp":
        # Quality 95, method 2: 148 ms, 455 kB, 45.9 dB; 4: 300 ms, 451 kB, 46.3 dB; 6: 638 ms, 443 kB, 46.3 dB. Above about
        # 15 million pixels of detail, 4 encodes again and again: 7680×7680 took 15 s, and 2.2 s with 2.
        return {"quality": quality, "method": 2}
    return {"quality": quality, "subsampling": "4:4:4" if quality >= 90 else "4:2:0"}


def _flatten_on_white(pixels: Array, alpha: Array) -> Array:
    """round(p·a/255 + 255 − a), in whole numbers, some rows at a time."""
    flat = np.empty_like(pixels)
    for rows in _stripes(*alpha.shape):
        a = alpha[rows].astype(np.uint16)
        if pixels.ndim == 3:
            a = a[..., None]
        flat[rows] = 255 - ((255 - pixels[rows]) * a + 127) // 255  # at most 65,152: fits in 16 bits
    return flat


def _stripes(height: int, width: int) -> Iterator[slice]:
    step = max(1, STRIPE_PX // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


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


def _use_profile(source: Source, warnings: list[str]) -> tuple[bytes | None, ImageCms.ImageCmsTransform | None]:
    """The profile to keep, or for CMYK the way from it to sRGB."""
    profile = source.icc_profile
    if profile is None:
        return None, None
    profile = profile[: int.from_bytes(profile[:4], "big")]  # what follows it, of whatever kind, does not go out again
    is_cmyk = source.image.mode == "CMYK"
    space = b"CMYK" if is_cmyk else b"GRAY" if source.is_gray else b"RGB "
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


def _to_arrays(source: Source, to_srgb: ImageCms.ImageCmsTransform | None) -> tuple[Array, Array | None]:
    width, height = source.image.size
    pixels = np.empty((height, width, 1 if source.is_gray else 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if source.has_alpha else None
    for rows in _stripes(height, width):
        stripe = _plain(source.image.crop((0, rows.start, width, rows.stop)), to_srgb)
        samples = np.asarray(stripe).reshape(-1, width, len(stripe.getbands()))
        color = samples[..., : pixels.shape[2]]
        if alpha is not None:
            key = source.color_key
            alpha[rows] = samples[..., -1] if key is None else np.where((color == key).all(axis=2), 0, 255)
        pixels[rows] = color if color.dtype == np.uint8 else (color.astype(np.uint32) + 128) // 257  # round(v / 257)
    return pixels[..., 0] if source.is_gray else pixels, alpha


def _plain(image: Image.Image, to_srgb: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """The same in a mode that numpy reads as it is: L, LA, I;16, RGB or RGBA."""
    if to_srgb is not None:
        return cast(Image.Image, ImageCms.applyTransform(image, to_srgb))
    if image.mode in ("L", "LA", "I;16", "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
