"""What comes in and goes out, and in what turn: base64, the folder of results, the queue in front of the device.

This room knows neither HTTP nor networks: a job's work is a number and a function.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pybase64

from config import MAX_IMAGE_BYTES, MIB
from errors import FileNotFound, FileTooLarge, InvalidBase64, JobCancelled, QueueFull

T = TypeVar("T")

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


@dataclass(frozen=True)
class ResultStore:
    """The folder of results. A name has 128 random bits, so it can neither collide nor be guessed.

    Only files that carry such a name are ever served or removed: an operator's own files in the folder are left alone.
    """

    folder: Path
    retention_seconds: float
    max_bytes: int

    def save(self, data: bytes, extension: str) -> Path:
        """Write a result whole or not at all, and return its absolute path.

        Raises:
            OSError: the disk is full, the folder cannot be written, …; nothing is left behind.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder.resolve() / f"{secrets.token_hex(16)}.{extension}"
        unfinished = path.with_suffix(".part")
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return path

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
        """Remove results older than the retention, then the oldest beyond the size limit; `now` is in epoch seconds.

        Returns:
            How many were removed. What a process that was killed left half-written goes with them after an hour.
        """
        removed, total_bytes = 0, 0
        for path, status in sorted(self._files(), key=lambda entry: entry[1].st_mtime, reverse=True):
            is_partial = path.suffix == ".part"
            total_bytes += 0 if is_partial else status.st_size
            limit = _PARTIAL_SECONDS if is_partial else self.retention_seconds
            if now - status.st_mtime > limit or (total_bytes > self.max_bytes and not is_partial):
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*") if self.folder.exists() else ():
            if _OWN_NAME.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process may sweep the same folder
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        yield path, status


_RESULT_NAME = re.compile(r"[0-9a-f]{32}\.(?:jpg|png|webp)", re.ASCII)
_OWN_NAME = re.compile(r"[0-9a-f]{32}\.(?:jpg|png|webp|part)", re.ASCII)
_PARTIAL_SECONDS = 60 * 60


class Job:
    """One request's work on the device: its progress and its cancellation in one object, which any thread may call."""

    def __init__(self, work: float) -> None:
        """`work` is in the unit that `advance` counts, FLOPs here."""
        self.work = work
        self.done = 0.0
        self.started = False
        self.seconds = 0.0  # on the device
        self.future: Future[Any] | None = None
        self.cancelled = False

    def advance(self, work: float) -> None:
        """Note that `work` has been done. The pipeline calls it between any two steps.

        Raises:
            JobCancelled: nobody waits for the result any more.
        """
        self.done += work
        if self.cancelled:
            raise JobCancelled("The job was cancelled.")

    def cancel(self) -> None:
        """Let the job end at its next step, or never start."""
        self.cancelled = True
        if self.future is not None:
            self.future.cancel()


class DeviceQueue:
    """Admission, and the one thread that alone touches the device.

    A place is taken before an image is decoded and given back when its result is encoded, so that at most `limit + 1` images
    are in memory: one that runs, `limit` that wait. All methods are called on the event loop.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.limit = limit
        self._clock = clock  # in seconds
        self._flops_per_second = 0.0  # 0: not measured yet
        self._jobs: list[Job] = []
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")

    @property
    def running(self) -> int:
        """Requests on the device, or past it and being encoded."""
        return sum(job.started for job in self._jobs)

    @property
    def waiting(self) -> int:
        """Requests that have a place and whose turn has not come."""
        return len(self._jobs) - self.running

    @contextlib.contextmanager
    def place(self, job: Job) -> Iterator[None]:
        """Hold a place for `job`. An exception from within, a cancellation too, cancels the job.

        On the way out the place is free again: at once, or when the device has reached the job's next step.

        Raises:
            QueueFull: `limit` requests wait already.
        """
        if len(self._jobs) > self.limit:
            raise QueueFull(
                f"The queue is full: {self.limit} requests are waiting already. Try again later.",
                retry_after_seconds=self.retry_after_seconds(),
            )
        self._jobs.append(job)
        try:
            yield
        except BaseException:
            job.cancel()
            raise
        finally:
            if job.future is None or job.future.done():
                self._jobs.remove(job)
            else:  # the coroutine has gone, the thread has not
                loop = asyncio.get_running_loop()
                job.future.add_done_callback(partial(self._remove_later, loop, job))

    def _remove_later(self, loop: asyncio.AbstractEventLoop, job: Job, _: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and nobody counts places any more
            loop.call_soon_threadsafe(self._jobs.remove, job)

    async def run(self, job: Job, function: Callable[[], T]) -> T:
        """Run `function` on the device's thread, when the jobs before it are done; it reports to `job.advance`.

        Raises:
            JobCancelled: somebody else than the caller's own cancellation ended the job.
        """
        try:
            return await asyncio.wrap_future(self.submit(job, function))
        except asyncio.CancelledError as exc:
            if job.cancelled:  # while it waited; our own cancellation has not reached the job yet
                raise JobCancelled("The job was cancelled.") from exc
            raise

    def submit(self, job: Job, function: Callable[[], T]) -> Future[T]:
        """Like `run`, for a caller that does not wait."""
        job.future = self._executor.submit(self._work, job, function)
        return job.future

    def _work(self, job: Job, function: Callable[[], T]) -> T:
        job.started = True
        job.advance(0.0)
        start = self._clock()
        result = function()
        job.seconds = self._clock() - start
        if job.done:
            self._measured(job.done / job.seconds)
        return result

    def _measured(self, rate: float) -> None:
        known = self._flops_per_second
        self._flops_per_second = 0.7 * known + 0.3 * rate if known else rate

    def retry_after_seconds(self) -> int:
        """When the next place is likely to be free: what is left of the oldest job at the rate measured so far, or 1."""
        if not self._jobs or not self._flops_per_second:
            return 1
        oldest = self._jobs[0]
        return max(1, math.ceil((oldest.work - oldest.done) / self._flops_per_second))

    def cancel_all(self) -> None:
        """End every job at its next step."""
        for job in self._jobs:
            job.cancel()

    def close(self) -> None:
        """Let the device's thread go, once it has finished what it is doing."""
        self._executor.shutdown(wait=False, cancel_futures=True)
