"""A process whose device is lost: what its clients hear, what is left on disk, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.server import ROOT, Server, free_port, running_server
from core.errors import DEVICE_LOST_STATUS
from tests.e2e.faults import FRAGILE, new_picture
from tests.helpers import HANG_SECONDS, b64, wait_until
from tests.lost_device import REASON

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
def device(tmp_path: Path) -> Path:
    folder = tmp_path / "device"
    folder.mkdir()
    return folder


def start_job(server: Server) -> str:
    body = {"image_b64": b64(new_picture()), "target_resolution": "2k"}
    response = httpx.post(f"{server.url}/upscale", json=body, headers=ASYNC, timeout=HANG_SECONDS)
    assert response.status_code == 202, response.text
    job_id: str = response.json()["id"]
    return job_id


def job(server: Server, job_id: str) -> dict[str, Any]:
    fields: dict[str, Any] = httpx.get(f"{server.url}/jobs/{job_id}", timeout=HANG_SECONDS).json()
    return fields


def critical(lines: list[str]) -> list[str]:
    return [line for line in lines if " level=CRITICAL " in line]


def test_a_lost_device_ends_the_process_in_good_order_with_a_status_to_restart_on(device: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    with running_server(outputs, program=FRAGILE, DEVICE_FILES=str(device)) as server, ThreadPoolExecutor(2) as clients:
        assert server.process
        assert server.post(new_picture()).status_code == 200

        (device / "hold").touch()
        running = start_job(server)
        wait_until(lambda: bool(job(server, running)["status"] == "processing"))
        waiting = start_job(server)
        asking = clients.submit(server.post, new_picture())
        wait_until(lambda: bool(server.health()["queue"]["waiting"] == 2))
        # A request whose body is on its way holds the drain up, so that there is somebody to ask.
        late = clients.submit(send_slowly, server, device)
        wait_until((device / "arriving").exists)

        (device / "lost").touch()
        (device / "hold").unlink()
        response = asking.result()
        assert (response.status_code, response.json()["code"]) == (503, "device_lost")
        assert int(response.headers["Retry-After"]) >= 1
        health = httpx.get(f"{server.url}/health", timeout=HANG_SECONDS)
        assert (health.status_code, health.json()["status"], health.json()["reason"]) == (503, "draining", REASON)
        wait_until(lambda: all(job(server, job_id)["status"] == "starting" for job_id in (running, waiting)))

        (device / "arriving").unlink()
        assert late.result().json()["code"] == "device_lost"
        assert server.process.wait(HANG_SECONDS) == DEVICE_LOST_STATUS == 75
    (line,) = critical(server.log)
    assert f'message="the device is lost, and the service ends: {REASON}"' in line
    assert "exception=" in line
    assert 'message="stopped, with exit status 75"' in server.log[-1]
    (device / "lost").unlink()
    with running_server(outputs, program=FRAGILE, DEVICE_FILES=str(device)) as server:
        wait_until(lambda: all(job(server, job_id)["status"] == "succeeded" for job_id in (running, waiting)))


def send_slowly(server: Server, device: Path) -> httpx.Response:
    """A request whose body begins before there is a file `arriving`, and ends when it is gone."""

    def body() -> Iterator[bytes]:
        picture = new_picture()
        yield picture[:100]
        (device / "arriving").touch()
        wait_until(lambda: not (device / "arriving").exists())
        yield picture[100:]

    headers = {"Content-Type": "image/png"}
    return httpx.post(f"{server.url}/upscale", content=body(), headers=headers, timeout=HANG_SECONDS)


def test_a_driver_that_holds_the_interpreters_lock_does_not_keep_the_process(device: Path, tmp_path: Path) -> None:
    settings = {"DEVICE_FILES": str(device), "LOST_END_SECONDS": "1"}
    with running_server(tmp_path, program=FRAGILE, **settings) as server, ThreadPoolExecutor(1) as clients:
        assert server.process
        late = clients.submit(send_slowly, server, device)
        wait_until((device / "arriving").exists)
        (device / "lost").touch()
        assert server.post(new_picture()).json()["code"] == "device_lost"
        (device / "hang").touch()
        assert server.process.wait(HANG_SECONDS) == 1
        (device / "arriving").unlink()
        assert isinstance(late.exception(), httpx.TransportError)


def test_a_device_that_is_lost_in_the_warm_up_ends_the_start_with_a_sentence(device: Path, tmp_path: Path) -> None:
    (device / "lost").touch()
    settings = {"HOST": "127.0.0.1", "PORT": str(free_port()), "OUTPUT_DIR": str(tmp_path), "DEVICE_FILES": str(device)}
    ended = subprocess.run(  # noqa: S603
        [sys.executable, *FRAGILE],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert ended.returncode == DEVICE_LOST_STATUS
    (line,) = critical(ended.stderr.splitlines())
    assert f"the device is lost, and the service ends: {REASON}" in line
