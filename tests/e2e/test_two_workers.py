"""With the real networks: two workers at once give the bytes of one."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bench.server import running_server
from tests.e2e.faults import new_picture
from tests.helpers import SMALL_SERVER


@pytest.mark.slow  # tests/serving does the same with the fake network
def test_two_workers_at_once_give_the_bytes_of_one(tmp_path: Path, golden: Callable[[bytes], bytes]) -> None:
    images = [new_picture() for _ in range(4)]
    settings = {**SMALL_SERVER, "DEVICE": "cpu,cpu", "TORCH_THREADS": "2"}
    with running_server(tmp_path, **settings) as server, ThreadPoolExecutor(len(images)) as clients:
        results = list(clients.map(server.upscale, images))
        page = httpx.get(f"{server.url}/metrics").text
    assert [base64.b64decode(result["base64"]) for result in results] == [golden(image) for image in images]
    done = [float(each) for each in re.findall(r"^upscale_worker_tasks_total{.*} (.*)$", page, re.MULTILINE)]
    assert len(done) == 2
    assert min(done) >= 1
    assert sum(done) == len(images)
