"""Small tools that several folders share: base64 in, files written atomically, the io threads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import re
import resource
import stat
from collections.abc import Callable, Iterable, Iterator
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
# Files that are neither connections nor of jobs: libraries, pictures, 32 webhooks, and the hundred connections that the event
# loop accepts in one go, before anybody looks at their number.
OTHER_FILES = 180
MAX_JOBS = 200  # that are not done, each of which keeps its record open

# Whatever a browser, a form or a script writes before the data: a media type of any kind or none, parameters, quotes, spaces.
_DATA_URL = re.compile(rb"\s*data:(.*?;\s*base64\s*,)?", re.IGNORECASE | re.DOTALL)
MAX_PREFIX_BYTES = 2000  # in which that is looked for
_WHITESPACE = b" \t\n\r\v\f"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


def decode_base64(text: str | Iterable[bytes], max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """Standard base64, with ASCII whitespace inside and a `data:…;base64,` prefix accepted.

    Args:
        text: whole, or in pieces, so that no call holds the interpreter's lock for all of a long one.
        max_bytes: that may come out.

    Raises:
        InvalidBase64: a character outside the alphabet, or a length that no base64 has.
        FileTooLarge: more would come out.
    """
    data = b"".join(
        piece.translate(None, _WHITESPACE) for piece in _without_prefix([text.encode()] if isinstance(text, str) else text)
    )
    if len(data) > math.ceil(max_bytes / 3) * 4:
        raise FileTooLarge(
            f"image_b64 holds about {len(data) * 3 / 4 / MIB:.1f} MB; the limit is {max_bytes // MIB} MB decoded.",
            limit_bytes=max_bytes,
        )
    try:
        return pybase64.b64decode(data, validate=True)
    except ValueError as exc:  # binascii.Error
        raise InvalidBase64(f"image_b64 is not standard base64: {_fault_of_base64(data)}.") from exc


def _without_prefix(text: Iterable[bytes]) -> Iterator[bytes]:
    pieces = iter(text)
    first = next(pieces, b"")
    prefix = _DATA_URL.match(first, 0, MAX_PREFIX_BYTES)
    if prefix and not prefix[1]:
        raise InvalidBase64("image_b64 is not standard base64: it is a data URL without ;base64, before its data.")
    yield first[prefix.end() :] if prefix else first
    yield from pieces


def _fault_of_base64(data: bytes) -> str:
    """What is wrong with what is not base64, and what would be right."""
    if strangers := data.translate(None, _ALPHABET)[:100].decode("utf-8", "replace"):
        if strangers[0] in "-_":
            return "it is of the URL-safe kind. Replace - by + and _ by /"
        return f"it contains {strangers[0]!r}. Only A–Z, a–z, 0–9, + and / belong there, and = at the end"
    if len(data) % 4:
        return f"it has {len(data)} characters, which is no multiple of 4. It was cut off, or its padding with = is missing"
    return "= may only be the last character, or the last two"


def open_regular(path: Path, max_bytes: float = math.inf, *, is_writable: bool = False) -> BinaryIO:
    """Open a file for reading, and writing, without waiting, whatever others have put in its place.

    Raises:
        OSError: it cannot be opened, is no regular file but a link, a pipe, a folder, …, or is larger than `max_bytes`.
    """
    descriptor = os.open(path, (os.O_RDWR if is_writable else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOFOLLOW)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file, or too large", str(path))
    return os.fdopen(descriptor, "r+b" if is_writable else "rb")


def read_regular(path: Path, max_bytes: int) -> bytes:
    """What is in a file, or was when it was opened.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path, max_bytes) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def write_atomically(path: Path, *pieces: bytes, unfinished: Path, mode: int = 0o666, is_lasting: bool = True) -> None:
    """Write a file whole or not at all, under the name `unfinished` until it is on the disk.

    Args:
        path: the file.
        pieces: what shall be in it.
        unfinished: in the same folder.
        mode: its permissions, before the umask.
        is_lasting: whether it must survive the machine's sudden end.

    Raises:
        OSError: the disk is full, the folder cannot be written, …; nothing is left behind.
    """
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.writelines(pieces)
            if is_lasting:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def max_jobs() -> int:
    """How many unfinished jobs the limit of open files allows."""
    return min(MAX_JOBS, max(_free_files() // 4, 1))


def max_connections() -> int:
    """How many connections the limit of open files allows, each of which may have a file to send."""
    return max((_free_files() - max_jobs()) // 2, 1)


def _free_files() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (2**20 if limit == resource.RLIM_INFINITY else limit) - OTHER_FILES


async def wait_at_most(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, but no longer than that. In Python 3.11, `asyncio.wait_for` sometimes swallows a cancellation."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class IOExecutor:
    """Where everything runs that would hold the event loop and does not touch the device. Its methods are called on the loop.

    Who waits for a thread waits on the event loop: a caller that leaves then takes with it all that it brought.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(IO_THREADS, thread_name_prefix="io")
        self._free_threads = asyncio.Semaphore(IO_THREADS)
        self._running = 0

    @property
    def is_busy(self) -> bool:
        """Whether anything runs here now."""
        return self._running > 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result; what it does goes on if the caller is cancelled meanwhile."""
        return await asyncio.wrap_future(await self.start(function, *args, **kwargs))

    async def start(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The same, to be awaited by others; returns as soon as it has a thread."""
        await self._free_threads.acquire()
        try:
            running = self._executor.submit(in_this_context(partial(function, *args, **kwargs)))
        except BaseException:
            self._free_threads.release()
            raise
        self._running += 1
        running.add_done_callback(partial(self._note_end, asyncio.get_running_loop()))
        return running

    def _note_end(self, loop: asyncio.AbstractEventLoop, _: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and nobody waits any more
            loop.call_soon_threadsafe(self._free_thread)

    def _free_thread(self) -> None:
        self._running -= 1
        self._free_threads.release()

    def close(self) -> None:
        """Let the threads go; what has not begun never will."""
        self._executor.shutdown(wait=False, cancel_futures=True)
