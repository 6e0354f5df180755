"""EXIF, read and written anew: values that nothing leads to, thumbnails and loops stay behind."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAX_METADATA_BYTES = 256 * 1024  # of EXIF and XMP together
MAX_ENTRIES = 1000  # of all directories of EXIF; cameras write some fifty

Density = tuple[float, float]
"""Dots per inch, across and down."""


class TooLarge(ValueError):
    """More than goes out again."""


_HEADERS = {b"II*\0": "<", b"MM\0*": ">"}
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    129: 1,
}  # bytes, by the kind of value
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x112, 0x11A, 0x11B, 0x128
_EXIF, _GPS, _INTEROP, _MAKER_NOTE = 0x8769, 0x8825, 0xA005, 0x927C
_WIDTHS, _HEIGHTS = (0x100, 0xA002), (0x101, 0xA003)  # in the first directory, and in that of EXIF
# How the pixels of the original file are stored, its thumbnails, its profile, XMP; areas in the original's pixels.
_DROPPED = frozenset(
    [
        *(0xFE, 0xFF, 0x102, 0x103, 0x106, 0x10A, 0x111, 0x115, 0x116, 0x117, 0x11C, 0x120, 0x121, 0x13D, 0x140),
        *(0x142, 0x143, 0x144, 0x145, 0x14A, 0x152, 0x153, 0x15B, *range(0x200, 0x20A), 0x211, 0x212, 0x214, 0x2BC),
        *(0x8649, 0x8773, 0x9214, 0xA214),
    ]
)


@dataclass(frozen=True)
class _Entry:
    kind: int
    count: int
    value: bytes


_Directory = dict[int, _Entry]  # by their tags


@dataclass
class Directories:
    """The directories of EXIF that are kept, and where the maker's note lies: what it holds may count from there."""

    order: str = "<"
    first: _Directory | None = None
    exif: _Directory | None = None
    gps: _Directory | None = None
    interop: _Directory | None = None
    note_at: int = 0

    @classmethod
    def of(cls, block: bytes) -> Directories:
        """Read them.

        Raises:
            KeyError, ValueError, struct.error: they are damaged.
        """
        tiff = block.removeprefix(b"Exif\0\0")
        if not tiff:
            return cls()
        reader = _Reader(tiff, _HEADERS[tiff[:4]])
        made = cls(reader.order)
        made.first = reader.directory(*struct.unpack_from(reader.order + "I", tiff, 4))
        made.exif = reader.child(made.first, _EXIF)
        made.gps = reader.child(made.first, _GPS)
        made.interop = reader.child(made.exif or {}, _INTEROP)
        made.note_at = reader.note_at
        for directory in filter(None, (made.first, made.exif, made.gps, made.interop)):
            for tag in (_EXIF, _GPS, _INTEROP):
                directory.pop(tag, None)  # where it leads to nothing that is kept
        return made

    @property
    def density(self) -> Density | None:
        """The print density that they name."""
        first = self.first or {}
        unit = {1: 0.0, 2: 1.0, 3: 2.54}.get(self._number(first, _RESOLUTION_UNIT, 2), 0.0)
        values = [self._rational(first, tag) * unit for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
        return (values[0], values[1]) if min(values) > 0 else None

    def _number(self, directory: _Directory, tag: int, default: int) -> int:
        entry = directory.get(tag)
        if entry is None or entry.kind not in (_SHORT, _LONG) or entry.count != 1:
            return default
        return int(struct.unpack(self.order + ("H" if entry.kind == _SHORT else "I"), entry.value)[0])

    def _rational(self, directory: _Directory, tag: int) -> float:
        entry = directory.get(tag)
        if entry is None or entry.kind != _RATIONAL or entry.count != 1:
            return 0.0
        numerator, denominator = struct.unpack(self.order + "II", entry.value)
        return float(numerator / denominator) if denominator else 0.0

    def fit_to(self, width: int, height: int, density: Density | None) -> None:
        """Let them describe an upright picture of that size, and name a density where they name none."""
        for directory in (self.first or {}, self.exif or {}):
            for tag in _DROPPED & directory.keys():
                del directory[tag]
            for tag in (_X_RESOLUTION, _Y_RESOLUTION):
                if tag in directory and (directory[tag].kind, directory[tag].count) != (_RATIONAL, 1):
                    del directory[tag]  # some readers would take the whole file for damaged
            if _ORIENTATION in directory:
                directory[_ORIENTATION] = _Entry(_SHORT, 1, struct.pack(self.order + "H", 1))
            for tags, side in ((_WIDTHS, width), (_HEIGHTS, height)):
                for tag in directory.keys() & set(tags):
                    directory[tag] = _Entry(_LONG, 1, struct.pack(self.order + "I", side))
        if density and not self.density:
            self.first = self.first or {}
            self.first[_RESOLUTION_UNIT] = _Entry(_SHORT, 1, struct.pack(self.order + "H", 2))
            for tag, value in zip((_X_RESOLUTION, _Y_RESOLUTION), density, strict=True):
                self.first[tag] = _Entry(_RATIONAL, 1, struct.pack(self.order + "II", min(round(value * 100), 2**32 - 1), 100))

    def written(self) -> bytes:
        """As a TIFF structure, with the maker's note where it was; nothing where there is nothing.

        Raises:
            TooLarge: the maker's note lies too far behind.
        """
        first, exif = dict(self.first or {}), dict(self.exif or {})
        out = bytearray(8)
        if note := exif.get(_MAKER_NOTE):
            if self.note_at + len(note.value) > MAX_METADATA_BYTES:
                raise TooLarge
            if self.note_at >= len(out):
                out += bytes(self.note_at - len(out)) + note.value
        for parent, tag, child in ((exif, _INTEROP, self.interop), (first, _EXIF, exif), (first, _GPS, self.gps)):
            if child:
                parent[tag] = _Entry(_LONG, 1, struct.pack(self.order + "I", self._append(out, child)))
        if not first:
            return b""
        at = self._append(out, first)
        mark = next(mark for mark, order in _HEADERS.items() if order == self.order)
        out[:8] = mark + struct.pack(self.order + "I", at)
        return bytes(out)

    def _append(self, out: bytearray, directory: _Directory) -> int:
        """Write a directory and its values to the end, and return where it begins."""
        out += bytes(len(out) % 2)
        at, values_at = len(out), len(out) + 2 + 12 * len(directory) + 4
        head, values = struct.pack(self.order + "H", len(directory)), bytearray()
        for tag, entry in sorted(directory.items()):
            place = entry.value.ljust(4, b"\0")
            if tag == _MAKER_NOTE and self.note_at >= 8:
                place = struct.pack(self.order + "I", self.note_at)
            elif len(place) > 4:
                place = struct.pack(self.order + "I", values_at + len(values))
                values += entry.value + bytes(len(entry.value) % 2)
            head += struct.pack(self.order + "HHI", tag, entry.kind, entry.count) + place
        out += head + bytes(4) + values
        return at


class _Reader:
    """Reads directories within bounds: so many entries, and so many bytes of values, in all."""

    def __init__(self, tiff: bytes, order: str) -> None:
        self.order = order
        self.note_at = 0
        self._tiff = tiff
        self._entries_left = MAX_ENTRIES
        self._bytes_left = MAX_METADATA_BYTES

    def child(self, parent: _Directory, tag: int) -> _Directory | None:
        """The directory that an entry of another leads to, instead of that entry."""
        entry = parent.pop(tag, None)
        if entry is None:
            return None
        if entry.kind not in (_LONG, 13) or entry.count != 1:
            raise ValueError("a pointer that is none")
        return self.directory(*struct.unpack(self.order + "I", entry.value))

    def directory(self, at: int) -> _Directory:
        """The one that begins there."""
        (count,) = struct.unpack_from(self.order + "H", self._tiff, at)
        self._entries_left -= count
        if self._entries_left < 0:
            raise ValueError("too many entries")
        entries: _Directory = {}
        for entry_at in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(self.order + "HHI", self._tiff, entry_at)
            size, value_at = _SIZES[kind] * length, entry_at + 8
            if size > 4:
                (value_at,) = struct.unpack_from(self.order + "I", self._tiff, value_at)
            if tag in _DROPPED or tag in entries:
                continue
            if value_at + size > len(self._tiff):
                raise ValueError("a value beyond the end")
            self._bytes_left -= size
            if self._bytes_left < 0:
                raise TooLarge
            if tag == _MAKER_NOTE and size > 4:
                self.note_at = value_at
            entries[tag] = _Entry(kind, length, self._tiff[value_at : value_at + size])
        return entries
