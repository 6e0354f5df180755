"""`python -m bench.load.overload [SECONDS]`: four times what the server can do; what becomes of each request, and of /health.

Requests come at a fixed rate, whether those before them are answered or not, as from the clients of an open network, and each
asks for something that was never made. First at capacity, for the rate that the server can do; then at four times that rate.
Every 200 is compared with its golden bytes. /health is asked from another process. Exit status 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import multiprocessing
import os
import statistics
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TextIO

from bench.load.soak import Question, make_questions
from bench.results import describe_context
from bench.server import ROOT, Server, running_server
from config import MIB

QUEUE_LIMIT = 3
TIMES = 4  # the capacity
SENDERS = 64  # requests under way at once, at most
ENLARGED_PX = 4  # the height of all results: of equal work, or their number a second would tell nothing
FILE_BYTES = 9 * MIB // 4  # so that a body has 3 MiB
HANG_SECONDS = 60.0
HEALTH_PAUSE_SECONDS = 0.05
MAX_HEALTH_P99_SECONDS = 0.05
LEAST_THROUGHPUT = 0.9  # of that at capacity
REPORT = ROOT / "docs" / "overload.md"


@dataclass(frozen=True, eq=False)
class Request:
    """A body that was never sent before, and the file that it must give."""

    body: tuple[bytes, ...]  # its pieces, the largest of which many requests share
    golden: Callable[[], bytes]


def make_requests(questions: list[Question]) -> Iterator[Request]:
    """Each picture in each quality; as PNG files with much beside the pixels, since large pictures would take minutes."""
    images = [base64.b64encode(_pad(question.image)) for question in questions]
    for quality, output_format, faces in itertools.product(range(1, 101), ("jpeg", "webp"), ("true", "false")):
        for question, image in zip(questions, images, strict=True):
            options = f'"target_resolution":"2k","quality":{quality},"output_format":"{output_format}","enhance_faces":{faces}'
            head = f'{{{options},"image_b64":"'
            yield Request((head.encode(), image, b'"}'), partial(question.golden, output_format, quality))


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
    answered_seconds: list[float] = field(default_factory=list)
    answers: list[tuple[Request, bytes]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Compare every answer with its golden bytes; not meanwhile, which would slow the server."""
        self.faults += ["wrong bytes" for request, data in self.answers if data != request.golden()]

    @property
    def throughput(self) -> float:
        """Right answers a second."""
        return self.statuses["200"] / self.seconds


class Load:
    """Sends requests to one server."""

    def __init__(self, server: Server, requests: Iterator[Request]) -> None:
        self._port = int(server.url.rpartition(":")[2])
        self._requests = requests

    def at_capacity(self, seconds: float) -> Phase:
        """As many at once as the server takes in, each followed by the next."""
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
                answer = connection.getresponse()
                parsed = json.loads(answer.read())
        except OSError as exc:
            phase.faults.append(f"no answer after {time.monotonic() - start:.1f} s: {exc!r}")
            return
        phase.statuses[str(answer.status)] += 1
        if answer.status == 200:
            phase.answered_seconds.append(time.monotonic() - start)
            phase.answers.append((request, base64.b64decode(parsed["base64"])))
        elif answer.status != 503 or "Retry-After" not in answer.headers:
            phase.faults.append(f"{answer.status} {parsed}")


@contextmanager
def _senders(phase: Phase) -> Iterator[ThreadPoolExecutor]:
    """Threads that send; at the end, every answer has come, and the phase knows how long all took."""
    start = time.monotonic()
    with ThreadPoolExecutor(SENDERS) as senders:
        yield senders
    phase.seconds = time.monotonic() - start


def watch_health(url: str, begin: Event, stop: Event, result: Connection) -> None:
    """In a process of its own: ask until told to stop, then send how long each answer took since told to begin."""
    seconds = []
    with closing(HTTPConnection(url.removeprefix("http://"), timeout=HANG_SECONDS)) as connection:
        while not stop.wait(HEALTH_PAUSE_SECONDS):
            start = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            if begin.is_set():
                seconds.append(time.perf_counter() - start)
    result.send(sorted(seconds))


def overload(seconds: float, out: TextIO) -> bool:
    """Run it, write the report, and say whether all promises were kept."""
    equal = [question for question in make_questions() if question.enlarged.height == ENLARGED_PX]
    questions = [question for question in equal if question.image.startswith(b"\x89PNG")]
    processes = multiprocessing.get_context("spawn")
    stop, begin, (received, sent) = processes.Event(), processes.Event(), processes.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs), QUEUE_LIMIT=str(QUEUE_LIMIT)) as server:
        watcher = processes.Process(target=watch_health, args=(server.url, begin, stop, sent))
        watcher.start()
        os.nice(19)  # clients are other machines; only here they want the same cores as the server
        load = Load(server, make_requests(questions))
        load.at_capacity(min(seconds / 6, 5))  # warm-up
        capacity = load.at_capacity(seconds / 3)
        begin.set()
        over = load.at_rate(TIMES * capacity.throughput, seconds)
        stop.set()
        health = received.recv()
        watcher.join()
        for phase in (capacity, over):
            phase.check()
        faults = capacity.faults + over.faults + [line for line in server.log if "Traceback" in line]
    faults += _broken_promises(capacity, over, health)
    out.write(_report(seconds, capacity, over, health, faults))
    sys.stderr.write("".join(f"{fault}\n" for fault in faults[:50]))
    return not faults


def _p99(ordered: list[float]) -> float:
    return ordered[len(ordered) * 99 // 100]


def _broken_promises(capacity: Phase, over: Phase, health: list[float]) -> list[str]:
    broken = []
    if _p99(health) > MAX_HEALTH_P99_SECONDS:
        broken.append(f"/health took {1000 * _p99(health):.0f} ms at p99")
    if over.throughput < LEAST_THROUGHPUT * capacity.throughput:
        broken.append(f"throughput fell from {capacity.throughput:.2f} to {over.throughput:.2f} a second")
    return broken


def _report(seconds: float, capacity: Phase, over: Phase, health: list[float], faults: list[str]) -> str:
    context = describe_context({})
    where = f"{datetime.now(UTC):%Y-%m-%d}, commit {context['commit']}, {os.cpu_count()} cores of {context['cpu']}"
    milliseconds = [1000 * each for each in (statistics.median(health), _p99(health), health[-1])]
    waits = (statistics.median(over.answered_seconds), max(over.answered_seconds))
    rows = [
        ("figure", "goal", "measured"),
        ("---", "---", "---"),
        ("at capacity, right answers a second", "", f"{capacity.throughput:.2f}"),
        (
            f"the same at {TIMES} times as many requests",
            f"≥ {LEAST_THROUGHPUT:.0%} of that",
            f"{over.throughput:.2f} ({over.throughput / capacity.throughput:.0%})",
        ),
        ("answered 200, each with its golden bytes", "all", f"{over.statuses['200']}"),
        ("answered 503 with `Retry-After`", "the rest", f"{over.statuses['503']}"),
        ("seconds to a 200, median / longest", "", "{:.1f} / {:.1f}".format(*waits)),
        (
            "`/health` from another process, ms, median / p99 / longest",
            "p99 ≤ 50",
            "{:.1f} / {:.1f} / {:.1f}".format(*milliseconds),
        ),
    ]
    return "\n".join(
        [
            "# Overload",
            "",
            f"`python -m bench.load.overload {seconds:.0f}` on {where}:",
            f"bodies of 3 MiB, {TIMES} times as many as the server can answer, a queue of {QUEUE_LIMIT}, the real weights.",
            "",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            f"**{len(faults)} promises broken.**",
            *(f"\n- {fault}" for fault in faults[:20]),
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.load.overload", description="Ask for four times what the server can do."
    )
    parser.add_argument("seconds", nargs="?", type=float, default=60.0)
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    with options.report.open("w", encoding="utf-8") as out:
        return 0 if overload(options.seconds, out) else 1


if __name__ == "__main__":
    sys.exit(main())
