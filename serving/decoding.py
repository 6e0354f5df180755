"""Decoding: which pictures are decoded now, which wait, and how much memory all pictures may take until they are upscaled.

Large pictures have lanes of their own, so that small ones never wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from core.budget import MemoryBudget, Room
from core.config import GIB
from core.errors import QueueFull
from imaging.decode import decode_image, decoding_bytes
from imaging.formats import OpenedImage
from imaging.picture import Picture
from utility import IO_THREADS, IOExecutor

LARGE_PIXELS = 8_000_000  # of a picture that takes more than about a quarter of a second
LANES: Mapping[bool, int] = {True: 2, False: IO_THREADS - 1}  # large or not: decoded at once; one thread is left for all else
MAX_WAITING: Mapping[bool, int] = {True: 8, False: 32}  # pictures
MAX_BYTES = 2 * GIB  # of all pictures in memory: files that wait, what decoding takes, pixels that wait for the device
RETRY_SECONDS = 5

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
        large, room = is_large(image), Room(self.budget)
        try:
            if self._waiting[large] >= MAX_WAITING[large] or not room.grow(len(image.file.data)):
                raise _full()
            async with contextlib.AsyncExitStack() as lanes:
                await self._enter(lanes, large)
                if not room.resize(decoding_bytes(image)):
                    raise _full()
                decoding = asyncio.create_task(self._decode(image, room, lanes.pop_all()))
        except BaseException:
            room.release()
            raise
        decoding.add_done_callback(_note_end)
        return await asyncio.shield(decoding)  # a thread cannot be stopped: what it holds is held until it ends

    async def _enter(self, lanes: contextlib.AsyncExitStack, large: bool) -> None:
        self._waiting[large] += 1
        try:
            if large:
                await lanes.enter_async_context(self._large)
            await lanes.enter_async_context(self._threads)
        finally:
            self._waiting[large] -= 1

    async def _decode(self, image: OpenedImage, room: Room, lanes: contextlib.AsyncExitStack) -> Decoded:
        async with lanes:
            try:
                picture, warnings = await self._io.run(decode_image, image)
            except BaseException:
                room.release()
                raise
        room.resize(picture.size_bytes)
        room.hold_for(picture)
        return picture, warnings


def _note_end(decoding: asyncio.Task[Decoded]) -> None:
    """Of one for which nobody waits any more, too: an error that nobody asks for would be logged."""
    if not decoding.cancelled():
        decoding.exception()


def _full() -> QueueFull:
    return QueueFull("Too many pictures are being decoded just now. Try again soon.", retry_after_seconds=RETRY_SECONDS)
