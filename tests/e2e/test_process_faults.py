"""A process that is killed while it writes, and a clock that jumps."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from PIL import Image

from bench.server import Server, running_server
from core.config import HOURS
from tests.e2e.faults import FRAGILE, Check, assert_kept, checked_by, golden_bytes, new_picture
from tests.helpers import FAKE, HANG_SECONDS, fake_models, wait_until

DAYS = 24 * HOURS
HOOKS = """
import os, pathlib, time

hooks = pathlib.Path(__file__).parent
to_disk, honest = os.fsync, time.time

def fsync(file):
    to_disk(file)
    while (hooks / "hold").exists():
        time.sleep(0.01)

os.fsync = fsync
time.time = lambda: honest() + float((hooks / "clock").read_text())
"""


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that makes a server write for as long as it has a file `hold`, and its clock wrong by what `clock` says."""
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "sitecustomize.py").write_text(HOOKS)
    (folder / "clock").write_text("0")
    return folder


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def right() -> Check:
    """With the fake network, which the servers here have too: the clock and the process are what fails."""
    return checked_by(partial(golden_bytes, fake_models()))


@pytest.fixture(scope="module")
def hooked_server(hooks: Path, outputs: Path) -> Iterator[Server]:
    """Of what it keeps nothing is swept away while its clock is wrong."""
    settings = {"PYTHONPATH": str(hooks), "RETENTION_SECONDS": f"{36500 * DAYS}"}
    with running_server(outputs, program=FAKE, **settings) as running:
        yield running


def test_a_clock_that_jumps_touches_no_request(hooked_server: Server, hooks: Path, right: Check) -> None:
    assert_kept(right(hooked_server))
    for days in (3650, -3650, 0):
        (hooks / "next").write_text(f"{days * DAYS}")
        (hooks / "next").replace(hooks / "clock")  # which the server reads at any time
        health = hooked_server.health()
        assert abs(health["timestamp"] - time.time() - days * DAYS) < 60, "the clock did not jump"
        assert 0 < health["uptime_seconds"] < 600
        response = right(hooked_server)
        assert_kept(response)
        assert 0 < response["processing_time"] < 60


def test_a_server_killed_while_it_writes_leaves_nothing_that_is_served(
    hooked_server: Server, hooks: Path, outputs: Path, right: Check
) -> None:
    image = new_picture()
    with ThreadPoolExecutor(1) as client:
        assert hooked_server.process
        (hooks / "hold").touch()
        asking = client.submit(hooked_server.post, image)
        wait_until(lambda: any(outputs.glob("*.part")))
        hooked_server.process.kill()
        assert isinstance(asking.exception(), httpx.TransportError)
    (unfinished,) = outputs.glob("*.part")
    two_hours_ago = time.time() - 2 * HOURS
    os.utime(unfinished, (two_hours_ago, two_hours_ago))
    with running_server(outputs, program=FAKE) as server:
        for name in (unfinished.name, *(f"{unfinished.stem}.{extension}" for extension in ("jpg", "png", "webp"))):
            assert httpx.get(f"{server.url}/files/{name}", timeout=HANG_SECONDS).status_code == 404
        response = right(server, image)
        assert not response.get("cached", False)
        assert_kept(response)
        wait_until(lambda: not unfinished.exists())


@pytest.mark.slow
def test_fifty_kills_under_load_leave_nothing_half(outputs: Path, tmp_path: Path, right: Check) -> None:
    jobs: list[str] = []
    moments = random.Random(50)  # noqa: S311
    for _ in range(50):
        with running_server(outputs, program=FRAGILE, DEVICE_FILES=str(tmp_path)) as server, ThreadPoolExecutor(4) as clients:
            assert server.process
            for _ in range(100):
                clients.submit(server.post, new_picture(), quality=moments.randrange(1, 100), output_format="png")
                clients.submit(start_job, server, jobs)
            time.sleep(moments.random())
            server.process.kill()
            clients.shutdown(cancel_futures=True)
    assert len(jobs) > 50
    with running_server(outputs, program=FAKE) as server:
        for job in jobs:
            response = ended(server, job)
            if result := response.json()["result"]:
                file = httpx.get(f"{server.url}{result['url']}", timeout=HANG_SECONDS)
                assert Image.open(io.BytesIO(file.content)).size == tuple(result["upscaled_size"].values())
            else:
                assert response.json()["error"]["code"] == "interrupted", response.text
        assert_kept(right(server, new_picture()))
        assert "Traceback" not in "".join(server.log)


def ended(server: Server, job: str) -> httpx.Response:
    """The job object, once somebody has ended the job: none is left for ever."""
    while True:
        response = httpx.get(f"{server.url}/jobs/{job}", timeout=HANG_SECONDS)
        if response.json()["status"] in ("succeeded", "failed"):
            return response
        time.sleep(0.1)


def start_job(server: Server, jobs: list[str]) -> None:
    url, headers = f"{server.url}/upscale?target_resolution=2k", {"Prefer": "respond-async", "Content-Type": "image/png"}
    response = httpx.post(url, content=new_picture(), headers=headers, timeout=HANG_SECONDS)
    if response.status_code == 202:
        jobs.append(response.json()["id"])
