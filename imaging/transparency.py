"""Transparency: colour where nothing is visible, and alpha enlarged. Both keep what a network must not decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imaging.picture import Array, Picture, stripes

Floats = NDArray[np.float32]

# Below this share of its surroundings' alpha, hardly anybody sees a pixel's colour, which is often mere rounding. The alpha of
# surroundings counts from so far away that at each doubling of the distance this part of it is left.
LEAST_SHARE, FALLOFF = 1 / 8, 3 / 4
# The range of alpha, of full scale, among a pixel and its neighbours: a gradient up to the first, an edge from the second on.
GRADIENT, EDGE = 1 / 8, 1 / 2
_TINY = np.float32(1e-30)


def fill_hidden(picture: Picture) -> Picture:
    """The picture with colours under alpha 0 made from the visible ones nearby; none of its own is left there.

    Otherwise a network, which sees no alpha, would draw them into visible edges. Colours are averaged over squares of 2, 4, 8
    and more pixels, weighted by alpha; the smallest that has one fills a hidden pixel. Where nothing is visible at all, black.
    """
    alpha = picture.alpha
    if alpha is None or _is_visible(alpha):
        return picture
    height, width = alpha.shape
    half = np.empty((-(-height // 2), -(-width // 2), (3 if picture.pixels.ndim == 3 else 1) + 1), np.float32)
    rows_at_a_time = [
        (rows, slice(2 * rows.start, min(2 * rows.stop, height))) for rows in stripes(len(half), 4 * half.shape[1])
    ]
    for rows, fine in rows_at_a_time:
        half[rows] = _halved(_premultiplied(picture.pixels[fine], alpha[fine]))
    coarse = _filled(half)
    pixels = picture.pixels.copy()
    for rows, fine in rows_at_a_time:
        if _is_visible(alpha[fine]):
            continue
        top = max(rows.start - 1, 0)
        around = _doubled(coarse[top : rows.stop + 1])[2 * (rows.start - top) :]
        color, share = _mixed(_premultiplied(pixels[fine], alpha[fine]), around)
        filled = np.rint(color).astype(pixels.dtype).reshape(pixels[fine].shape)
        np.copyto(pixels[fine], filled, where=(share < 1).reshape(*filled.shape[:2], *[1] * (filled.ndim - 2)))
    return replace(picture, pixels=pixels)


def _is_visible(alpha: Array) -> bool:
    return int(alpha.min()) >= _full(alpha) * LEAST_SHARE


def _premultiplied(pixels: Array, alpha: Array) -> Floats:
    """float32 `(h, w, 4)`, or `(h, w, 2)` of gray: colours times alpha, and alpha in 0–1."""
    weight = alpha[..., None] / np.float32(_full(alpha))
    return np.concatenate([pixels.reshape(*alpha.shape, -1) * weight, weight], axis=2)


def _halved(premultiplied: Floats) -> Floats:
    import cv2  # here, since it takes a fifth of a second

    height, width = premultiplied.shape[:2]
    even = cv2.copyMakeBorder(premultiplied, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT)
    return np.asarray(cv2.resize(even, (even.shape[1] // 2, even.shape[0] // 2), interpolation=cv2.INTER_AREA), np.float32)


def _doubled(colors: Floats) -> Floats:
    import cv2

    size = (2 * colors.shape[1], 2 * colors.shape[0])
    return np.asarray(cv2.resize(colors, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _filled(premultiplied: Floats) -> Floats:
    """Colours without holes, and alpha, or what is left of that around where it is more."""
    is_last = premultiplied.shape[:2] == (1, 1)
    around = np.zeros_like(premultiplied) if is_last else _doubled(_filled(_halved(premultiplied)))
    color, _ = _mixed(premultiplied, around)
    height, width = premultiplied.shape[:2]
    alpha = np.maximum(premultiplied[..., -1:], around[:height, :width, -1:] * np.float32(FALLOFF))
    return np.concatenate([color, alpha], axis=2)


def _mixed(premultiplied: Floats, around: Floats) -> tuple[Floats, Floats]:
    """Colours of their own where they are visible beside those around; and their share."""
    alpha = premultiplied[..., -1:]
    around = around[: alpha.shape[0], : alpha.shape[1]]
    share = np.minimum(alpha / np.maximum(around[..., -1:] * np.float32(LEAST_SHARE), _TINY), 1) ** 2
    color = around[..., :-1]
    return color + share * (premultiplied[..., :-1] / np.maximum(alpha, _TINY) - color), share


def enlarge_alpha(alpha: Array, networks: Array, scale: int) -> Array:
    """Alpha enlarged: at edges by a network of photographs, in gradients bicubic, and constant where it is constant.

    Args:
        alpha: `(h, w)`.
        networks: `(h * scale, w * scale)`, which is sharp at edges and a few levels off elsewhere.
        scale: 2 or 4.

    Returns:
        `(h * scale, w * scale)` of that dtype; but for edges, within the range of the nearest pixel and its neighbours.
    """
    import cv2

    height, width = alpha.shape
    result, full = np.empty_like(networks), np.float32(_full(alpha))
    neighbours = np.ones((3, 3), np.uint8)
    for rows in stripes(height, width * scale**2):
        top = max(rows.start - 2, 0)
        part = alpha[top : rows.stop + 2]
        wanted = slice((rows.start - top) * scale, (rows.stop - top) * scale)

        def enlarged(plane: Array | Floats, interpolation: int, wanted: slice = wanted) -> Floats:
            size = (plane.shape[1] * scale, plane.shape[0] * scale)
            return np.asarray(cv2.resize(plane, size, interpolation=interpolation), np.float32)[wanted]

        least, most = (np.asarray(of(part, neighbours), np.float32) for of in (cv2.erode, cv2.dilate))
        smooth = enlarged(part.astype(np.float32), cv2.INTER_CUBIC)
        edge = (((most - least) / full - GRADIENT) / (EDGE - GRADIENT)).clip(0, 1)
        edge *= edge * (3 - 2 * edge)
        limits = (least - edge * full).clip(0, full), (most + edge * full).clip(0, full)
        out = slice(rows.start * scale, rows.stop * scale)
        share = np.minimum(2 * enlarged(edge, cv2.INTER_LINEAR), 1)  # all of a pixel at an edge, whatever is beside it
        mixed = smooth + share * (networks[out] - smooth)
        result[out] = np.rint(mixed).clip(*(enlarged(limit, cv2.INTER_NEAREST) for limit in limits))
    return result


def _full(alpha: Array) -> int:
    return int(np.iinfo(alpha.dtype).max)
