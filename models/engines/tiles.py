"""Planes cut into tiles that overlap by a halo."""

from __future__ import annotations

from collections.abc import Iterator

Region = tuple[slice, slice]
"""Rows and columns."""

BODY_HALO_PX = 32  # the body reaches some 350 px, so no pad is exact; this one keeps a tiled photograph above 40 dB
BODY_MIN_TILE_PX = 96  # with its halo: below, the halo is most of the work


def tiles(height: int, width: int, tile_px: int, halo_px: int) -> Iterator[tuple[Region, Region, Region]]:
    """Cut a plane into tiles: each one's region, the region padded by the halo, and the first within the second."""
    for top in range(0, height, tile_px):
        for left in range(0, width, tile_px):
            bottom, right = min(top + tile_px, height), min(left + tile_px, width)
            pad_top, pad_left = max(top - halo_px, 0), max(left - halo_px, 0)
            padded = (slice(pad_top, min(bottom + halo_px, height)), slice(pad_left, min(right + halo_px, width)))
            inner = (slice(top - pad_top, bottom - pad_top), slice(left - pad_left, right - pad_left))
            yield (slice(top, bottom), slice(left, right)), padded, inner


def computed_px(size: tuple[int, int], tile_px: int, halo_px: int, unit: tuple[int, int]) -> int:
    """Pixels of all those tiles with their halos, where rows and columns are computed in whole units of so many."""
    rows, columns = (
        sum(
            -(-(min(start + tile_px + halo_px, length) - max(start - halo_px, 0)) // step) * step
            for start in range(0, length, tile_px)
        )
        for length, step in zip(size, unit, strict=True)
    )
    return rows * columns


def times(region: Region, factor: int) -> Region:
    """The region on a plane that is enlarged by `factor`."""
    rows, columns = region
    return slice(rows.start * factor, rows.stop * factor), slice(columns.start * factor, columns.stop * factor)
