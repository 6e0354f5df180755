"""A peer in a process of its own: built, warmed up once, then run and timed whenever it is told to."""

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

from bench.compare.baselines import Peer
from bench.images.photographs import Image

END_SECONDS = 5.0


class PeerError(RuntimeError):
    """The peer's process could not do what it was asked; the message has its traceback."""


@dataclass
class Worker:
    """A peer that is ready; `picture` is what it made of the image, None for the yardstick."""

    peer: Peer
    connection: Connection
    picture: Image | None = None

    def seconds(self) -> float:
        """Run once more, and return how long it took."""
        self.connection.send(None)
        seconds: float = self.receive()
        return seconds

    def receive(self) -> Any:
        """The next answer.

        Raises:
            PeerError: the process failed, or ended without an answer.
        """
        try:
            answer, failure = self.connection.recv()
        except EOFError:
            raise PeerError(f"{self.peer.name}: the process ended; did it run out of memory?") from None
        if failure:
            raise PeerError(f"{self.peer.name}:\n{failure}")
        return answer


@contextmanager
def workers(tasks: Sequence[tuple[Peer, Image]]) -> Iterator[dict[str, Worker]]:
    """Start each peer for its image, one after the other; all are ended with the context."""
    with contextlib.ExitStack() as stack:
        yield {peer.name: stack.enter_context(_worker(peer, image)) for peer, image in tasks}


@contextmanager
def _worker(peer: Peer, image: Image) -> Iterator[Worker]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, peer, image), name=peer.name)
    process.start()
    theirs.close()  # so that its end shows as the end of the pipe
    try:
        worker = Worker(peer, ours)
        worker.picture = worker.receive()
        yield worker
    finally:
        ours.close()  # it then ends by itself, unless it is at work
        process.join(END_SECONDS)
        process.kill()
        process.join()


def _work(connection: Connection, peer: Peer, image: Image) -> None:
    """The peer's process. Some of them write to stdout with every tile, which is no part of their figures."""
    warnings.simplefilter("ignore")  # how long a peer will still work with this torch is no figure either
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            upscale = peer.build(image.shape[0])
            connection.send((upscale(image), ""))
            while True:
                connection.recv()
                start = time.perf_counter()
                upscale(image)
                connection.send((time.perf_counter() - start, ""))
        except EOFError:  # the other side has gone
            return
        except Exception:
            connection.send((None, traceback.format_exc()))
