"""The header of AVIF and HEIC files (HEIF, ISO/IEC 23008-12): the primary image and what belongs to it, no pixel of them.

A telephone's file also holds thumbnails, depth and other images: nobody looks at those.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from core.config import MAX_PIXELS
from core.errors import UnsupportedFormat
from imaging.containers.bitstream import read_av1, read_hevc

MAX_BOXES = 20_000  # in one box
MAX_ITEMS = 1000  # of a file: libheif reads no more either
MAX_PARTS = 10_000  # of all items
MAX_FRAMES = 8  # of one AV1 item: layers, each of which is decoded
PADDING_PX = 64  # by which a coded picture may be larger than its image: a block
_CONFIGS = {b"av01": b"av1C", b"hvc1": b"hvcC"}
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")
# The EXIF orientation after a quarter turn against the clock, and after a mirror on the vertical or on the horizontal axis.
_AFTER_TURN = {1: 8, 8: 3, 3: 6, 6: 1, 2: 5, 5: 4, 4: 7, 7: 2}
_AFTER_MIRROR = {
    0: {1: 4, 4: 1, 2: 3, 3: 2, 5: 8, 8: 5, 6: 7, 7: 6},
    1: {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 7: 8, 8: 7},
}


@dataclass(frozen=True)
class HeifHeader:
    """What a file says of its image. Sizes in pixels, before `orientation` is applied."""

    size: tuple[int, int]
    has_alpha: bool
    is_gray: bool
    depth: int  # bits of a sample, of AV1
    frame_count: int
    orientation: int  # as in EXIF, which itself does not count here; libheif has turned the image, libavif has not
    icc_profile: bytes | None
    cicp: bytes | None  # of the decoded RGB: primaries, transfer, no matrix, full range
    exif: bytes
    xmp: bytes


@dataclass
class _Item:
    kind: bytes = b""
    content_type: bytes = b""  # of what is no image
    method: int = 0
    parts: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    references: dict[bytes, list[int]] = field(default_factory=dict)

    def find(self, name: bytes) -> bytes | None:
        return next((body for each, body in self.properties if each == name), None)

    @property
    def size(self) -> tuple[int, int]:
        body = self.find(b"ispe")
        if body is None:
            raise ValueError("an image without a size")
        width, height = struct.unpack_from(">II", body, 4)
        return width, height


def brands(data: bytes) -> list[bytes]:
    """The major one, and those that the file is compatible with."""
    end = min(int.from_bytes(data[:4], "big"), 400)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]


def read_header(data: bytes, is_avif: bool) -> HeifHeader:
    """Read what belongs to the primary image.

    Raises:
        ValueError, KeyError, IndexError, struct.error: the file is damaged, or makes more work than its image needs.
        UnsupportedFormat: the image is made in a way that is not read here.
    """
    top = list(_boxes(data))
    frame_count = max((_frames(body) for name, body in top if name == b"moov"), default=1)
    meta = next(body for name, body in top if name == b"meta")
    children = dict(reversed(list(_boxes(meta[4:]))))  # the first of each name
    items = _items(children)
    pitm = children[b"pitm"]
    primary_id = int.from_bytes(pitm[4:8] if pitm[0] else pitm[4:6], "big")
    primary = items[primary_id]
    reader = _Reader(data, children.get(b"idat", b""), items, b"av01" if is_avif else b"hvc1")
    is_gray = reader.check(primary)
    alpha = next((item for item in items.values() if _is_alpha_of(item, primary_id)), None)
    if alpha is not None:
        if alpha.size != primary.size:
            raise ValueError("transparency of another size")
        reader.check(alpha)
    tiles = [items[each] for each in primary.references.get(b"dimg", [])[:1] if each in items]
    icc, cicp = _colour([primary, *tiles])
    orientation = _orientation(primary)
    describing = [item for item in items.values() if primary_id in item.references.get(b"cdsc", ())]
    exif = next((reader.bytes_or_damage(item) for item in describing if item.kind == b"Exif"), b"")
    return HeifHeader(
        primary.size if is_avif else _transformed_size(primary),
        has_alpha=alpha is not None,
        is_gray=is_gray,
        depth=reader.depth,
        frame_count=frame_count,
        orientation=orientation if is_avif else 1,
        icc_profile=icc,
        cicp=cicp,
        exif=exif[4 + int.from_bytes(exif[:4], "big") :],
        xmp=next((reader.bytes_or_damage(item) for item in describing if item.content_type == b"application/rdf+xml"), b""),
    )


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each."""
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = at + length if length else len(data)
        if end < start:
            raise ValueError(f"a box {name!r} without a length")
        yield name, data[start:end]
        at = end
    raise ValueError("too many boxes")


def _items(children: dict[bytes, bytes]) -> dict[int, _Item]:
    items = _read_infe(children[b"iinf"])
    _read_iloc(children[b"iloc"], items)
    _read_iprp(children[b"iprp"], items)
    _read_iref(children.get(b"iref", b"\0" * 4), items)
    return items


def _read_infe(iinf: bytes) -> dict[int, _Item]:
    items = {}
    for name, body in _boxes(iinf[6 if iinf[0] == 0 else 8 :]):
        if name == b"infe" and body[0] >= 2:
            width = 2 if body[0] == 2 else 4
            kind, texts = body[6 + width : 10 + width], body[10 + width :].split(b"\0", 2)
            content_type = texts[1] if kind == b"mime" and len(texts) == 3 else b""
            items[int.from_bytes(body[4 : 4 + width], "big")] = _Item(kind, content_type)
    if len(items) > MAX_ITEMS:
        raise ValueError(f"{len(items)} items")
    return items


def _read_iloc(iloc: bytes, items: dict[int, _Item]) -> None:
    version, sizes = iloc[0], int.from_bytes(iloc[4:6], "big")
    offset_bytes, length_bytes, base_bytes, index_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    at = 6

    def read(width: int) -> int:
        nonlocal at
        at += width
        if at > len(iloc):
            raise ValueError("iloc is cut off")
        return int.from_bytes(iloc[at - width : at], "big")

    count, part_count = read(4 if version == 2 else 2), 0
    for _ in range(count):
        item = items.get(read(4 if version == 2 else 2), _Item())
        item.method = read(2) & 15 if version else 0
        read(2)
        base = read(base_bytes)
        for _ in range(read(2)):
            read(index_bytes if version else 0)
            start = base + read(offset_bytes)
            item.parts.append((start, read(length_bytes)))
            part_count += 1
            if part_count > MAX_PARTS:
                raise ValueError("too many parts of items")


def _read_iprp(iprp: bytes, items: dict[int, _Item]) -> None:
    boxes = list(_boxes(iprp))
    properties = list(_boxes(next(body for name, body in boxes if name == b"ipco")))
    for name, ipma in boxes:
        if name != b"ipma":
            continue
        id_bytes = 2 if ipma[0] == 0 else 4
        index_bytes = 2 if ipma[3] & 1 else 1
        at = 8
        for _ in range(min(int.from_bytes(ipma[4:8], "big"), MAX_ITEMS)):
            item = items.get(int.from_bytes(ipma[at : at + id_bytes], "big"), _Item())
            at += id_bytes
            for start in range(at + 1, at + 1 + ipma[at] * index_bytes, index_bytes):
                index = int.from_bytes(ipma[start : start + index_bytes], "big") & (0x7FFF if index_bytes == 2 else 0x7F)
                if index:
                    item.properties.append(properties[index - 1])
            at += 1 + ipma[at] * index_bytes


def _read_iref(iref: bytes, items: dict[int, _Item]) -> None:
    id_bytes = 2 if iref[0] == 0 else 4
    for name, body in _boxes(iref[4:]):
        ids = [int.from_bytes(body[at : at + id_bytes], "big") for at in range(0, len(body), id_bytes) if at != id_bytes]
        count = int.from_bytes(body[id_bytes : id_bytes + 2], "big")
        source, targets = ids[0], body[id_bytes + 2 :]
        if source in items:
            items[source].references[name] = [
                int.from_bytes(targets[at : at + id_bytes], "big")
                for at in range(0, min(count * id_bytes, len(targets)), id_bytes)
            ]


class _Reader:
    """Reads items, and sees that what their decoder will do is bounded by the size of the image."""

    def __init__(self, data: bytes, idat: bytes, items: dict[int, _Item], coded_as: bytes) -> None:
        self._data, self._idat, self._items, self._coded_as = data, idat, items, coded_as
        self.depth = 8
        self._left_bytes = 2 * len(data)  # that may be read: no part needs to be read twice

    def bytes_of(self, item: _Item) -> bytes:
        source = self._idat if item.method == 1 else self._data
        parts = []
        for start, length in item.parts:
            end = start + length if length else len(source)
            self._left_bytes -= end - start
            if end > len(source) or self._left_bytes < 0:
                raise ValueError("an item beyond the file, or items that overlap")
            parts.append(source[start:end])
        return b"".join(parts)

    def bytes_or_damage(self, item: _Item) -> bytes:
        """Of what is no part of the image: a byte that no such thing is, in place of what cannot be read."""
        try:
            return self.bytes_of(item)
        except ValueError:
            return b"\xff"

    def check(self, item: _Item) -> bool:
        """Look through what is coded for an item; whether that is gray."""
        if item.kind == self._coded_as:
            return self._check_coded(item, item.size)
        if item.kind != b"grid":
            raise UnsupportedFormat(
                f"The image is made as {item.kind.decode('latin-1')!r}, which is not supported: save it anew."
            )
        tile_ids = item.references[b"dimg"]
        head = self.bytes_of(item)
        rows, columns = head[2] + 1, head[3] + 1
        if len(tile_ids) != rows * columns:
            raise ValueError("tiles are missing")
        tiles = [self._items[each] for each in tile_ids]
        size = tiles[0].size
        # more than the picture needs, by a row and a column at most
        if (rows - 1) * size[1] >= item.size[1] or (columns - 1) * size[0] >= item.size[0] or len(set(tile_ids)) != len(tiles):
            raise ValueError("more tiles than the picture has")
        if size[0] * size[1] > MAX_PIXELS:
            raise ValueError("tiles of too many pixels")
        grays = [self._check_coded(tile, size) for tile in tiles]
        return all(grays)

    def _check_coded(self, item: _Item, size: tuple[int, int]) -> bool:
        config = item.find(_CONFIGS[self._coded_as])
        if config is None or item.kind != self._coded_as or item.size != size:
            raise ValueError("no configuration, or tiles of several sizes")
        data = self.bytes_of(item)
        is_av1 = item.kind == b"av01"
        stream = read_av1(config[4:] + data) if is_av1 else read_hevc(config, data)
        if not 1 <= stream.frame_count <= (MAX_FRAMES if is_av1 else 1) or not stream.sizes:
            raise ValueError(f"{stream.frame_count} pictures in one item")
        if any(width > size[0] + PADDING_PX or height > size[1] + PADDING_PX for width, height in stream.sizes):
            raise ValueError("a coded picture that is larger than its image")
        if is_av1:
            self.depth = max(self.depth, (12 if config[2] & 0x20 else 10) if config[2] & 0x40 else 8)
        return bool(config[2] >> 4 & 1 if is_av1 else config[16] & 3 == 0)


def _is_alpha_of(item: _Item, primary_id: int) -> bool:
    body = item.find(b"auxC")
    return body is not None and body[4:].split(b"\0")[0] in _ALPHA and primary_id in item.references.get(b"auxl", ())


def _orientation(item: _Item) -> int:
    orientation = 1
    for name, body in item.properties:
        if name == b"irot":
            for _ in range(body[0] & 3):
                orientation = _AFTER_TURN[orientation]
        elif name == b"imir":
            orientation = _AFTER_MIRROR[body[0] & 1][orientation]
    return orientation


def _transformed_size(item: _Item) -> tuple[int, int]:
    """After all turns and crops, in their order, as libheif makes them; libavif makes none."""
    width, height = item.size
    for name, body in item.properties:
        if name == b"irot" and body[0] & 1:
            width, height = height, width
        elif name == b"clap":
            across, across_by, down, down_by = struct.unpack_from(">4I", body)
            if not across_by or not down_by:
                raise ValueError("a crop by nothing")
            width, height = (
                min((2 * side + by) // (2 * by), whole)
                for side, by, whole in ((across, across_by, width), (down, down_by, height))
            )
    return width, height


def _colour(described: list[_Item]) -> tuple[bytes | None, bytes | None]:
    """The profile, or without one cICP, of the first item that has any: a grid may leave them to its tiles.

    Where there is a profile, what is said beside it is about the coding alone (ISO/IEC 23008-12, 6.5.5.1).
    """
    profile, cicp = None, None
    for item in described:
        for name, body in item.properties:
            if name == b"colr" and body[:4] in (b"prof", b"rICC"):
                profile = body[4:]
            elif name == b"colr" and body[:4] == b"nclx":
                primaries, transfer = struct.unpack_from(">HH", body, 4)
                cicp = bytes([primaries & 255, transfer & 255, 0, 1])
        if profile is not None or cicp is not None:
            break
    return profile, cicp if profile is None else None


def _frames(moov: bytes) -> int:
    """How many samples the longest track has."""
    most = 1
    for name, trak in _boxes(moov):
        if name != b"trak":
            continue
        body: bytes | None = trak
        for part in (b"mdia", b"minf", b"stbl", b"stsz"):
            body = dict(_boxes(body)).get(part) if body is not None else None
        if body is not None:
            most = max(most, int.from_bytes(body[8:12], "big"))
    return most
