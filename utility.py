"""Small tools that several folders share: base64 in, files written atomically, the io threads."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import re
import stat
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import pybase64

from core.config import MAX_IMAGE_BYTES, MIB
from core.errors import FileTooLarge, InvalidBase64
from core.logs import in_this_context

P = ParamSpec("P")
T = TypeVar("T")

IO_THREADS = 4

_DATA_URL = re.compile(r"\s*data:image/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII | re.IGNORECASE)
_WHITESPACE = " \t\n\r\v\f"
_NO_WHITESPACE = str.maketrans("", "", _WHITESPACE)


def decode_base64(text: str) -> bytes:
    """Standard base64, with ASCII whitespace inside and a `data:image/…;base64,` prefix accepted.

    Raises:
        InvalidBase64: a character outside the alphabet, or a length that no base64 has.
        FileTooLarge: more than MAX_IMAGE_BYTES would come out.
    """
    if prefix := _DATA_URL.match(text):
        text = text[prefix.end() :]
    if any(space in text for space in _WHITESPACE):
        text = text.translate(_NO_WHITESPACE)
    if len(text) > math.ceil(MAX_IMAGE_BYTES / 3) * 4:
        raise FileTooLarge(
            f"image_b64 holds about {len(text) * 3 / 4 / MIB:.1f} MB; the limit is {MAX_IMAGE_BYTES // MIB} MB decoded.",
            limit_bytes=MAX_IMAGE_BYTES,
        )
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as exc:  # binascii.Error among them; a non-ASCII string is a plain ValueError
        raise InvalidBase64(f"image_b64 is not standard base64: {_fault_of_base64(text)}.") from exc


def _fault_of_base64(text: str) -> str:
    """What is wrong with a text that is not base64, and what would be right."""
    if stranger := re.search(r"[^A-Za-z0-9+/=]", text):
        if stranger[0] in "-_":
            return "it is of the URL-safe kind. Replace - by + and _ by /"
        return f"it contains {stranger[0]!r}. Only A–Z, a–z, 0–9, + and / belong there, and = at the end"
    if len(text) % 4:
        return f"it has {len(text)} characters, which is no multiple of 4. It was cut off, or its padding with = is missing"
    return "= may only be the last character, or the last two"


def open_regular(path: Path, max_bytes: float = math.inf) -> BinaryIO:
    """Open a file for reading without waiting, whatever others have put in its place.

    Raises:
        OSError: it cannot be opened, is no regular file but a link, a pipe, a folder, …, or is larger than `max_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file, or too large", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, max_bytes: int) -> bytes:
    """What is in a file, or was when it was opened.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path, max_bytes) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def write_atomically(path: Path, data: bytes, unfinished: Path) -> None:
    """Write a file whole or not at all, under the name `unfinished` until it is on the disk.

    Raises:
        OSError: the disk is full, the folder cannot be written, …; nothing is left behind.
    """
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


class IOExecutor:
    """Where everything runs that would hold the event loop and does not touch the device."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(IO_THREADS, thread_name_prefix="io")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result; what it does goes on if the caller is cancelled."""
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._executor.submit(in_this_context(partial(function, *args, **kwargs)))

    def close(self) -> None:
        """Let the threads go; what has not begun never will."""
        self._executor.shutdown(wait=False, cancel_futures=True)
