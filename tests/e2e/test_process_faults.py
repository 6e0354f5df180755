"""A process that is killed while it writes, and a clock that jumps."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bench.server import running_server
from core.config import HOURS
from tests.e2e.faults import Check, assert_kept, new_picture
from tests.helpers import HANG_SECONDS, SMALL_SERVER, wait_until

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


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    """A folder that makes a server write for as long as it has a file `hold`, and its clock wrong by what `clock` says."""
    (tmp_path / "sitecustomize.py").write_text(HOOKS)
    (tmp_path / "clock").write_text("0")
    return tmp_path


def test_a_server_killed_while_it_writes_leaves_nothing_that_is_served(tmp_path: Path, hooks: Path, right: Check) -> None:
    outputs, image = tmp_path / "outputs", new_picture()
    with (
        running_server(outputs, PYTHONPATH=str(hooks), **SMALL_SERVER) as server,
        ThreadPoolExecutor(1) as client,
    ):
        assert server.process
        (hooks / "hold").touch()
        asking = client.submit(server.post, image)
        wait_until(lambda: any(outputs.glob("*.part")))
        server.process.kill()
        assert isinstance(asking.exception(), httpx.TransportError)
    (unfinished,) = outputs.glob("*.part")
    two_hours_ago = time.time() - 2 * HOURS
    os.utime(unfinished, (two_hours_ago, two_hours_ago))
    with running_server(outputs, **SMALL_SERVER) as server:
        for name in (unfinished.name, *(f"{unfinished.stem}.{extension}" for extension in ("jpg", "png", "webp"))):
            assert httpx.get(f"{server.url}/files/{name}", timeout=HANG_SECONDS).status_code == 404
        response = right(server, image)
        assert not response.get("cached", False)
        assert_kept(response)
        wait_until(lambda: not unfinished.exists())


def test_a_clock_that_jumps_touches_no_request(tmp_path: Path, hooks: Path, right: Check) -> None:
    # Of what it keeps nothing may be swept away just then: it is ten years old.
    settings = {**SMALL_SERVER, "PYTHONPATH": str(hooks), "RETENTION_SECONDS": f"{36500 * DAYS}"}
    with running_server(tmp_path / "outputs", **settings) as server:
        assert_kept(right(server))
        for days in (3650, -3650, 0):
            (hooks / "next").write_text(f"{days * DAYS}")
            (hooks / "next").replace(hooks / "clock")  # which the server reads at any time
            health = server.health()
            assert abs(health["timestamp"] - time.time() - days * DAYS) < 60, "the clock did not jump"
            assert 0 < health["uptime_seconds"] < 600
            response = right(server)
            assert_kept(response)
            assert 0 < response["processing_time"] < 60
