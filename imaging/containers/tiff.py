"""TIFF: the header (TIFF 6.0), and a file of the samples alone that libtiff unpacks.

What a decoder sees is one gray image of bytes, row after row. What the bytes mean (colours, inks, alpha, their order) is for
`imaging.samples`; of the file's tags, those of its strips alone reach a decoder.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from core.config import MAX_PIXELS
from core.errors import UnsupportedFormat

MAX_ENTRIES = 1000  # of a directory, of which more are not looked at
MAX_PAGES = 1000
MAX_PIECES = 100_000  # strips or tiles, each of which is a read of its own
MAX_TILE_PX = 1024  # that a side of a tile may have, however small the image
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS = 0, 1, 2, 3, 5
MAX_SAMPLES = 5  # of a pixel: inks and alpha
NONE, LZW, DEFLATE, OLD_DEFLATE, PACK_BITS = 1, 5, 8, 32946, 32773
_COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, INKS: 4}
_DEPTHS = {WHITE_IS_ZERO: (1, 2, 4, 8, 16), BLACK_IS_ZERO: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), INKS: (8,)}
_TYPES = {1: "B", 3: "H", 4: "I", 7: "B"}
_DNG_VERSION, _SUB_DIRECTORIES = 50706, 330
_NOT_A_PAGE = 1 | 4  # of NewSubfileType: a smaller copy, a mask


@dataclass(frozen=True)
class TiffHeader:
    """What a file says of its image. Sizes in pixels, before `orientation` is applied."""

    size: tuple[int, int]
    page_count: int
    order: str  # of bytes in a sample, as in struct
    depth: int  # bits of a sample
    photometric: int
    sample_count: int  # of a pixel
    alpha: int | None  # which sample is; None: none
    is_premultiplied: bool
    palette: tuple[int, ...]  # reds, greens, blues, of 8 bits
    orientation: int | None
    icc_profile: bytes | None
    xmp: bytes
    compression: int
    has_differences: bool  # each sample is told by how much it differs from the pixel before
    is_planar: bool  # all of one sample, then all of the next
    fill_order: int
    tile: tuple[int, int] | None  # None: strips
    strip_rows: int
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def is_gray(self) -> bool:
        return self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)

    @property
    def color_count(self) -> int:
        """Samples of a pixel that are colour."""
        return _COLORS[self.photometric]

    @property
    def row_bytes(self) -> int:
        """Of one plane."""
        return -(-self.size[0] * self.depth * (1 if self.is_planar else self.sample_count) // 8)

    @property
    def tile_bytes(self) -> int:
        """Of a row of a tile."""
        width = self.tile[0] if self.tile else self.size[0]
        return -(-width * self.depth * (1 if self.is_planar else self.sample_count) // 8)

    @property
    def unpacked_bytes(self) -> int:
        """Of all planes that are wanted, and of one tile or strip, as libtiff unpacks them."""
        planes = self.color_count + (self.alpha is not None) if self.is_planar else 1
        piece_rows = self.tile[1] if self.tile else self.strip_rows
        return planes * self.row_bytes * self.size[1] + self.tile_bytes * piece_rows


class _Directory:
    def __init__(self, data: bytes, order: str, at: int) -> None:
        self._data, self._order = data, order
        (count,) = struct.unpack_from(order + "H", data, at)
        end = at + 2 + 12 * count
        self.next = struct.unpack_from(order + "I", data, end)[0] if end + 4 <= len(data) else 0
        self._entries: dict[int, int] = {}
        for entry in range(at + 2, at + 2 + 12 * min(count, MAX_ENTRIES), 12):
            self._entries.setdefault(struct.unpack_from(order + "H", data, entry)[0], entry)

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def all(self, tag: int, most: int) -> tuple[int, ...]:
        """The whole numbers of a tag, `most` of them at most; none where there is no such tag."""
        if tag not in self._entries:
            return ()
        at, kind, count = self._place(tag)
        return struct.unpack_from(f"{self._order}{min(count, most)}{_TYPES[kind]}", self._data, at)

    def one(self, tag: int, default: int | None = None) -> int:
        """The first number of a tag. Raises ValueError: there is none, and no default."""
        values = self.all(tag, 1)
        if not values and default is None:
            raise ValueError(f"no tag {tag}")
        return values[0] if values else default or 0

    def raw(self, tag: int) -> bytes | None:
        """The bytes of a tag."""
        if tag not in self._entries:
            return None
        at, _, count = self._place(tag)
        return self._data[at : at + count]

    def _place(self, tag: int) -> tuple[int, int, int]:
        entry = self._entries[tag]
        kind, count = struct.unpack_from(self._order + "HI", self._data, entry + 2)
        if count * struct.calcsize(_TYPES[kind]) <= 4:
            return entry + 8, kind, count
        return struct.unpack_from(self._order + "I", self._data, entry + 8)[0], kind, count


def read_header(data: bytes) -> TiffHeader:
    """Read the directories; no strip is looked at.

    Raises:
        ValueError, KeyError, struct.error: the file is damaged.
        UnsupportedFormat: its image is of a kind that is not read here.
    """
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    pages = _pages(data, order)
    page = pages[0]
    width, height = page.one(256), page.one(257)
    photometric, compression = page.one(262), page.one(259, NONE)
    sample_count = page.one(277, 1)
    depths = page.all(258, 16) or (1,)
    _check_kind(page, photometric, compression, depths)
    colors, extra = _COLORS[photometric], page.all(338, 16)
    alphas = [i for i, kind in enumerate(extra[: sample_count - colors], colors) if kind in (1, 2)]
    if not width or not height or not colors <= sample_count <= MAX_SAMPLES or len(depths) not in (1, sample_count):
        raise ValueError(f"{sample_count} samples, {len(depths)} depths")
    is_planar = page.one(284, 1) == 2 and sample_count > 1
    tile = (page.one(322), page.one(323)) if 322 in page else None
    if tile and not (0 < tile[0] <= max(width + 16, MAX_TILE_PX) and 0 < tile[1] <= max(height + 16, MAX_TILE_PX)):
        raise ValueError(f"tiles of {tile}")
    if tile and tile[0] * tile[1] > MAX_PIXELS:
        raise ValueError("tiles of too many pixels")
    strip_rows = min(page.one(278, height) or height, height)
    across, down = (math.ceil(width / tile[0]), math.ceil(height / tile[1])) if tile else (1, math.ceil(height / strip_rows))
    piece_count = across * down * (sample_count if is_planar else 1)
    offsets, lengths = _pieces(data, page, tile is not None, piece_count)
    return TiffHeader(
        size=(width, height),
        page_count=len(pages),
        order=order,
        depth=depths[0],
        photometric=photometric,
        sample_count=sample_count,
        alpha=alphas[0] if alphas else None,
        is_premultiplied=bool(alphas) and extra[alphas[0] - colors] == 1,
        palette=_palette(page, depths[0]) if photometric == PALETTE else (),
        orientation={0: 1}.get(turn := page.one(274, 1), turn if 1 <= turn <= 8 else None),
        icc_profile=page.raw(34675),
        xmp=page.raw(700) or b"",
        compression=compression,
        has_differences=page.one(317, 1) == 2 and compression in (LZW, DEFLATE, OLD_DEFLATE),
        is_planar=is_planar,
        fill_order=page.one(266, 1),
        tile=tile,
        strip_rows=strip_rows,
        offsets=offsets,
        lengths=lengths,
    )


def _pages(data: bytes, order: str) -> list[_Directory]:
    """The directories that are pages of their own: at least the first.

    Raises:
        UnsupportedFormat: a raw file of a camera, whose first image is a thumbnail.
    """
    directories: list[_Directory] = []
    at, seen = struct.unpack_from(order + "I", data, 4)[0], set[int]()
    while at and at not in seen and len(seen) < MAX_PAGES:
        seen.add(at)
        try:
            directories.append(_Directory(data, order, at))
        except struct.error:
            if not directories:
                raise
            break
        at = directories[-1].next
    pages = [each for each in directories if not each.one(254, 0) & _NOT_A_PAGE]
    if any(_DNG_VERSION in each for each in directories) or (not pages and _SUB_DIRECTORIES in directories[0]):
        raise UnsupportedFormat("The file is a camera's raw file, which is not supported: develop it and send a TIFF or JPEG.")
    return pages or directories[:1]


def _check_kind(page: _Directory, photometric: int, compression: int, depths: tuple[int, ...]) -> None:
    formats = set(page.all(339, 16)) - {1, 4}  # whole numbers without a sign, or unknown
    if compression not in (NONE, LZW, DEFLATE, OLD_DEFLATE, PACK_BITS):
        what = f"compression {compression}"
    elif photometric not in _COLORS:
        what = f"colours of kind {photometric}"
    elif formats or len(set(depths)) > 1 or depths[0] not in _DEPTHS[photometric]:
        what = f"samples of {depths[0]} bits" if not formats else "samples that are no whole numbers"
    elif depths[0] < 8 and page.one(277, 1) > 1:
        what = f"several samples of {depths[0]} bits"
    elif page.one(317, 1) > 2 or (page.one(317, 1) == 2 and depths[0] < 8):
        what = f"predictor {page.one(317)}"
    else:
        return
    raise UnsupportedFormat(
        f"The TIFF file has {what}, which is not supported. Save it with 8 or 16 bits, uncompressed or with LZW or deflate."
    )


def _pieces(data: bytes, page: _Directory, is_tiled: bool, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if count > MAX_PIECES:
        raise ValueError(f"{count} pieces")
    offsets = page.all(324, count) if is_tiled and 324 in page else page.all(273, count)
    lengths = page.all(325, count) if is_tiled and 325 in page else page.all(279, count)
    if not lengths and len(offsets) == 1:
        lengths = (len(data),)
    if len(offsets) < count or len(lengths) < count:
        raise ValueError(f"{len(offsets)} of {count} pieces")
    lengths = tuple(max(min(length, len(data) - at), 0) for at, length in zip(offsets, lengths, strict=True))
    if sum(lengths) > len(data):
        raise ValueError("pieces that overlap")
    return offsets, lengths


def _palette(page: _Directory, depth: int) -> tuple[int, ...]:
    values = page.all(320, 3 << depth)
    if len(values) != 3 << depth:
        raise ValueError(f"a palette of {len(values)} values")
    return tuple(value >> 8 for value in values) if max(values) > 255 else values


def samples_file(data: bytes, header: TiffHeader, plane: int) -> bytes:
    """The same strips or tiles as those of one gray image whose pixels are the bytes of the samples.

    `plane` is 0 unless each sample has a plane of its own.
    """
    plane_count = header.sample_count if header.is_planar else 1
    count = len(header.offsets) // plane_count
    mine = slice(plane * count, (plane + 1) * count)
    start = len(data) + len(data) % 2
    arrays = [header.offsets[mine], header.lengths[mine]]
    numbers = {
        256: header.row_bytes,
        257: header.size[1],
        258: 8,
        259: header.compression,
        262: 1,
        266: header.fill_order,
        277: 1,
    }
    numbers |= {322: header.tile_bytes, 323: header.tile[1]} if header.tile else {278: header.strip_rows}
    tags = dict.fromkeys((324, 325) if header.tile else (273, 279)) | numbers
    entries, after = [], start + 2 + 12 * len(tags) + 4
    tail = b""
    for tag in sorted(tags):
        values = arrays.pop(0) if tags[tag] is None else (tags[tag],)
        packed = struct.pack(f"<{len(values)}I", *values)
        entries.append(struct.pack("<HHI", tag, 4, len(values)))
        entries.append(packed if len(packed) == 4 else struct.pack("<I", after + len(tail)))
        tail += packed if len(packed) > 4 else b""
    head, padding = b"II*\0" + struct.pack("<I", start), b"\0" * (len(data) % 2)
    directory = [struct.pack("<H", len(tags)), *entries, b"\0" * 4, tail]
    return b"".join([head, memoryview(data)[8:], padding, *directory])
