"""`python -m bench.load.crowd [SECONDS]`: many of the largest pictures at once; the memory that they take, and who waits.

Each is a PNG of 7679×7679 with transparency that weighs a quarter of a megabyte. A small picture comes beside them, and
another process watches /health. Exit status 1 if a limit is broken.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
from PIL import Image

from bench.load.command import Outcome, machine, run, table, tracebacks
from bench.load.overload_clients import p99, watched_health
from bench.server import Server, running_server
from core.config import GIB, TARGET_PX
from serving.decoding import MAX_BYTES

CLIENTS = 60
MAX_SMALL_SECONDS = 8.0
SETTINGS = {"REQUEST_TIMEOUT_SECONDS": "1000000"}  # so that no picture is refused for the time that it takes
LARGE_PX = TARGET_PX["8k"] - 1
SMALL_SIZE = (512, 2)  # of one pass, that takes a tenth of a second


def crowd(seconds: float) -> Outcome:
    """Send them, and look at the server for that long."""
    pictures = [_png((LARGE_PX, LARGE_PX), number) for number in range(CLIENTS)]
    statuses: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs), **SETTINGS) as server:
        of_pass = _post(server, "plan", pictures[0], seconds).json()["memory_bytes"]
        idle = server.memory_bytes("VmRSS")
        server.forget_peak_memory()
        small: list[float] = []
        with watched_health(server.url) as (begin, health):
            begin.set()
            end = time.monotonic() + seconds
            for path in ("plan", "upscale"):
                for picture in pictures:
                    threading.Thread(target=_send, args=(server, path, picture, seconds, statuses), daemon=True).start()
            while time.monotonic() < end:
                small.append(_send(server, "upscale", _png(SMALL_SIZE, len(small) % 256), seconds, statuses, "2k"))
                time.sleep(0.2)
        peak = server.memory_bytes("VmHWM")
        faults = tracebacks(server) + [f"{count} responses {status}" for status, count in statuses.items() if "500" in status]
    if max(small) > MAX_SMALL_SECONDS:
        faults.append(f"a small picture waited for {max(small):.1f} s")
    health_ms = [1000 * each for each in (statistics.median(health), p99(health))]
    lines = [
        f"`python -m bench.load.crowd {seconds:.0f}` on {machine()}:",
        f"{CLIENTS} plans and {CLIENTS} upscales of {LARGE_PX}×{LARGE_PX} pixels with transparency. Faults: {len(faults)}.",
        "",
        *table(
            ("measurement", "measured"),
            ("memory before, at its peak, GiB", _in_gib(idle, peak)),
            ("of which the pass on the device, pictures may take, GiB", _in_gib(of_pass, MAX_BYTES)),
            ("responses, by status", ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))),
            ("a small picture, seconds to 200 or 503, median / longest", f"{statistics.median(small):.2f} / {max(small):.2f}"),
            ("`/health` from another process, ms, median / p99", "{:.1f} / {:.1f}".format(*health_ms)),
        ),
    ]
    return Outcome("\n".join(lines), faults)


def _in_gib(*sizes: int) -> str:
    return ", ".join(f"{size / GIB:.2f}" for size in sizes)


def _png(size: tuple[int, int], red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", size, (red, 0, 0, 128)).save(file, "PNG", compress_level=9)
    return file.getvalue()


def _send(server: Server, path: str, picture: bytes, seconds: float, statuses: Counter[str], target: str = "8k") -> float:
    """Seconds until the response; those without one by the end are counted too."""
    start = time.monotonic()
    try:
        statuses[f"{path} {_post(server, path, picture, seconds, target).status_code}"] += 1
    except httpx.HTTPError as exc:
        statuses[f"{path} {type(exc).__name__}"] += 1
    return time.monotonic() - start


def _post(server: Server, path: str, picture: bytes, seconds: float, target: str = "8k") -> httpx.Response:
    url = f"{server.url}/{path}?target_resolution={target}&fit=exact&output_format=png"
    return httpx.post(url, content=picture, headers={"Content-Type": "image/png"}, timeout=seconds)


if __name__ == "__main__":
    sys.exit(run("crowd", "Send many of the largest pictures at once.", 60.0, crowd))
