"""Faults, each injected for real, and each followed by the right answer to the next request.

Into a server process started as an operator starts it, wherever a fault can reach one from outside.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import io
import os
import resource
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from bench.server import ROOT, Server, free_port, running_server
from config import HOURS, Settings
from images import decode_image, encode_image
from model_utility import SuperResolver, build_rrdbnet, load_state_dict
from tests.conftest import (
    WEIGHTS,
    FakeResolver,
    assert_error,
    b64,
    encode,
    fake_upscaler,
    psnr,
    ready,
    sample_crop,
    serving,
)
from upscale import Size, Upscaler, load_upscaler, plan_upscale

DAYS = 24 * HOURS
_numbers = count()


def new_picture() -> bytes:
    """A picture that nobody has asked for, so that no cache has its answer: one 2× pass of a thousand pixels."""
    return encode(np.tile(sample_crop(260, 2, left=next(_numbers) % 200, top=next(_numbers) % 290), (1, 2, 1)))


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return load_upscaler(Settings(weights_dir=WEIGHTS))


@pytest.fixture(scope="module")
def golden(upscaler: Upscaler) -> Callable[[bytes], bytes]:
    """The right answer's bytes, by the pipeline itself, in this process."""

    def compute(image: bytes) -> bytes:
        picture, _ = decode_image(image)
        plan = plan_upscale(Size(picture.width, picture.height), "2k")
        return encode_image(upscaler.upscale(picture, plan, True, lambda _work: None).picture, "jpeg", 95)[0]

    return compute


Check = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def right(golden: Callable[[bytes], bytes]) -> Check:
    """Ask for a new picture, and see that the answer has the right bytes; returns its fields."""

    def check(server: Server, image: bytes = b"") -> dict[str, Any]:
        image = image or new_picture()
        answer = server.upscale(image)
        assert base64.b64decode(answer["base64"]) == golden(image)
        return answer

    return check


def assert_kept(answer: dict[str, Any]) -> None:
    assert Path(answer["file_path"]).read_bytes() == base64.b64decode(answer["base64"])


def assert_not_kept(answer: dict[str, Any]) -> None:
    assert answer["file_path"] == ""
    assert "could not keep the file" in answer["warnings"][-1]


class Registry(socketserver.ThreadingTCPServer):
    """A registry with moods: what it sends back is `mood`, and a beat that got it is in `handled`; None never answers."""

    GOOD = b"HTTP/1.1 204 No Content\r\n\r\n"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RegistryConnection)
        self.mood: bytes | None = self.GOOD
        self.handled: Queue[bytes | None] = Queue()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/register"

    def wait_for_a_beat(self, mood: bytes | None) -> None:
        self.mood = mood
        while self.handled.get(timeout=30) != mood:
            pass


class _RegistryConnection(socketserver.StreamRequestHandler):
    server: Registry

    def handle(self) -> None:
        mood = self.server.mood
        self.request.recv(65536)
        with contextlib.suppress(ConnectionError):  # it need not listen to the end
            if mood is None:
                self.request.recv(1)  # until it goes away
            else:
                self.wfile.write(mood)
        self.server.handled.put(mood)


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        thread = threading.Thread(target=registry.serve_forever)
        thread.start()
        try:
            yield registry
        finally:
            registry.shutdown()
            thread.join()


def mounts(*arguments: str) -> bool:
    command = [shutil.which("mount") or "mount", *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 2 MB where we may mount one, else a folder."""
    folder = tmp_path_factory.mktemp("outputs")
    mounted = os.geteuid() == 0 and mounts("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder))
    yield folder
    if mounted:
        subprocess.run([shutil.which("umount") or "umount", "--lazy", folder], check=True)  # noqa: S603


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that may be damaged."""
    folder = tmp_path_factory.mktemp("weights")
    for file in WEIGHTS.glob("*.pth"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def server(registry: Registry, outputs: Path, weights: Path) -> Iterator[Server]:
    with running_server(outputs, WEIGHTS_DIR=str(weights), REGISTRY_URL=registry.url, HEARTBEAT_SECONDS="0.2") as running:
        yield running


# the disk


@contextmanager
def file_size_limit(server: Server, limit_bytes: int) -> Iterator[None]:
    """No file of the server's may grow beyond it: like a quota, and as EFBIG instead of ENOSPC."""
    assert server.process
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    if not folder.is_mount():
        pytest.skip("only root can mount a small disk")
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        folder.chmod(0o500)
    elif not (folder.is_mount() and mounts("-o", "remount,ro", str(folder))):
        pytest.skip("permissions do not bind root, who cannot mount a disk here either")
    try:
        yield
    finally:
        folder.chmod(0o700) if os.geteuid() != 0 else mounts("-o", "remount,rw", str(folder))


def test_a_full_disk_costs_the_file_and_not_the_answer(server: Server, outputs: Path, right: Check) -> None:
    with full_disk(outputs):
        assert_not_kept(right(server))
        assert [path.name for path in outputs.iterdir() if path.stat().st_size == 0] == []
    assert_kept(right(server))


def test_a_quota_costs_the_file_and_not_the_answer(server: Server, outputs: Path, right: Check) -> None:
    before = set(outputs.iterdir())
    with file_size_limit(server, 1000):
        assert_not_kept(right(server))
    assert set(outputs.iterdir()) == before, "a half file was left"
    assert_kept(right(server))


def test_a_read_only_folder_costs_the_file_and_not_the_answer(server: Server, outputs: Path, right: Check) -> None:
    with read_only(outputs):
        assert_not_kept(right(server))
    assert_kept(right(server))


# the registry

MOODS: dict[str, bytes | None] = {
    "hangs": None,
    "hangs up": b"",
    "speaks no HTTP": b"\x00\xff" * 1000 + b"\r\n\r\n",
    "says 200 and nonsense": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>\xff\xfe\x00",
    "says 500": b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    "sends in circles": b"HTTP/1.1 307 Here\r\nLocation: /register\r\nContent-Length: 0\r\n\r\n",
    "sends elsewhere": b"HTTP/1.1 302 There\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "promises more than it sends": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}",
    "contradicts itself": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "answers 10 MB": b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"[" * 10_000_000,
    "answers 10 MB of zeros that are not what they seem": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    + bytes(10_000_000),
    "answers a head of 10 MB": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("mood", MOODS)
def test_a_registry_touches_no_request_whatever_it_does(server: Server, registry: Registry, right: Check, mood: str) -> None:
    memory = resident_bytes(server)
    registry.wait_for_a_beat(MOODS[mood])
    right(server)
    assert server.health()["heartbeat_active"] is True
    registry.wait_for_a_beat(Registry.GOOD)
    assert resident_bytes(server) < memory + 30_000_000


def resident_bytes(server: Server) -> int:
    assert server.process
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# the weights on disk


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def replace_with_nonsense(file: Path) -> None:
    file.unlink()
    file.write_bytes(b"nonsense" * 1000)


def flip_one_bit(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("damage", [flip_one_bit, truncate, replace_with_nonsense])
def test_damaged_weights_change_nothing_while_it_runs_and_are_refused_at_the_next_start(
    server: Server, weights: Path, right: Check, damage: Callable[[Path], None]
) -> None:
    file = weights / "RealESRGAN_x4plus.pth"
    damage(file)
    try:
        right(server)
        command = [sys.executable, "app.py"]
        environment = {**os.environ, "WEIGHTS_DIR": str(weights), "HOST": "127.0.0.1", "PORT": str(free_port())}
        started = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    finally:
        shutil.copy(WEIGHTS / file.name, file)
    assert started.returncode == 1
    last = started.stderr.splitlines()[-1]
    assert "RealESRGAN_x4plus.pth is not the file of the manifest (wrong SHA-256)" in last
    assert "python -m weights.fetch" in last
    assert "Traceback" not in started.stderr


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
        answer = right(server, image)
        assert not answer.get("cached", False)
        assert_kept(answer)
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
            answer = right(server)
            assert_kept(answer)
            assert 0 < answer["processing_time"] < 60


# the network, in this process


@asynccontextmanager
async def faulty(settings: Settings, upscaler: Upscaler, faults: list[Exception]) -> AsyncIterator[httpx.AsyncClient]:
    """The service with the real network, one of whose blocks raises the `faults`, one a call, until there are none left."""
    network = build_rrdbnet(load_state_dict(WEIGHTS / "RealESRGAN_x4plus.pth"), 4)

    def fail(*_: object) -> None:
        if faults:
            raise faults.pop()

    network.conv_body.register_forward_pre_hook(fail)
    resolver = SuperResolver({4: network}, upscaler.resolvers["photo"].device)
    faulty_upscaler = replace(upscaler, resolvers={"photo": resolver})
    faulty_upscaler.warm_up = lambda side_px, advance: None  # type: ignore[method-assign]
    async with serving(settings, lambda _: faulty_upscaler) as (client, _):
        await ready(client)
        yield client


async def ask(client: httpx.AsyncClient, image: bytes) -> httpx.Response:
    return await client.post("/upscale", json={"image_b64": b64(image), "target_resolution": "2k"})


def bytes_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["base64"])


async def test_an_exception_in_the_network_is_a_500_and_the_next_answer_is_right(
    settings: Settings, upscaler: Upscaler, golden: Callable[[bytes], bytes]
) -> None:
    async with faulty(settings, upscaler, [ValueError("in block 17")]) as client:
        assert_error(await ask(client, new_picture()), 500, "internal_error")
        image = new_picture()
        assert bytes_of(await ask(client, image)) == golden(image)


async def test_a_lack_of_memory_in_the_network_costs_tiles_and_not_the_answer(
    settings: Settings, upscaler: Upscaler, golden: Callable[[bytes], bytes]
) -> None:
    async with faulty(settings, upscaler, [torch.OutOfMemoryError("CUDA out of memory")]) as client:
        image = new_picture()
        answer = await ask(client, image)
        tiled, whole = (Image.open(io.BytesIO(data)) for data in (bytes_of(answer), golden(image)))
        assert psnr(np.asarray(tiled), np.asarray(whole)) > 35
        assert any("Memory ran out" in warning for warning in answer.json()["warnings"])
        again = await ask(client, image)  # what was made in a shortage is not kept for the next
        assert (bytes_of(again), again.json()["cached"]) == (golden(image), False)


async def test_a_lack_of_memory_for_good_is_an_error_and_the_next_answer_is_right(
    settings: Settings, upscaler: Upscaler, golden: Callable[[bytes], bytes]
) -> None:
    faults: list[Exception] = [torch.OutOfMemoryError("CUDA out of memory")] * 100
    async with faulty(settings, upscaler, faults) as client:
        assert (await ask(client, new_picture())).status_code == 500
        faults.clear()
        image = new_picture()
        assert bytes_of(await ask(client, image)) == golden(image)


# the device's thread, in this process


def kill_device_thread() -> None:
    """Python's only way to kill a thread: at its next step it raises what asks it to end, wherever that is."""
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("device"))
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)) == 1


@pytest.mark.no_cover  # Python 3.11 traces for ever while another thread has an exception pending
@pytest.mark.parametrize("times", [1, 3])
async def test_an_idle_device_thread_that_is_killed_is_replaced(settings: Settings, times: int) -> None:
    async with serving(settings, lambda _: fake_upscaler()) as (client, _):
        await ready(client)
        for _ in range(times):
            kill_device_thread()
            image = new_picture()
            assert_repeats_pixels(await ask(client, image), image)


@pytest.mark.no_cover
async def test_a_busy_device_thread_that_is_killed_costs_its_job_and_no_other(settings: Settings) -> None:
    resolver = FakeResolver()
    async with serving(settings, lambda _: fake_upscaler(resolver)) as (client, service):
        await ready(client)
        resolver.gate.clear()
        resolver.entered.clear()
        first = asyncio.create_task(ask(client, new_picture()))
        await asyncio.to_thread(resolver.entered.wait)
        image = new_picture()
        waiting = asyncio.create_task(ask(client, image))
        kill_device_thread()
        resolver.gate.set()
        assert_error(await first, 500, "internal_error")
        assert_repeats_pixels(await waiting, image)
        assert service.health()["queue"]["running"] == 0  # type: ignore[index]


def assert_repeats_pixels(answer: httpx.Response, image: bytes) -> None:
    picture, _ = decode_image(image)
    repeated = replace(picture, pixels=picture.pixels.repeat(2, axis=0).repeat(2, axis=1))
    assert bytes_of(answer) == encode_image(repeated, "jpeg", 95)[0]
