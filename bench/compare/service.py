"""The whole service: a real process, measured over a real socket."""

from __future__ import annotations

import base64
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.compare.baselines import REALESRGANER, Engine
from bench.compare.worker import workers
from bench.images.photographs import Image, jpeg
from bench.results import Sample
from bench.server import Server, running_server

FIELDS = {"target_resolution": "2k", "enhance_faces": False}
QUERY = "/upscale?target_resolution=2k&enhance_faces=false"
WARM_UP_ROWS = 8
LOG_SECONDS = 5.0  # in which a request's line must be in the log after its response has come


@contextmanager
def _server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs)) as server:
        yield server


def measure_http(rounds: int, image: Image, shipped: Engine = REALESRGANER) -> Iterator[Sample]:
    """Requests end to end, from the first byte sent to the last received, beside the shipped engine alone on the same picture.

    "base64, s" and "raw, s" are without the seconds on the device: what everything around the models takes.
    """
    files = _unseen_files(image)
    with workers([(shipped, image)]) as ready, _server() as server:

        def send(path: str, body: bytes, **headers: str) -> tuple[float, float]:
            return _request_seconds(server, path, body, **headers)

        def send_both(of_base64: bytes, of_raw: bytes) -> Sample:
            _, around = send("/upscale", _json(of_base64), content_type="application/json")
            end_to_end, around_raw = send(QUERY, of_raw, content_type="image/jpeg", accept="image/jpeg")
            return {"base64, s": around, "raw, s": around_raw, "end to end, s": end_to_end}

        send_both(jpeg(image[:WARM_UP_ROWS]), jpeg(image[: 2 * WARM_UP_ROWS]))
        for _ in range(rounds):
            yield {**send_both(next(files), next(files)), f"{shipped.name}, s": ready[shipped.name].seconds()}


def _unseen_files(image: Image) -> Iterator[bytes]:
    """The picture as JPEG, each time with another block of pixels, so that no request is a cache hit."""
    for shade in range(0, 256, 8):
        changed = image.copy()
        changed[:8, :8] = shade
        yield jpeg(changed)


def _json(file: bytes) -> bytes:
    return json.dumps({"image_b64": base64.b64encode(file).decode(), **FIELDS}).encode()


def _request_seconds(server: Server, path: str, body: bytes, **headers: str) -> tuple[float, float]:
    """Seconds of a request, and the same without those on the device."""
    start = time.perf_counter()
    response, received = server.exchange(path, body, **headers)
    seconds = time.perf_counter() - start
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {received[:500].decode(errors='replace')}")
    return seconds, seconds - _device_seconds(server, response.headers["X-Request-ID"])


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
        for model in ("photo", "anime"):  # warm-up: what is loaded on first use is there now
            server.upscale(jpeg(image[:WARM_UP_ROWS]), target_resolution=target, model=model)
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
