"""Jobs of real processes that share a folder, and whether their results are right."""

from __future__ import annotations

import io
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.server import Server, running_server
from tests.helpers import HANG_SECONDS, encode
from tests.scale.crowd import new_pixels

FRAGILE = ("-m", "tests.e2e.fragile_server")


def holding(folder: Path, files: Path, **settings: str) -> AbstractContextManager[Server]:
    """One more process with this folder of results, whose network waits while there is a file `hold` among `files`."""
    files.mkdir(exist_ok=True)
    return running_server(folder, program=FRAGILE, DEVICE_FILES=str(files), **settings)


@dataclass(frozen=True)
class Job:
    """One that was accepted, and the pixels that were sent."""

    id: str
    pixels: NDArray[np.uint8]

    def at(self, server: Server) -> dict[str, Any]:
        """The job object, as that instance shows it."""
        response = httpx.get(f"{server.url}/jobs/{self.id}", timeout=HANG_SECONDS)
        assert response.status_code == 200, response.text
        job: dict[str, Any] = response.json()
        return job

    def is_right_at(self, server: Server) -> bool:
        """Whether it has succeeded, and that instance has its result."""
        result = self.at(server)["result"]
        if result is None:
            return False
        file, right = httpx.get(f"{server.url}{result['url']}", timeout=HANG_SECONDS), self.pixels.repeat(4, 0).repeat(4, 1)
        return np.array_equal(np.asarray(Image.open(io.BytesIO(file.content))), right)


def submit(server: Server) -> Job:
    """Start a job."""
    pixels, url = new_pixels(), f"{server.url}/upscale?scale=4&output_format=png"
    headers = {"Content-Type": "image/png", "Prefer": "respond-async"}
    response = httpx.post(url, content=encode(pixels), headers=headers, timeout=HANG_SECONDS)
    assert response.status_code == 202, response.text
    return Job(response.json()["id"], pixels)


def wait_for(jobs: Iterable[Job], server: Server, is_so: Callable[[dict[str, Any]], bool]) -> None:
    """Until an instance says that of all of them."""
    end = time.monotonic() + 3 * HANG_SECONDS
    for job in jobs:
        while not is_so(shown := job.at(server)):
            assert time.monotonic() < end, shown
            time.sleep(0.05)


def ends_in(servers: Iterable[Server]) -> Counter[str]:
    """How often each request's job has ended, by the logs."""
    lines = (line for server in servers for line in server.log if " message=job status=" in line)
    return Counter(match[1] for line in lines if (match := re.search(r"request_id=(\S+)", line)))


def runs_at(server: Server) -> int:
    """How many pictures went through its network."""
    page = httpx.get(f"{server.url}/metrics", timeout=HANG_SECONDS).text
    match = re.search(r'^upscale_stage_seconds_count\{stage="pass_1"\} ([\d.]+)$', page, re.MULTILINE)
    return int(float(match[1])) if match else 0
