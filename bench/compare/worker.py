"""An engine in a process of its own: built, warmed up, then run and timed on request."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bench.compare.baselines import Engine
from bench.images.photographs import Image

END_SECONDS = 5.0
WARM_UP_ROWS = 32  # of the picture, for engines that take any shape: at 512² a whole pass takes a minute


class EngineError(RuntimeError):
    """The engine's process failed; the message has its traceback."""


@dataclass
class Worker:
    """An engine that is ready; `picture` is what it made of the image when it ran first, None for the yardstick."""

    engine: Engine
    connection: Connection
    picture: Image | None = None

    def seconds(self) -> float:
        """Run on the whole image, and return how long it took."""
        self.connection.send(None)
        seconds: float
        seconds, picture = self.receive()
        if picture is not None:
            self.picture = picture
        return seconds

    def receive(self) -> Any:
        """The next reply.

        Raises:
            EngineError: the process failed, or ended without a reply.
        """
        try:
            reply, failure = self.connection.recv()
        except EOFError:
            raise EngineError(f"{self.engine.name}: the process ended; did it run out of memory?") from None
        if failure:
            raise EngineError(f"{self.engine.name}:\n{failure}")
        return reply


@contextmanager
def workers(tasks: Sequence[tuple[Engine, Image]]) -> Iterator[dict[str, Worker]]:
    """Start each engine for its image, all at once, and wait until they are ready; they end with the context."""
    with contextlib.ExitStack() as stack:
        started = {engine.name: stack.enter_context(_worker(engine, image)) for engine, image in tasks}
        for worker in started.values():
            worker.receive()
        yield started


@contextmanager
def _worker(engine: Engine, image: Image) -> Iterator[Worker]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, engine, image), name=engine.name)
    process.start()
    theirs.close()  # so that its end shows as the end of the pipe
    try:
        yield Worker(engine, ours)
    finally:
        ours.close()  # it then ends by itself, unless it is at work
        process.join(END_SECONDS)
        process.kill()
        process.join()


def _work(connection: Connection, engine: Engine, image: Image) -> None:
    """The engine's process. Some engines write to stdout with every tile, which is no part of what is measured."""
    warnings.simplefilter("ignore")  # how long an engine will still work with this torch is not measured either
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            upscale = engine.build(image.shape[:2])
            upscale(image[:WARM_UP_ROWS] if engine.any_shape else image)
            connection.send((None, ""))
            is_first = True
            while True:
                connection.recv()
                start = time.perf_counter()
                picture = upscale(image)
                seconds = time.perf_counter() - start
                connection.send(((seconds, picture if is_first else None), ""))
                is_first = False
        except (EOFError, ConnectionError):  # the other side has gone
            return
        except Exception:
            connection.send((None, traceback.format_exc()))
