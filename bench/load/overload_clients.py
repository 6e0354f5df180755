"""The clients of the overload test: at capacity, or at a fixed rate whatever becomes of their requests."""

from __future__ import annotations

import base64
import itertools
import json
import multiprocessing
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

from bench.load.command import HANG_SECONDS, QUEUE_LIMIT
from bench.load.goldens import GoldenPicture
from bench.server import Server
from core.config import MIB, OutputFormat

SENDERS = 64  # requests under way at once, at most
FILE_BYTES = 9 * MIB // 4  # so that a body has 3 MiB
HEALTH_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, eq=False)
class Request:
    """A body that was never sent before, and the file that it must give."""

    body: tuple[bytes, ...]  # its pieces, the largest of which many requests share
    golden: Callable[[], bytes]


def make_requests(pictures: list[GoldenPicture]) -> Iterator[Request]:
    """Each picture in each quality, each time with another strength of faces that it has not: a run of its own.

    They are PNG files with much beside the pixels, since large pictures would take minutes.
    """
    images = [base64.b64encode(_pad(picture.file)) for picture in pictures]
    formats: tuple[OutputFormat, ...] = ("jpeg", "webp")
    for number, (_, quality, output_format) in enumerate(itertools.product(range(10), range(1, 101), formats), 1):
        for picture, image in zip(pictures, images, strict=True):
            options = f'"target_resolution":"2k","quality":{quality},"output_format":"{output_format}"'
            head = f'{{{options},"face_strength":{number / 2000},"image_b64":"'
            yield Request((head.encode(), image, b'"}'), partial(picture.result, output_format, quality))


def _pad(png: bytes) -> bytes:
    """The same picture with a private chunk after its header, of bytes that nobody can compress."""
    header_end = 8 + 12 + 13
    data = os.urandom(FILE_BYTES - len(png))
    chunk = struct.pack(">I", len(data)) + b"prVt" + data + struct.pack(">I", zlib.crc32(b"prVt" + data))
    return png[:header_end] + chunk + png[header_end:]


@dataclass
class Phase:
    """What became of the requests of some seconds."""

    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    response_seconds: list[float] = field(default_factory=list)
    results: list[tuple[Request, bytes]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Compare every result with its golden bytes; only after the phase, since it would slow the server down."""
        self.faults += ["wrong bytes" for request, data in self.results if data != request.golden()]

    @property
    def throughput(self) -> float:
        """Results a second."""
        return self.statuses["200"] / self.seconds


class OverloadClients:
    """Sends requests to one server."""

    def __init__(self, server: Server, requests: Iterator[Request]) -> None:
        self._port = int(server.url.rpartition(":")[2])
        self._requests = requests

    def at_capacity(self, seconds: float) -> Phase:
        """As many at once as the server admits, each followed by the next."""
        phase = Phase()
        end = time.monotonic() + seconds
        with _senders(phase) as senders:
            for _ in range(QUEUE_LIMIT + 1):
                senders.submit(self._keep_sending, phase, end)
        return phase

    def at_rate(self, rate: float, seconds: float) -> Phase:
        """So many a second, whatever becomes of them."""
        phase = Phase()
        start = time.monotonic()
        with _senders(phase) as senders:
            for number in range(int(rate * seconds)):
                time.sleep(max(start + number / rate - time.monotonic(), 0))
                senders.submit(self._send, phase, next(self._requests))
        return phase

    def _keep_sending(self, phase: Phase, end: float) -> None:
        while time.monotonic() < end:
            self._send(phase, next(self._requests))

    def _send(self, phase: Phase, request: Request) -> None:
        start = time.monotonic()
        try:
            with closing(HTTPConnection("127.0.0.1", self._port, timeout=HANG_SECONDS)) as connection:
                length = str(sum(map(len, request.body)))
                headers = {"Content-Type": "application/json", "Content-Length": length}
                connection.request("POST", "/upscale", request.body, headers)
                response = connection.getresponse()
                parsed = json.loads(response.read())
        except OSError as exc:
            phase.faults.append(f"no response after {time.monotonic() - start:.1f} s: {exc!r}")
            return
        phase.statuses[str(response.status)] += 1
        if response.status == 200:
            phase.response_seconds.append(time.monotonic() - start)
            phase.results.append((request, base64.b64decode(parsed["base64"])))
        elif response.status != 503 or "Retry-After" not in response.headers:
            phase.faults.append(f"{response.status} {parsed}")


@contextmanager
def _senders(phase: Phase) -> Iterator[ThreadPoolExecutor]:
    """Threads that send; at the end, every response has come, and the phase knows how long all took."""
    start = time.monotonic()
    with ThreadPoolExecutor(SENDERS) as senders:
        yield senders
    phase.seconds = time.monotonic() - start


@contextmanager
def watched_health(url: str) -> Iterator[tuple[Event, list[float]]]:
    """Another process asks for /health: the seconds of each response since the event is set, sorted, at the end."""
    processes = multiprocessing.get_context("spawn")
    stop, begin, (received, sent) = processes.Event(), processes.Event(), processes.Pipe(duplex=False)
    watcher = processes.Process(target=_watch_health, args=(url, begin, stop, sent))
    watcher.start()
    seconds: list[float] = []
    yield begin, seconds
    stop.set()
    seconds += received.recv()
    watcher.join()


def p99(ordered: list[float]) -> float:
    """What 99 of 100 stay within."""
    return ordered[len(ordered) * 99 // 100]


def _watch_health(url: str, begin: Event, stop: Event, result: Connection) -> None:
    """In a process of its own: GET /health until told to stop, then send the seconds of each response since told to begin."""
    seconds = []
    with closing(HTTPConnection(url.removeprefix("http://"), timeout=HANG_SECONDS)) as connection:
        while not stop.wait(HEALTH_PAUSE_SECONDS):
            start = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            if begin.is_set():
                seconds.append(time.perf_counter() - start)
    result.send(sorted(seconds))
