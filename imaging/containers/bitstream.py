"""How large the pictures of AV1 and HEVC are, and how many: a decoder believes its stream, not the file around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_UNITS = 20_000  # of one stream; a still image has some tens
_SPS, _LAST_SLICE = 33, 31  # types of NAL units
_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # types of OBUs


@dataclass(frozen=True)
class Stream:
    """What a stream will make a decoder do."""

    sizes: list[tuple[int, int]]  # width and height in pixels, one of each header in it
    frame_count: int


class _Bits:
    """Bits of a header, the most significant first."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data, "big"), len(data) * 8

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the stream's header is cut off")
        return self._number >> self._left & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("a number of more than 32 bits")
        return (1 << zeros) - 1 + self.read(zeros)


def read_hevc(config: bytes, data: bytes) -> Stream:
    """Of an `hvcC` box and the item's own data.

    Raises:
        ValueError, IndexError: it is damaged, or has too many units.
    """
    sizes, frame_count = [], 0
    units = [*_units_of_config(config), *_units(data, (config[21] & 3) + 1)]
    for unit in units:
        kind = unit[0] >> 1 & 63
        if kind == _SPS:
            sizes.append(_size_in_sps(unit[2:100].replace(b"\0\0\3", b"\0\0")))
        elif kind <= _LAST_SLICE:
            frame_count += unit[2] >> 7  # the first slice of a picture
    return Stream(sizes, frame_count)


def _units_of_config(config: bytes) -> Iterator[bytes]:
    at = 23
    for _ in range(config[22]):
        count = int.from_bytes(config[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            length = int.from_bytes(config[at : at + 2], "big")
            if length < 3 or at + 2 + length > len(config):
                raise ValueError("a unit beyond its box")
            yield config[at + 2 : at + 2 + length]
            at += 2 + length


def _units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    at = 0
    for _ in range(MAX_UNITS):
        if at + length_bytes > len(data):
            return
        length = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if length < 3 or at + length > len(data):
            raise ValueError("a unit beyond its item")
        yield data[at : at + min(length, 200)]
        at += length
    raise ValueError("too many units")


def _size_in_sps(body: bytes) -> tuple[int, int]:
    """ITU-T H.265, 7.3.2.2."""
    bits = _Bits(body)
    bits.read(4)
    layers = bits.read(3)
    bits.read(1 + 88 + 8)  # nesting; the general profile, tier and level
    present = [(bits.read(1), bits.read(1)) for _ in range(layers)]
    bits.read(2 * (8 - layers) if layers else 0)
    for profile, level in present:
        bits.read(88 * profile + 8 * level)
    bits.exp_golomb()  # its id
    if bits.exp_golomb() == 3:  # 4:4:4
        bits.read(1)
    return bits.exp_golomb(), bits.exp_golomb()


def read_av1(data: bytes) -> Stream:
    """Of an item's data.

    Raises:
        ValueError: it is damaged, or has too many units.
    """
    sizes: list[tuple[int, int]] = []
    frame_count = at = 0
    for _ in range(MAX_UNITS):
        if at >= len(data):
            return Stream(sizes, frame_count)
        head = data[at]
        kind = head >> 3 & 15
        at += 1 + (head >> 2 & 1)
        if head & 2:
            length, at = _leb128(data, at)
        else:
            length = len(data) - at
        if length < 0 or at + length > len(data):
            raise ValueError("a unit beyond its item")
        if kind == _SEQUENCE:
            sizes.append(_size_in_sequence_header(data[at : at + min(length, 200)]))
        frame_count += kind in (_FRAME_HEADER, _FRAME)
        at += length
    raise ValueError("too many units")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        if at + i >= len(data):
            break
        value |= (data[at + i] & 127) << 7 * i
        if data[at + i] < 128:
            return value, at + i + 1
    raise ValueError("a length without end")


def _size_in_sequence_header(body: bytes) -> tuple[int, int]:
    """AV1 Bitstream & Decoding Process Specification, 5.5.1."""
    bits = _Bits(body)
    bits.read(4)  # profile, still picture
    if bits.read(1):  # the reduced header of still pictures
        bits.read(5)
    else:
        has_model, delay_bits = 0, 0
        if bits.read(1):  # timing
            bits.read(64)
            if bits.read(1):
                bits.exp_golomb()
            has_model = bits.read(1)
            if has_model:
                delay_bits = bits.read(5) + 1
                bits.read(32 + 10)
        has_delay = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if has_model and bits.read(1):
                bits.read(2 * delay_bits + 1)
            if has_delay and bits.read(1):
                bits.read(4)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(width_bits) + 1, bits.read(height_bits) + 1
