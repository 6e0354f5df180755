"""The end of the service, in order and by failure; and the process."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.server import ROOT
from core.config import MIB, Settings
from core.progress import NullProgress, Progress
from model_utility import Models
from serving.health import first_steps
from serving.lifecycle import Service
from tests.helpers import (
    HANG_SECONDS,
    FakeResolver,
    assert_error,
    fake_models,
    files_in,
    ready,
    send_raw,
    serving,
    with_settings,
)
from tests.serving.gated_service import gated_service, gray_of
from workers.task import DeviceTask


async def test_stop_lets_running_and_waiting_requests_finish_and_refuses_new_ones(settings: Settings) -> None:
    async with gated_service(settings) as h, asyncio.TaskGroup() as clients:
        accepted = [clients.create_task(h.post(gray)) for gray in (10, 20)]
        await h.queue_is(running=1, waiting=1)
        h.service.stop()
        health = await h.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        refused = await h.post(30)
        assert_error(refused, 503, "shutting_down")
        assert int(refused.headers["retry-after"]) >= 1
        h.resolver.gate.set()
    assert [gray_of(client.result()) for client in accepted] == [10, 20]


async def test_what_a_first_pass_does_once_is_not_measured(settings: Settings) -> None:
    """The engine for CPUs packs the weights, which takes longer than the pass."""

    class Told(FakeResolver):
        def super_resolve(self, image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
            told.append(type(progress))
            return super().super_resolve(image, scale, progress)

    told: list[type] = []
    async with serving(settings, lambda _: fake_models(Told())) as (client, _):
        await ready(client)
    assert told[0] is NullProgress
    assert set(told[1:]) == {DeviceTask}


async def test_past_the_drain_time_waiting_and_running_requests_get_503(settings: Settings) -> None:
    async with gated_service(with_settings(settings, drain_seconds=0.2)) as h, asyncio.TaskGroup() as clients:
        running = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        waiting = clients.create_task(h.post(20))
        await h.queue_is(running=1, waiting=1)
        h.service.stop()
        assert_error(await waiting, 503, "shutting_down")  # at once; the running one at its next step
        h.resolver.gate.set()
    assert_error(running.result(), 503, "shutting_down")
    assert h.resolver.seen == [(10, 20)]
    assert files_in(settings) == []


async def test_the_drain_waits_for_what_began_before_it_and_for_nothing_else(settings: Settings) -> None:
    service = Service(settings, lambda _: fake_models())
    with service.held_for_drain():
        drained = asyncio.create_task(service.drained())
        service.stop()
        await asyncio.sleep(0)
        with service.held_for_drain():
            pass
        await asyncio.sleep(0)
        assert not drained.done()
    with service.held_for_drain():  # of a client that goes on sending
        await asyncio.wait_for(drained, HANG_SECONDS)
    await service.close()


def test_the_first_steps_name_the_public_address_where_it_is_known() -> None:
    steps = first_steps(Settings(public_url="https://example.com/larger"))
    assert steps.startswith("open https://example.com/larger/, or send")
    assert "curl -sS --fail 'https://example.com/larger/upscale?" in steps


async def test_an_idle_connection_does_not_hold_up_the_end(settings: Settings) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        async with serving(settings, lambda _: fake_models(), close_seconds=3600) as (_, service):
            reader, writer = await send_raw(settings.port, b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
            await reader.readuntil(b"}}")
        assert service.state == "draining"
        writer.close()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the framework leaves the file to the collector
async def test_a_client_that_never_reads_its_response_does_not_hold_up_the_end(settings: Settings) -> None:
    settings.output_dir.mkdir()
    name = "0" * 32 + ".png"
    with (settings.output_dir / name).open("wb") as file:
        file.truncate(50 * MIB)
    async with asyncio.timeout(HANG_SECONDS):
        async with serving(settings, lambda _: fake_models(), stall_seconds=0.5, close_seconds=3600):
            _, writer = await send_raw(settings.port, f"GET /files/{name} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    writer.close()


async def test_models_that_cannot_be_loaded_end_the_server_with_the_reason(settings: Settings) -> None:
    def load(_: Settings) -> Models:
        raise OSError("the weights have gone")

    async with asyncio.timeout(HANG_SECONDS):
        async with serving(settings, load) as (_, service):  # nobody asks it anything: it may have ended at any time
            await service.drained()
    assert str(service.failure) == "the weights have gone"


# the process


def run_app(**environ: Any) -> subprocess.CompletedProcess[str]:
    """`python app.py` until it ends by itself."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={**inherited, "HOST": "127.0.0.1", **{name: str(value) for name, value in environ.items()}},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_missing_weights_end_the_process_with_1_and_the_remedy(tmp_path: Path, settings: Settings) -> None:
    ended = run_app(WEIGHTS_DIR=tmp_path, OUTPUT_DIR=tmp_path, PORT=settings.port)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if " level=INFO " not in line]
    assert ' level=CRITICAL message="RealESRGAN_x4plus.pth is missing' in line
    assert "python -m weights.fetch" in line


def test_an_occupied_port_ends_the_process_with_1_before_anything_loads(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        ended = run_app(WEIGHTS_DIR=tmp_path, OUTPUT_DIR=tmp_path, PORT=port)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line


@pytest.mark.parametrize(("name", "value"), [("PORT", "http"), ("DEVICE", "tpu"), ("QUEUE_LIMIT", "-1")])
def test_a_wrong_setting_ends_the_process_with_2_and_is_named(name: str, value: str) -> None:
    ended = run_app(**{name: value})
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert name in line
    assert value in line
