"""Admission, cancellation, start and end of the service, over a real socket with a network that waits for the test."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from PIL import Image

from cache import ResultCache
from core.config import MIB, Settings
from service import Service
from tests.conftest import (
    FakeResolver,
    assert_error,
    b64,
    encode,
    fake_upscaler,
    files_in,
    post,
    ready,
    send_raw,
    serving,
    until,
)
from upscale import Upscaler
from utility import ResultStore

ROOT = Path(__file__).parent.parent


@dataclass
class Witness(FakeResolver):
    """Notes the gray value and the height of every image that reaches the network."""

    seen: list[tuple[int, int]] = field(default_factory=list)

    def super_resolve(self, image: NDArray[np.uint8], scale: int, advance: Callable[[float], None]) -> NDArray[np.uint8]:
        self.seen.append((int(image.flat[0]), image.shape[0]))
        return super().super_resolve(image, scale, advance)


def order(gray: int) -> bytes:
    """A request of three passes that can be told from others by its gray."""
    image = b64(encode(np.full((20, 20, 3), gray, np.uint8)))
    return orjson.dumps({"image_b64": image, "target_resolution": "2k", "output_format": "png"})


def gray_of(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    low, high = Image.open(io.BytesIO(base64.b64decode(answer.json()["base64"]))).convert("L").getextrema()
    assert low == high
    return int(low)  # type: ignore[arg-type]


@dataclass
class House:
    """A service whose network waits at `gate`, and what a test asks of it."""

    client: httpx.AsyncClient
    service: Service
    resolver: Witness
    port: int

    async def post(self, gray: int, **headers: str) -> httpx.Response:
        headers = {"Content-Type": "application/json", **headers}
        return await self.client.post("/upscale", content=order(gray), headers=headers)

    async def queue(self) -> tuple[int, int]:
        queue = (await self.client.get("/health")).json()["queue"]
        return queue["running"], queue["waiting"]

    async def queue_is(self, running: int, waiting: int) -> None:
        async with asyncio.timeout(10):
            while await self.queue() != (running, waiting):
                pass

    async def send(self, gray: int) -> asyncio.StreamWriter:
        """A request on a connection of its own, which a test can close."""
        return (await send_raw(self.port, post(order(gray))))[1]


@asynccontextmanager
async def house(settings: Settings) -> AsyncIterator[House]:
    resolver = Witness()
    async with serving(settings, lambda _: fake_upscaler(resolver)) as (client, service):
        await ready(client)
        resolver.seen.clear()  # of the warm-up
        resolver.gate.clear()
        try:
            yield House(client, service, resolver, settings.port)
        finally:
            resolver.gate.set()


# admission


async def test_a_full_queue_answers_503_with_retry_after(settings: Settings) -> None:
    async with house(replace(settings, queue_limit=2)) as h, asyncio.TaskGroup() as clients:
        accepted = [clients.create_task(h.post(gray)) for gray in (10, 20, 30)]
        await h.queue_is(running=1, waiting=2)
        refused = await h.post(40)
        body = assert_error(refused, 503, "queue_full")
        assert "2 requests are waiting" in body["error"]
        assert int(refused.headers["retry-after"]) == body["retry_after_seconds"] >= 1
        h.resolver.gate.set()
    assert [gray_of(client.result()) for client in accepted] == [10, 20, 30]
    assert 40 not in dict(h.resolver.seen)


async def test_no_place_to_wait_still_serves_one(settings: Settings) -> None:
    async with house(replace(settings, queue_limit=0)) as h, asyncio.TaskGroup() as clients:
        accepted = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        assert_error(await h.post(20), 503, "queue_full")
        h.resolver.gate.set()
    assert gray_of(accepted.result()) == 10


async def test_a_waiting_client_that_leaves_frees_its_place_and_costs_no_work(settings: Settings) -> None:
    async with house(replace(settings, queue_limit=1)) as h, asyncio.TaskGroup() as clients:
        running = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        leaving = await h.send(20)
        await h.queue_is(running=1, waiting=1)
        leaving.close()
        await h.queue_is(running=1, waiting=0)  # while the first is still running
        following = clients.create_task(h.post(30))
        await h.queue_is(running=1, waiting=1)
        h.resolver.gate.set()
    assert [gray_of(running.result()), gray_of(following.result())] == [10, 30]
    assert 20 not in dict(h.resolver.seen)


async def test_the_work_of_a_running_client_that_leaves_stops_at_its_next_step(settings: Settings) -> None:
    async with house(settings) as h:
        leaving = await h.send(10)
        await h.queue_is(running=1, waiting=0)
        leaving.close()
        following = asyncio.create_task(h.post(20))
        await h.queue_is(running=1, waiting=1)
        h.resolver.gate.set()
        assert gray_of(await following) == 20
        assert await h.queue() == (0, 0)
    assert [height for gray, height in h.resolver.seen if gray == 10] == [20]  # the first of three passes
    assert files_in(settings) == [Path((await following).json()["file_path"]).name]


async def test_clients_that_leave_at_any_moment_leave_no_half_file_and_no_place_behind(settings: Settings) -> None:
    async with house(replace(settings, queue_limit=100)) as h:
        h.resolver.gate.set()
        bodies = post(order(10))
        for turns in range(30):  # of the event loop, between the request and the hanging up
            _, writer = await send_raw(settings.port, bodies)
            for _ in range(turns):
                await asyncio.sleep(0)
            writer.close()
        await h.queue_is(running=0, waiting=0)
        answer = await h.post(20)
        assert gray_of(answer) == 20
    assert [name for name in files_in(settings) if name.endswith(".part")] == []


async def test_a_client_that_leaves_while_its_result_is_saved_leaves_no_file_behind(settings: Settings) -> None:
    saving, gate = threading.Event(), threading.Event()

    class SlowStore(ResultStore):
        def save(self, data: bytes, extension: str) -> Path:
            saving.set()
            assert gate.wait(30)
            return super().save(data, extension)

    async with house(settings) as h:
        h.resolver.gate.set()
        h.service._dispatcher.cache = ResultCache(SlowStore(settings.output_dir, retention_seconds=60, max_bytes=MIB))
        leaving = await h.send(10)
        await asyncio.to_thread(saving.wait)
        leaving.close()
        await h.queue_is(running=0, waiting=0)
        gate.set()
        assert gray_of(await h.post(20)) == 20
        await until(lambda: len(files_in(settings)) == 1)


async def test_health_answers_while_the_device_is_busy(settings: Settings) -> None:
    async with house(settings) as h, asyncio.TaskGroup() as clients:
        running = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        health = await h.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "healthy")
        h.resolver.gate.set()
    assert gray_of(running.result()) == 10


# time


async def test_a_request_that_still_waits_at_its_deadline_gets_504_and_leaves_the_queue(settings: Settings) -> None:
    async with house(settings) as h, asyncio.TaskGroup() as clients:
        running = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        late = await h.post(20, **{"X-Request-Timeout": "0.2"})
        body = assert_error(late, 504, "deadline_exceeded")
        assert body["timeout_seconds"] == 0.2
        assert await h.queue() == (1, 0)
        h.resolver.gate.set()
    assert gray_of(running.result()) == 10
    assert 20 not in dict(h.resolver.seen)


async def test_a_request_that_runs_over_its_deadline_gets_504_and_ends_at_its_next_step(settings: Settings) -> None:
    async with house(settings) as h:
        assert_error(await h.post(10, **{"X-Request-Timeout": "0.2"}), 504, "deadline_exceeded")
        h.resolver.gate.set()
        assert gray_of(await h.post(20)) == 20
    assert [height for gray, height in h.resolver.seen if gray == 10] == [20]  # the first of three passes
    assert len(files_in(settings)) == 1


async def test_a_client_may_shorten_its_time_but_not_lengthen_it(settings: Settings) -> None:
    async with house(replace(settings, request_timeout_seconds=0.3)) as h:
        body = assert_error(await h.post(10, **{"X-Request-Timeout": "3600"}), 504, "deadline_exceeded")
        assert body["timeout_seconds"] == 0.3


async def test_a_body_that_is_not_there_at_the_deadline_gets_504(settings: Settings) -> None:
    async with house(settings) as h:
        whole = post(order(10), "X-Request-Timeout: 0.2")
        reader, writer = await send_raw(h.port, whole[:-10])
        assert (await reader.readline()).startswith(b"HTTP/1.1 504 ")
        writer.close()


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "1e999"])
async def test_a_timeout_that_is_no_positive_number_gets_400(client: httpx.AsyncClient, text: str) -> None:
    answer = await client.post("/upscale", json={}, headers={"X-Request-Timeout": text})
    assert assert_error(answer, 400, "out_of_range")["field"] == "X-Request-Timeout"


@pytest.mark.parametrize("beginning", [b"", b"GET /health HTTP/1.1\r\nHo", b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"])
async def test_a_connection_that_stays_silent_is_cut(settings: Settings, beginning: bytes) -> None:
    async with serving(settings, lambda _: fake_upscaler(), keep_alive_seconds=0.3), asyncio.timeout(5):
        reader, writer = await send_raw(settings.port, beginning)
        assert (await reader.read()).startswith(b"HTTP/1.1 " if beginning.endswith(b"\r\n") else b"")
        writer.close()


async def test_a_head_that_comes_byte_by_byte_is_cut(settings: Settings) -> None:
    async with serving(settings, lambda _: fake_upscaler(), keep_alive_seconds=0.3), asyncio.timeout(5):
        reader, writer = await send_raw(settings.port, b"GET /health HTTP/1.1\r\nX: ")
        cut = asyncio.create_task(reader.read())
        while not cut.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)  # faster than any timeout that begins anew with each byte
        with contextlib.suppress(ConnectionResetError):
            assert cut.result() == b""
        writer.close()


# the end


async def test_stop_lets_running_and_waiting_requests_finish_and_refuses_new_ones(settings: Settings) -> None:
    async with house(settings) as h, asyncio.TaskGroup() as clients:
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


async def test_past_the_drain_time_waiting_and_running_requests_get_503(settings: Settings) -> None:
    async with house(replace(settings, drain_seconds=0.2)) as h, asyncio.TaskGroup() as clients:
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
    service = Service(settings, lambda _: fake_upscaler())
    with service.in_flight():
        drained = asyncio.create_task(service.drained())
        service.stop()
        await asyncio.sleep(0)
        with service.in_flight():
            pass
        await asyncio.sleep(0)
        assert not drained.done()
    with service.in_flight():  # of a client that goes on sending
        await asyncio.wait_for(drained, 1)
    await service.close()


async def test_an_idle_connection_does_not_hold_up_the_end(settings: Settings) -> None:
    async with asyncio.timeout(5):
        async with house(settings) as h:
            reader, writer = await send_raw(settings.port, b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
            await reader.readuntil(b"}}")
        assert h.service.state == "draining"
        writer.close()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the framework leaves the file to the collector
async def test_a_client_that_never_reads_its_answer_does_not_hold_up_the_end(settings: Settings) -> None:
    settings.output_dir.mkdir()
    name = "0" * 32 + ".png"
    with (settings.output_dir / name).open("wb") as file:
        file.truncate(50 * MIB)
    async with asyncio.timeout(10):
        async with serving(settings, lambda _: fake_upscaler(), stall_seconds=0.5):
            _, writer = await send_raw(settings.port, f"GET /files/{name} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    writer.close()


async def test_models_that_cannot_be_loaded_end_the_server_with_the_reason(settings: Settings) -> None:
    def load(_: Settings) -> Upscaler:
        raise OSError("the weights have gone")

    async with asyncio.timeout(10):
        async with serving(settings, load) as (_, service):
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
