"""The textures that are measured with: five pictures that are hard to enlarge exactly, at full detail.

Fur, foliage and print are cuts of pictures that come with scikit-image, not shrunk: shrinking makes smooth. `chelsea` is by
Stefan van der Walt (CC0), `grass` by linolafett (DeviantArt, CC0), `page` a photograph of scikit-image's own documentation
(BSD, as all that has no other licence there). Noise and line art are made here, the same each time.
"""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from bench.images.photographs import Image, load

TEXTURES = ("fur", "foliage", "print", "noise", "line art")

SEED = 12
STROKES = 24
DETAIL = 4  # line art is drawn so many times larger, for strokes with soft edges
_CUTS = {"fur": ("chelsea", 60, 0), "foliage": ("grass", 300, 100), "print": ("page", 8, 4)}  # of what, left, top


def texture(width: int, height: int, name: str) -> Image:
    """A texture: uint8 RGB `(height, width, 3)`.

    Raises:
        ValueError: there is no texture of that name, or it is smaller.
    """
    if name == "noise":
        return np.random.default_rng(SEED).integers(0, 256, (height, width, 3), np.uint8)
    if name == "line art":
        return _draw_strokes(width, height)
    if name not in _CUTS:
        raise ValueError(f"there is no texture {name}")
    source, left, top = _CUTS[name]
    cut = load(source)[top : top + height, left : left + width]
    if cut.shape[:2] != (height, width):
        raise ValueError(f"{name} is {cut.shape[1]}×{cut.shape[0]} at most")
    return np.ascontiguousarray(cut)


def _draw_strokes(width: int, height: int) -> Image:
    """Black outlines of several widths, hatching, and a few flat colours, on white: as a drawing is made."""
    chosen = np.random.default_rng(SEED)
    size = np.array([width, height]) * DETAIL
    drawing = PILImage.new("RGB", (int(size[0]), int(size[1])), "white")
    pen = ImageDraw.Draw(drawing)
    for index in range(STROKES):
        center, radius = chosen.random(2) * size, (0.05 + 0.2 * chosen.random(2)) * size.min()
        box = [*(center - radius), *(center + radius)]
        line_px = int(chosen.integers(2, 4 * DETAIL))
        shape = index % 4
        if shape == 0:
            colour = tuple(int(value) for value in chosen.integers(90, 256, 3))
            pen.ellipse(box, fill=colour, outline="black", width=line_px)
        elif shape == 1:
            start = float(chosen.random() * 360)
            pen.arc(box, start, start + 200, fill="black", width=line_px)
        elif shape == 2:
            corners = [tuple(point) for point in chosen.random((4, 2)) * size]
            pen.line(corners, fill="black", width=line_px, joint="curve")
        else:
            for offset in np.linspace(-1, 1, 12) * radius[0]:
                begin = center + np.array([offset - radius[0] / 2, -radius[1]])
                pen.line([*begin, *(begin + radius * np.array([1, 2]))], fill="black", width=DETAIL)
    return np.array(drawing.resize((width, height), PILImage.Resampling.LANCZOS))
