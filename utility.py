"""What comes in and goes out: base64, the folder of results, the threads for both.

This room knows neither HTTP nor networks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import pybase64

from core.config import MAX_IMAGE_BYTES, MIB
from core.errors import FileNotFound, FileTooLarge, InvalidBase64
from core.logs import in_this_context

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

IO_THREADS = 4
MAX_RECORDS = 10_000  # of jobs, which anybody can start and cancel; some 40 MB

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
    """Of a text that is none: what is wrong with it, and what would be right."""
    if stranger := re.search(r"[^A-Za-z0-9+/=]", text):
        if stranger[0] in "-_":
            return "it is of the URL-safe kind. Replace - by + and _ by /"
        return f"it contains {stranger[0]!r}. Only A–Z, a–z, 0–9, + and / belong there, and = at the end"
    if len(text) % 4:
        return f"it has {len(text)} characters, which is no multiple of 4. It was cut off, or its padding with = is missing"
    return "= may only be the last character, or the last two"


def write_whole(path: Path, data: bytes, unfinished: Path) -> None:
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


@dataclass(frozen=True)
class ResultStore:
    """The folder of results. A name has 128 random bits, so it can neither collide nor be guessed.

    Only files that carry such a name are ever served or removed: an operator's own files in the folder are left alone.
    """

    folder: Path
    retention_seconds: float
    max_bytes: int
    max_records: int = MAX_RECORDS

    def save(self, data: bytes, extension: str) -> Path:
        """Write a result whole or not at all, and return its absolute path.

        Raises:
            OSError: the disk is full, the folder cannot be written, …; nothing is left behind.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder.resolve() / f"{secrets.token_hex(16)}.{extension}"
        write_whole(path, data, unfinished=path.with_suffix(".part"))
        return path

    def check_writable(self) -> None:
        """Try what `save` will do.

        Raises:
            OSError: it will fail.
        """
        self.save(b"", "png").unlink()

    def find(self, name: str) -> Path:
        """The path of a result.

        Raises:
            FileNotFound: there is none of that name, or the name is not one that `save` gives.
        """
        path = self.folder / name
        if not _RESULT_NAME.fullmatch(name) or path.is_symlink() or not path.is_file():
            raise FileNotFound("There is no such file: results are removed after a while.")
        return path

    def sweep(self, now: float) -> int:
        """Remove results, and records of jobs, older than the retention, then the oldest beyond size and number.

        Args:
            now: in epoch seconds.

        Returns:
            How many were removed. What a process that was killed left half-written goes with them after an hour.
        """
        removed, total_bytes, records = 0, 0, 0
        for path, status in sorted(self._files(), key=lambda entry: entry[1].st_mtime, reverse=True):
            is_partial = path.suffix == ".part"
            total_bytes += 0 if is_partial else status.st_size
            is_record = bool(_JOB_RECORD.fullmatch(path.name))
            records += is_record
            limit = _PARTIAL_SECONDS if is_partial else self.retention_seconds
            too_many = total_bytes > self.max_bytes or (records > self.max_records and is_record)
            if now - status.st_mtime > limit or (too_many and not is_partial):
                try:
                    path.unlink(missing_ok=True)
                    removed += 1
                except OSError as exc:  # of another user, perhaps: the others go all the same
                    logger.error("%s cannot be removed: %s", path, exc.strerror)
        return removed

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*") if self.folder.exists() else ():
            if _OWN_NAME.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process may sweep the same folder
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        yield path, status


_RESULT_NAME = re.compile(r"[0-9a-f]{32}\.(?:jpg|png|webp)", re.ASCII)
_OWN_NAME = re.compile(r"[0-9a-f]{32}\.(?:jpg|png|webp|json|part)|[0-9a-f]{64}\.(?:json|part)", re.ASCII)
_JOB_RECORD = re.compile(r"[0-9a-f]{32}\.json", re.ASCII)
_PARTIAL_SECONDS = 60 * 60


class IOThreads:
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
