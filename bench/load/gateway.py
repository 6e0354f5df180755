"""What a picture costs the service beside its network: `python -m bench.load.gateway [PICTURES]`.

Photographs of 960×540 become 3840×2160, on a network that only repeats pixels, so all CPU time is for HTTP, decoding,
hashing, encoding and files.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from bench.server import SAMPLE, Server, running_server

CLIENTS = 6
SIZE = (960, 540)
RAW = {"Content-Type": "image/jpeg", "Accept": "image/*"}


def main(count: int) -> None:
    """Print a line for raw files and one for JSON."""
    seed = time.time_ns()
    pictures = [photograph(seed + number) for number in range(count)]
    print(f"in: {sum(map(len, pictures)) / count / 1e6:.2f} MB a picture")  # noqa: T201
    for kind in ("raw", "json"):
        settings = {"DEVICE": "cpu,cpu", "SLEEP_SECONDS": "0", "QUEUE_LIMIT": "50"}
        program = ("-m", "tests.scale.sleeping_server")
        with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs), program=program, **settings) as server:
            before, start = cpu_seconds(server), time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as clients:
                sizes = list(clients.map(lambda picture, kind=kind, server=server: ask(server, picture, kind), pictures))
            rate, spent = count / (time.perf_counter() - start), (cpu_seconds(server) - before) / count
        print(f"{kind}: out {sum(sizes) / count / 1e6:.2f} MB, {spent:.3f} s of CPU a picture, {rate:.1f} a second")  # noqa: T201


def photograph(seed: int) -> bytes:
    """The sample with some noise of its own, so that none is cached."""
    with Image.open(SAMPLE) as sample:
        width, height = SIZE
        pixels = np.asarray(sample.convert("RGB").resize((width, width * sample.height // sample.width)))[:height]
    noise = np.random.default_rng(seed).integers(-1, 2, pixels.shape)
    file = io.BytesIO()
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def ask(server: Server, picture: bytes, kind: str) -> int:
    """The bytes of the response."""
    if kind == "json":
        response = server.post(picture, target_resolution="4k")
    else:
        response = httpx.post(f"{server.url}/upscale?target_resolution=4k", content=picture, headers=RAW, timeout=600)
    response.raise_for_status()
    return len(response.content)


def cpu_seconds(server: Server) -> float:
    """Of the server's process, so far."""
    found = re.search(r"^process_cpu_seconds_total (.*)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
    if found is None:
        raise RuntimeError("the server does not tell its CPU time")
    return float(found[1])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
