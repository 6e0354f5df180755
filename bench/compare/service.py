"""The whole service: a real process, measured over a real socket."""

from __future__ import annotations

import base64
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.compare.runner import in_turns
from bench.images.photographs import Image, jpeg
from bench.results import Sample
from bench.server import Server, running_server

FIELDS = {"target_resolution": "2k", "enhance_faces": False}
QUERY = "/upscale?target_resolution=2k&enhance_faces=false"
LOG_SECONDS = 5.0  # in which a request's line must be in the log after its response has come


@contextmanager
def _server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs)) as server:
        yield server


def measure_overhead(rounds: int, image: Image) -> Iterator[Sample]:
    """End to end minus the models: seconds from the first byte sent to the last received, without those on the device."""
    files = _unseen_files(image)
    with _server() as server:
        ways: dict[str, Callable[[], float]] = {
            "base64, s": lambda: _overhead_seconds(server, "/upscale", _json(next(files)), content_type="application/json"),
            "raw, s": lambda: _overhead_seconds(server, QUERY, next(files), content_type="image/jpeg", accept="image/jpeg"),
        }
        next(in_turns(ways, 1))  # warm-up
        yield from in_turns(ways, rounds)


def _unseen_files(image: Image) -> Iterator[bytes]:
    """The picture as JPEG, each time with another block of pixels, so that no request is a cache hit."""
    for shade in range(0, 256, 8):
        changed = image.copy()
        changed[:8, :8] = shade
        yield jpeg(changed)


def _json(file: bytes) -> bytes:
    return json.dumps({"image_b64": base64.b64encode(file).decode(), **FIELDS}).encode()


def _overhead_seconds(server: Server, path: str, body: bytes, **headers: str) -> float:
    start = time.perf_counter()
    response, received = server.exchange(path, body, **headers)
    seconds = time.perf_counter() - start
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {received[:500].decode(errors='replace')}")
    return seconds - _device_seconds(server, response.headers["X-Request-ID"])


def _device_seconds(server: Server, request_id: str) -> float:
    """How long a request was on the device, as the server's log says."""
    start = time.monotonic()
    while time.monotonic() - start < LOG_SECONDS:
        for line in list(server.log):
            if request_id in line and (found := re.search(r"device_seconds=([\d.]+)", line)):
                return float(found[1])
        time.sleep(0.01)
    raise RuntimeError(f"the log does not say how long {request_id} was on the device:\n{''.join(server.log[-5:])}")


def measure_memory(rounds: int, image: Image, target: str) -> Iterator[Sample]:
    """The server's peak of memory during one request, above what it has when it is idle, in bytes."""
    files = _unseen_files(image)
    with _server() as server:
        server.upscale(jpeg(image[:16]), target_resolution=target)  # warm-up: what is loaded on first use is there now
        for _ in range(rounds):
            idle_bytes = server.memory_bytes("VmRSS")
            server.forget_peak_memory()
            server.upscale(next(files), target_resolution=target)
            yield {"idle, B": idle_bytes, "peak above idle, B": server.memory_bytes("VmHWM") - idle_bytes}


def measure_starts(rounds: int) -> Iterator[Sample]:
    """How long a start takes, and how long /health takes meanwhile."""
    for _ in range(rounds):
        with _server() as server:
            seconds = sorted(server.seconds_of_health)
            yield {
                "first /health, s": server.seconds_to_health,
                "ready, s": server.seconds_to_ready,
                "/health median, s": statistics.median(seconds),
                "/health p99, s": seconds[len(seconds) * 99 // 100],
                "/health slowest, s": seconds[-1],
            }
