"""JSON bodies of megabytes: everything but the long strings is parsed at once.

A parser holds the interpreter's lock: 16 MB of one string made everybody wait for a tenth of a second, and for longer if it
was full of escapes. So a long string is only found here, and read in pieces by who needs it.
"""

from __future__ import annotations

import secrets
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from core.config import MIB
from core.errors import InvalidBase64, InvalidJSON, TooManyValues

# A million values took half a second, these a hundredth of one. Base64 has no comma, so commas tell how many there can be.
MAX_COMMAS = 20_000
MAX_OTHER_BYTES = MIB  # of a body, beside its long strings
LONG_BYTES = 64 * 1024
PIECE_BYTES = 256 * 1024
SHOWN_CHARACTERS = 4096  # of a long string where it does not belong: more than any limit or message would use
_MAX_QUOTES = 400_000  # which take a tenth of a second
_ESCAPE_BYTES = 6  # of the longest, \u0000


@dataclass(frozen=True, eq=False)
class LongString:
    """A string of a JSON body, as it stands there between its quotes."""

    quoted: memoryview

    def pieces(self) -> Iterator[bytes]:
        """Its bytes in UTF-8, without escapes.

        Raises:
            InvalidBase64: it has escapes that JSON has not, or that no base64 needs.
        """
        position = 0
        while piece := bytes(self.quoted[position : position + PIECE_BYTES]):
            cut = piece.rfind(b"\\", max(len(piece) - _ESCAPE_BYTES, 1))
            if cut > 0 and position + len(piece) < len(self.quoted):  # an escape may go on in the next piece
                piece = piece[:cut]
            position += len(piece)
            yield piece if b"\\" not in piece else _without_escapes(piece)

    def shortened(self) -> str:
        """The beginning, where anything else is wrong with it anyway."""
        return bytes(self.quoted[:SHOWN_CHARACTERS]).decode("utf-8", "replace")


def _without_escapes(piece: bytes) -> bytes:
    try:
        text: str = orjson.loads(b'"%b"' % piece)
    except orjson.JSONDecodeError as exc:
        raise InvalidBase64("image_b64 is not standard base64: it has escapes that are not JSON's.") from exc
    return text.encode()


def parse_json(body: bytes) -> Any:
    """What the body says. Where that is an object, a long value in it is a LongString.

    Raises:
        InvalidJSON, TooManyValues: it is no JSON of a bearable size.
    """
    if body.startswith(BOM_UTF8):  # of editors and scripts on Windows
        body = b" " * len(BOM_UTF8) + body[len(BOM_UTF8) :]
    starts = range(0, len(body), PIECE_BYTES)
    if sum(body.count(b",", start, start + PIECE_BYTES) for start in starts) > MAX_COMMAS:
        raise _too_much(f"{MAX_COMMAS:,} commas")
    is_short = len(body) <= MAX_OTHER_BYTES
    long = {} if is_short else _long_strings(body)
    rest = body if is_short else b"".join(_without_long(body, long))
    if len(rest) > MAX_OTHER_BYTES:
        _check_beginning(rest)
        raise _too_much(f"{MAX_OTHER_BYTES // MIB} MB beside the image")
    try:
        # orjson refuses what json lets through: NaN, bytes that are not UTF-8, nesting without end
        parsed = orjson.loads(rest)
    except orjson.JSONDecodeError as exc:
        raise _invalid(exc) from exc
    if not isinstance(parsed, dict):
        return parsed
    strings = {mark: LongString(memoryview(body)[start:end]) for mark, (start, end) in long.items()}
    return {
        strings[name].shortened() if name in strings else name: strings.get(value, value) if isinstance(value, str) else value
        for name, value in parsed.items()
    }


def _too_much(what: str) -> TooManyValues:
    return TooManyValues(f"The body has more than {what}: send image_b64 and the other fields of a request, and nothing else.")


def _invalid(error: orjson.JSONDecodeError) -> InvalidJSON:
    return InvalidJSON(f"The body is not valid JSON: {error}.")


def _check_beginning(body: bytes) -> None:
    """Whether it can be JSON at all, as far as that can be said of a part.

    Raises:
        InvalidJSON: it cannot.
    """
    try:
        orjson.loads(body[:MAX_OTHER_BYTES])
    except orjson.JSONDecodeError as exc:
        if exc.pos < MAX_OTHER_BYTES // 2:  # and not because the rest is missing
            raise _invalid(exc) from exc


def _long_strings(body: bytes) -> dict[str, tuple[int, int]]:
    """Where each is, between its quotes, by a mark to stand in its place. Of what is no JSON, anything may be found."""
    found: dict[str, tuple[int, int]] = {}
    start, last, quote = -1, -1, body.find(b'"')
    for _ in range(_MAX_QUOTES):
        if quote < 0:
            return found
        if start < 0:
            start = quote + 1
        elif not _ends_with_escape(memoryview(body)[last + 1 : quote]):
            if quote - start > LONG_BYTES:
                found[secrets.token_hex(16)] = (start, quote)
            start = -1
        last, quote = quote, body.find(b'"', quote + 1)
    return {}  # more than any JSON with so few commas needs


def _ends_with_escape(text: memoryview) -> bool:
    """Whether an odd number of backslashes ends it."""
    if not text or text[-1] != ord("\\"):
        return False
    return (len(text) - len(bytes(text).rstrip(b"\\"))) % 2 == 1


def _without_long(body: bytes, long: Mapping[str, tuple[int, int]]) -> Iterator[bytes]:
    """The body with a mark in place of each long string, and a space in place of blank pieces."""
    position = 0
    for mark, (start, end) in [*long.items(), ("", (len(body), len(body)))]:
        for at in range(position, start, LONG_BYTES):
            piece = body[at : min(at + LONG_BYTES, start)]
            yield b" " if piece.isspace() else piece
        yield mark.encode()
        position = end
