"""Decoding: which pictures are decoded now, which wait, and how much memory all pictures may take until they are upscaled.

Large pictures have lanes of their own, so that small ones never wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from core.budget import MemoryBudget, Room
from core.config import GIB, OutputFormat
from core.errors import QueueFull
from imaging.decode import decode_image, decoding_bytes
from imaging.encode import encode_preview
from imaging.formats import OpenedImage
from imaging.picture import Picture
from utility import IO_THREADS, IOExecutor

LARGE_PIXELS = 8_000_000  # of a picture that takes more than about a quarter of a second
LANES: Mapping[bool, int] = {True: 2, False: IO_THREADS - 1}  # large or not: decoded at once; one thread is left for all else
MAX_WAITING: Mapping[bool, int] = {True: 8, False: 32}  # pictures
MAX_BYTES = 2 * GIB  # of all pictures in memory: files that wait, what decoding takes, pixels that wait for the device
RETRY_SECONDS = 5

T = TypeVar("T")

Decoded = tuple[Picture, list[str]]


def is_large(image: OpenedImage) -> bool:
    """Whether decoding it takes long."""
    return image.width * image.height > LARGE_PIXELS


class Decoder:
    """Decodes within bounds; its methods are called on the event loop."""

    def __init__(self, io: IOExecutor) -> None:
        self.budget = MemoryBudget(MAX_BYTES)
        self._io = io
        self._threads = asyncio.Semaphore(LANES[False])
        self._large = asyncio.Semaphore(LANES[True])
        self._waiting = {True: 0, False: 0}

    @property
    def waiting(self) -> int:
        """Pictures that wait to be decoded."""
        return sum(self._waiting.values())

    async def decode(self, image: OpenedImage) -> Decoded:
        """The picture and its warnings, as `decode_image` has them. Its memory counts until the picture is dropped.

        Raises:
            BadRequest: the image cannot be decoded.
            QueueFull: too many wait already, or their pictures take too much memory.
        """
        return await self._in_lane(image, self._decode)

    async def preview(self, image: OpenedImage, max_px: int) -> tuple[bytes, OutputFormat, list[str]]:
        """A copy of at most that long side, as a file that browsers show, its format, and the warnings of the decoding.

        Raises:
            BadRequest, QueueFull: as `decode`.
        """
        return await self._in_lane(image, partial(self._preview, max_px=max_px))

    async def _in_lane(self, image: OpenedImage, work: Callable[[OpenedImage, Room], Coroutine[Any, Any, T]]) -> T:
        """What becomes of the image, in the lane of its size and with room for decoding it, which `work` gives back."""
        large, room = is_large(image), Room(self.budget)
        try:
            if self._waiting[large] >= MAX_WAITING[large] or not room.grow(len(image.file.data)):
                raise _full()
            async with contextlib.AsyncExitStack() as lanes:
                await self._enter(lanes, large)
                if not room.resize(decoding_bytes(image)):
                    raise _full()
                working = asyncio.create_task(_then_leave(lanes.pop_all(), work(image, room)))
        except BaseException:
            room.release()
            raise
        working.add_done_callback(_note_end)
        return await asyncio.shield(working)  # a thread cannot be stopped: what it holds is held until it ends

    async def _enter(self, lanes: contextlib.AsyncExitStack, large: bool) -> None:
        self._waiting[large] += 1
        try:
            if large:
                await lanes.enter_async_context(self._large)
            await lanes.enter_async_context(self._threads)
        finally:
            self._waiting[large] -= 1

    async def _decode(self, image: OpenedImage, room: Room) -> Decoded:
        try:
            picture, warnings = await self._io.run(decode_image, image)
        except BaseException:
            room.release()
            raise
        room.resize(picture.size_bytes)
        room.hold_for(picture)
        return picture, warnings

    async def _preview(self, image: OpenedImage, room: Room, max_px: int) -> tuple[bytes, OutputFormat, list[str]]:
        try:
            return await self._io.run(_small_copy, image, max_px)
        finally:
            room.release()


def _small_copy(image: OpenedImage, max_px: int) -> tuple[bytes, OutputFormat, list[str]]:
    picture, warnings = decode_image(image)
    return *encode_preview(picture, max_px), warnings


async def _then_leave(lanes: contextlib.AsyncExitStack, work: Coroutine[Any, Any, T]) -> T:
    async with lanes:
        return await work


def _note_end(working: asyncio.Task[Any]) -> None:
    """Of one for which nobody waits any more, too: an error that nobody asks for would be logged."""
    if not working.cancelled():
        working.exception()


def _full() -> QueueFull:
    return QueueFull("Too many pictures are being decoded just now. Try again soon.", retry_after_seconds=RETRY_SECONDS)
