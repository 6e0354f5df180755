"""A process that is killed while it writes, and a clock that jumps."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from bench.server import Server, running_server
from core.config import HOURS
from tests.e2e.faults import Check, assert_kept, new_picture
from tests.helpers import WEIGHTS

DAYS = 24 * HOURS


# signals


def test_a_server_killed_while_it_writes_leaves_nothing_that_is_served(
    tmp_path: Path, right: Check, golden: Callable[[bytes], bytes]
) -> None:
    with running_server(tmp_path, WEIGHTS_DIR=str(WEIGHTS)) as server:
        image, unfinished = kill_while_it_writes(server, tmp_path)
    assert unfinished.exists()
    two_hours_ago = time.time() - 2 * HOURS
    os.utime(unfinished, (two_hours_ago, two_hours_ago))
    with running_server(tmp_path, WEIGHTS_DIR=str(WEIGHTS)) as server:
        for name in (unfinished.name, *(f"{unfinished.stem}.{extension}" for extension in ("jpg", "png", "webp"))):
            assert httpx.get(f"{server.url}/files/{name}").status_code == 404
        response = right(server, image)
        assert not response.get("cached", False)
        assert_kept(response)
        wait_until(lambda: not unfinished.exists())


def kill_while_it_writes(server: Server, folder: Path) -> tuple[bytes, Path]:
    """Stop the process at the moment when an unfinished file is seen; if the file is still there then, kill it."""
    assert server.process
    for _ in range(50):
        image = new_picture()
        with ThreadPoolExecutor(1) as client:
            asking = client.submit(server.post, image)
            while not (unfinished := next(folder.glob("*.part"), None)) and not asking.done():
                pass
            server.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)
            if unfinished and unfinished.exists():
                server.process.kill()
                server.process.wait()
                assert isinstance(asking.exception(), httpx.TransportError)
                return image, unfinished
            server.process.send_signal(signal.SIGCONT)
    raise AssertionError("never seen writing")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# the clock


CLOCK = """
import os, pathlib, time

file, honest = pathlib.Path(os.environ["CLOCK"]), time.time
time.time = lambda: honest() + float(file.read_text())
"""


def test_a_clock_that_jumps_touches_no_request(tmp_path: Path, right: Check) -> None:
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    clock = tmp_path / "clock"
    clock.write_text("0")
    settings = {"WEIGHTS_DIR": str(WEIGHTS), "PYTHONPATH": str(tmp_path), "CLOCK": str(clock)}
    with running_server(tmp_path / "outputs", **settings) as server:
        assert_kept(right(server))
        for days in (3650, -3650, 0):
            clock.write_text(f"{days * DAYS}")
            health = server.health()
            assert abs(health["timestamp"] - time.time() - days * DAYS) < 60, "the clock did not jump"
            assert 0 < health["uptime_seconds"] < 600
            response = right(server)
            assert_kept(response)
            assert 0 < response["processing_time"] < 60
