"""The header of a GIF file (GIF89a): its frame, colours and transparency; no pixel is unpacked."""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_BLOCKS = 500_000  # of at most 255 bytes each
_IMAGE, _EXTENSION, _CONTROL = 0x2C, 0x21, 0xF9


@dataclass(frozen=True)
class GifHeader:
    """What a file says of its first frame. Sizes in pixels."""

    size: tuple[int, int]  # of the whole picture, of which the frame may be a part
    frame: tuple[int, int, int, int]  # left, top, width, height
    palette: bytes  # 3 bytes for each colour
    transparent: int | None  # the index of the colour that is
    is_interlaced: bool
    code_bits: int
    pixels_at: int  # where the blocks of pixels begin
    frame_count: int

    @property
    def has_alpha(self) -> bool:
        """Around a frame that is smaller than the picture, nothing is drawn."""
        return self.transparent is not None or self.frame[2:] != self.size

    @property
    def is_gray(self) -> bool:
        return self.palette[0::3] == self.palette[1::3] == self.palette[2::3]


def read_header(data: bytes) -> GifHeader:
    """Read the blocks of a file.

    Raises:
        ValueError, IndexError: it has no image.
    """
    palette, transparent, first, frame_count = b"", None, None, 0
    width, height, flags = _read16(data, 6), _read16(data, 8), data[10]
    at = 13
    if flags & 0x80:
        palette, at = _palette(data, at, flags)
    blocks_left = MAX_BLOCKS
    while at < len(data):
        kind = data[at]
        if kind == _EXTENSION:
            if data[at + 1] == _CONTROL and not first:
                transparent = data[at + 6] if data[at + 3] & 1 else None
            at += 2
        elif kind == _IMAGE:
            frame_count += 1
            left, top, frame_width, frame_height = (_read16(data, at + i) for i in (1, 3, 5, 7))
            flags, at = data[at + 9], at + 10
            own = palette
            if flags & 0x80:
                own, at = _palette(data, at, flags)
            if not first:
                size = max(width, left + frame_width), max(height, top + frame_height)
                frame = left, top, frame_width, frame_height
                first = GifHeader(size, frame, own, transparent, bool(flags & 0x40), data[at], at + 1, 1)
            at += 1
        else:
            break
        while at < len(data) and data[at]:
            at += data[at] + 1
            blocks_left -= 1
            if not blocks_left:
                raise ValueError("too many blocks")
        at += 1
    if not first or not first.frame[2] * first.frame[3] or not first.palette:
        raise ValueError("no image")
    return replace(first, frame_count=frame_count)


def _palette(data: bytes, at: int, flags: int) -> tuple[bytes, int]:
    end = at + (6 << (flags & 7))
    if end > len(data):
        raise ValueError("the palette is cut off")
    return data[at:end], end


def _read16(data: bytes, at: int) -> int:
    return data[at] | data[at + 1] << 8
