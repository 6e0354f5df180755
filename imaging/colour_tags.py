"""Colours that a file describes by numbers and not by a profile: a PNG's gAMA and cHRM, and cICP. They become a profile."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue."""

SRGB: Chromaticities = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# ITU-T H.273, colour primaries.
PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB,
    5: (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
UNSPECIFIED, SRGB_TRANSFER = 2, 13
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # H.273, transfer characteristics that are powers
REC709_TRANSFERS = (1, 6, 14, 15)
SRGB_GAMMA, GAMMA_TOLERANCE, PLACE_TOLERANCE = 1 / 0.45455, 0.005, 0.002
LEAST_GAMMA, MOST_GAMMA = 0.1, 10.0
CURVE_POINTS = 4096

BRADFORD: Matrix = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50 = np.array([0.9642, 1.0, 0.8249])


def profile_of_cicp(cicp: bytes, is_gray: bool) -> tuple[bytes | None, bool]:
    """The profile that says the same, None for sRGB; and whether one can. HDR, and what is rare, no profile says.

    Raises:
        ValueError: it is damaged.
    """
    if len(cicp) != 4 or cicp[2] != 0 or cicp[3] > 1:
        raise ValueError("no colours of RGB")
    primaries, transfer, _, is_full_range = cicp
    known = transfer in (*GAMMAS, *REC709_TRANSFERS, SRGB_TRANSFER) and (is_gray or primaries in PRIMARIES)
    if not known or not is_full_range:
        return None, False
    if transfer == SRGB_TRANSFER and (is_gray or primaries == 1):
        return None, True
    curve = _power(GAMMAS[transfer]) if transfer in GAMMAS else _table(_srgb if transfer == SRGB_TRANSFER else _rec709)
    return _profile(curve, None if is_gray else _matrix(PRIMARIES[primaries])), True


def profile_of_tags(gama: bytes | None, chrm: bytes | None, is_gray: bool) -> bytes | None:
    """The profile of a PNG's gAMA and cHRM; None where they say sRGB.

    Raises:
        ValueError, struct.error: no picture has such colours.
    """
    gamma = None
    if gama is not None:
        (value,) = struct.unpack(">I", gama)
        gamma = 100_000 / value if value else 0.0
        if not LEAST_GAMMA <= gamma <= MOST_GAMMA:
            raise ValueError(f"a gamma of {gamma}")
        if abs(gamma / SRGB_GAMMA - 1) < GAMMA_TOLERANCE and (is_gray or chrm is None or _is_srgb(_places(chrm))):
            return None
    places = SRGB if chrm is None or is_gray else _places(chrm)
    if gamma is None and _is_srgb(places):
        return None
    curve = _table(_srgb) if gamma is None else _power(gamma)
    return _profile(curve, None if is_gray else _matrix(places))


def _places(chrm: bytes) -> Chromaticities:
    return tuple(value / 100_000 for value in struct.unpack(">8I", chrm))


def _is_srgb(places: Chromaticities) -> bool:
    return all(abs(ours - srgb) <= PLACE_TOLERANCE for ours, srgb in zip(places, SRGB, strict=True))


def _matrix(places: Chromaticities) -> Matrix:
    """Linear RGB to XYZ, seen under D50, by Bradford's adaptation.

    Raises:
        ValueError: the white is not among what red, green and blue mix to, or nothing is a colour.
    """
    points = [(x, y, 1 - x - y) for x, y in zip(places[::2], places[1::2], strict=True)]
    if any(x > 1 or y > 1 or x + y > 1 for x, y, _ in points) or places[1] <= 0:
        raise ValueError("no chromaticities")
    white, primaries = np.array(points[0]) / places[1], np.array(points[1:]).T
    if abs(np.linalg.det(primaries)) < 1e-4:
        raise ValueError("primaries in a line")
    amounts = np.linalg.solve(primaries, white)
    if amounts.min() <= 0:
        raise ValueError("a white outside of its primaries")
    adapted = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ white)) @ BRADFORD
    return np.asarray(adapted @ primaries * amounts)


def _power(gamma: float) -> bytes:
    return struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256))


def _table(of: Callable[[Matrix], Matrix]) -> bytes:
    levels = np.rint(of(np.linspace(0, 1, CURVE_POINTS)) * 65535).astype(">u2")
    return struct.pack(">4sII", b"curv", 0, CURVE_POINTS) + levels.tobytes()


def _srgb(v: Matrix) -> Matrix:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _rec709(v: Matrix) -> Matrix:
    return np.where(v < 0.0812, v / 4.5, ((v + 0.0993) / 1.0993) ** (1 / 0.45))


def _profile(curve: bytes, matrix: Matrix | None) -> bytes:
    """ICC, version 2.4, of a display: a curve and a matrix, or for gray the curve alone. It has no date."""
    text = b"From the image's colour tags\0"
    tags = [
        (b"desc", struct.pack(">4sII", b"desc", 0, len(text)) + text + bytes(78)),
        (b"cprt", struct.pack(">4sI", b"text", 0) + b"No copyright\0"),
        (b"wtpt", _xyz(D50)),
    ]
    if matrix is None:
        tags.append((b"kTRC", curve))
    else:
        tags += [(name, _xyz(column)) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)]
        tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    places: dict[bytes, int] = {}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags:
        if content not in places:
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, places[content], len(content))
    space = b"GRAY" if matrix is None else b"RGB "
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, b"mntr", space, b"XYZ ") + bytes(12)
    head += b"acsp" + bytes(28) + _xyz(D50)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz(values: Matrix) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(value * 65536) for value in values))
