"""Image files to pictures, upright, in eight or sixteen bits a channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from functools import partial
from typing import cast

import numpy as np
from PIL import Image, ImageCms

from imaging.colour import use_colours
from imaging.containers.gif import GifHeader
from imaging.containers.heif import HeifHeader
from imaging.containers.tiff import TiffHeader
from imaging.formats import OpenedImage, translate_errors
from imaging.picture import Array, Picture, eight_bits, stripes
from imaging.samples import Samples, decode_gif, decode_tiff, unmultiplied


def decode_image(opened: OpenedImage) -> tuple[Picture, list[str]]:
    """The upright picture in an opened file, and warnings for the client in whole sentences.

    Palettes and CMYK become RGB; gray stays gray, and 16 bits of PNG and TIFF stay 16. Alpha that is full throughout is none.
    A profile is kept only where it describes the pixels that are returned: not one of RGB on a gray image, which PNG forbids
    and other readers ignore as well.

    Raises:
        BrokenImage: it is truncated or damaged.
    """
    warnings: list[str] = []
    orientation = _orientation(opened, warnings)
    colours = use_colours(opened, warnings)
    with translate_errors(opened.format_name):
        pixels, alpha = _joined(opened, _decoded(opened, colours.to_srgb))
    turn = _TURNS[orientation]
    if alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
        alpha = None  # opaque throughout
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
    more = opened.header.unpacked_bytes if isinstance(opened.header, TiffHeader) else 0
    if opened.format_name == "AVIF":
        per_pixel = 36 if opened.has_alpha else 20 if opened.is_gray else 25
    elif opened.format_name == "HEIC":
        per_pixel = 12 if opened.is_gray else 18
    else:
        per_pixel = (7 + opened.has_alpha if opened.is_gray else 12) * (
            2 if opened.file.depth == 16 or opened.file.is_unended else 1
        )
    return opened.width * opened.height * per_pixel + more


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


Stripes = Iterable[tuple[slice, Samples, Samples | None]]  # rows, their colours (n, w, 1 or 3) and alpha (n, w)


def _decoded(opened: OpenedImage, to_srgb: ImageCms.ImageCmsTransform | None) -> Stripes:
    is_deep_png = opened.format_name == "PNG" and opened.file.depth == 16
    is_gray_with_alpha = opened.format_name == "AVIF" and opened.is_gray and opened.has_alpha  # which OpenCV does not take
    if (opened.format_name in ("WebP", "AVIF") and not is_gray_with_alpha) or opened.is_in_runs or is_deep_png:
        return _with_opencv(opened)
    if opened.format_name == "HEIC":
        return _with_libheif(opened)
    if isinstance(opened.header, GifHeader):
        return decode_gif(opened.file.data, opened.header)
    if isinstance(opened.header, TiffHeader):
        return decode_tiff(opened.file.data, opened.header, partial(_inks_to_rgb, to_srgb=to_srgb))
    return _decode_others(opened, to_srgb)


def _joined(opened: OpenedImage, parts: Stripes) -> tuple[Array, Array | None]:
    """The whole of the pixels and of alpha, which is full where the file has none although it said so."""
    width, height = opened.size
    kind = np.uint16 if opened.file.depth == 16 else np.uint8
    pixels: Samples = np.empty((height, width, 1 if opened.is_gray else 3), kind)
    alpha = np.empty((height, width), kind) if opened.has_alpha else None
    full, key = np.iinfo(kind).max, opened.file.color_key
    for rows, color, opacity in parts:
        pixels[rows] = color[..., : pixels.shape[2]]
        if alpha is not None and key is not None:
            alpha[rows] = np.where((pixels[rows] == key).all(axis=2), 0, full)
        elif alpha is not None:
            alpha[rows] = full if opacity is None else opacity
    return pixels[..., 0] if opened.is_gray else pixels, alpha


def _with_opencv(opened: OpenedImage) -> Stripes:
    """WebP, AVIF, BMP with RLE, PNG of 16 bits. Pillow holds the interpreter's lock meanwhile, or has no decoder in C."""
    import cv2  # here, since it takes a fifth of a second

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong with a file is its client's to know
    try:
        decoded = cv2.imdecode(np.frombuffer(opened.file.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        if exc.code == cv2.Error.StsNoMem:
            raise MemoryError(str(exc)) from exc
        raise
    if decoded is None or decoded.shape[1::-1] != opened.size:
        raise ValueError("OpenCV does not decode it")
    decoded = np.atleast_3d(decoded)
    for rows in stripes(*decoded.shape[:2]):
        part = decoded[rows]
        if isinstance(opened.header, HeifHeader) and part.dtype == np.uint16:  # of 10 or 12 bits
            most = 2**opened.header.depth - 1
            part = np.minimum((part.astype(np.uint32) * 255 + most // 2) // most, 255)
        yield rows, part[..., 2::-1] if part.shape[2] > 2 else part, part[..., 3] if part.shape[2] == 4 else None


def _with_libheif(opened: OpenedImage) -> Stripes:
    import pillow_heif  # here: it brings an encoder of 20 MB

    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = False
    image = pillow_heif.open_heif(opened.file.data)
    if image.size != opened.size:
        raise ValueError(f"{image.size} of libheif")
    samples = np.asarray(image).reshape(image.size[1], image.size[0], -1)
    for rows in stripes(*samples.shape[:2]):
        part = eight_bits(samples[rows])  # of gray alone, libheif's numbers are of 16 bits where the file has more than 8
        color, alpha = (part[..., :-1], part[..., -1]) if image.has_alpha else (part, None)
        yield rows, color if alpha is None or not image.premultiplied_alpha else unmultiplied(color, alpha), alpha


def _inks_to_rgb(inks: Samples, to_srgb: ImageCms.ImageCmsTransform | None) -> Samples:
    return np.asarray(_plain(Image.fromarray(inks, "CMYK"), to_srgb))


def _decode_others(opened: OpenedImage, to_srgb: ImageCms.ImageCmsTransform | None) -> Stripes:
    """PNG, JPEG, BMP, and AVIF of gray with alpha."""
    with ExitStack() as images:
        ends = _ENDS if opened.file.is_unended else [b""]
        image, *others = [images.enter_context(closing(opened.load(end))) for end in ends]
        for rows in stripes(image.height, image.width):
            part, *same = [each.crop((0, rows.start, image.width, rows.stop)) for each in (image, *others)]
            if any(each.tobytes() != part.tobytes() for each in same):
                raise ValueError("pixels are missing")
            stripe = _plain(part, to_srgb)
            samples = np.asarray(stripe).reshape(-1, image.width, len(stripe.getbands()))
            has_alpha = samples.shape[2] in (2, 4)
            yield rows, samples[..., :-1] if has_alpha else samples, samples[..., -1] if has_alpha else None


# Of a JPEG without one: pixels that are whole are the same with each.
_ENDS = [bits * 64 + b"\xff\xd9" for bits in (b"\0", b"\x55", b"\xaa", b"\x13\xfe")]


def _plain(image: Image.Image, to_srgb: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """The same in a mode that numpy reads as it is: L, LA, RGB or RGBA."""
    if to_srgb is not None:
        return cast(Image.Image, ImageCms.applyTransform(image, to_srgb))
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
