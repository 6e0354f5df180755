"""What several test modules share: a fake model, the service on a real socket, pictures and comparisons."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from hypercorn.asyncio import serve
from hypercorn.config import Config
from numpy.typing import NDArray
from PIL import Image

from api.server import CLOSE_SECONDS, KEEP_ALIVE_SECONDS, STALL_SECONDS, listen
from app import create_app
from bench.server import ROOT, SAMPLE
from core.config import Settings
from core.progress import Progress
from imaging.decode import decode_image
from imaging.formats import open_image
from imaging.picture import Picture
from model_utility import Models
from schemas.health import ServiceState
from serving.lifecycle import Service
from tests.documented import DocumentedClient
from upscale import Upscaler
from workers.local import LocalWorker

WEIGHTS = ROOT / "weights"
# Of a server that only runs small pictures: threads of one pass wait for each other at every layer, and beside busy
# processes for long.
SMALL_SERVER = {"WEIGHTS_DIR": str(WEIGHTS), "TORCH_THREADS": "1"}
FAKE = ("-m", "tests.scale.sleeping_server")  # a program for `running_server`: without torch, it starts in a fifth of the time
HANG_SECONDS = 60.0  # after which a wait is taken for a hang; no test asserts that anything is faster than this
_TLS = httpx.create_ssl_context()  # unused; a client would make one for itself each time, which takes longer than most tests


@dataclass
class FakeResolver:
    """Repeats pixels, one step a pass; a cleared `gate` holds the device's thread at that step."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    shortages: int = 0
    engine: str = "repeated pixels"

    def __post_init__(self) -> None:
        self.gate.set()

    def run_once(self) -> None:
        """Nothing is slow."""

    def flops(self, height: int, width: int, scale: int) -> float:
        return float(height * width)

    def memory_bytes(self, height: int, width: int, scale: int) -> int:
        return height * width * scale**2 * 3

    def super_resolve(self, image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
        self.entered.set()
        assert self.gate.wait(HANG_SECONDS), "the test never opened the gate"
        if self.error:
            raise self.error
        progress.advance(self.flops(image.shape[0], image.shape[1], scale))
        return image.repeat(scale, axis=0).repeat(scale, axis=1)


class _FakeModels(Models):
    def return_freed_memory(self) -> None:
        """None was kept, and torch need not be imported for it."""


def fake_models(resolver: FakeResolver | None = None) -> Models:
    """Models that repeat pixels and find no faces; nothing is missing."""
    resolver = resolver or FakeResolver()
    measure = staticmethod(lambda _flops_per_second: None)
    nothing = {"detect": staticmethod(lambda _image: []), "flops": staticmethod(lambda _height, _width: 0.0)}
    detector = type("NoFaces", (), {**nothing, "measure": measure})()
    restorer = type("NoRestorer", (), {"measure": measure})()
    fast = type("NoFastModel", (), {"can_mix": True, "at": staticmethod(lambda _denoise: resolver), "measure": measure})()
    names = ("photo", "anime", "photo_fast", "anime_fast")
    return _FakeModels(dict.fromkeys(names, resolver), detector, restorer, fast={"photo_fast": fast})  # type: ignore[arg-type]


def fake_worker(name: str = "cpu", resolver: FakeResolver | None = None) -> LocalWorker:
    """One with such models."""
    return LocalWorker(name, Upscaler(fake_models(resolver)))


@asynccontextmanager
async def serving(
    settings: Settings,
    load: Callable[[Settings], Models],
    stall_seconds: float = STALL_SECONDS,
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    close_seconds: float = CLOSE_SECONDS,
) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """The application behind a real hypercorn on a free port of loopback, which is open when this begins."""
    app = create_app(settings, load=load)
    service: Service = app.extensions["service"]
    config = listen(settings, stall_seconds, keep_alive_seconds)
    config.graceful_timeout = close_seconds
    _open_port(config)
    server = asyncio.create_task(serve(app, config, shutdown_trigger=service.drained))
    url = f"http://127.0.0.1:{settings.port}"
    async with DocumentedClient(base_url=url, timeout=HANG_SECONDS, verify=_TLS) as client:
        try:
            yield client, service
        finally:
            service.stop()
            await server


def _open_port(config: Config) -> None:
    """Let connections wait for the server from now on, instead of being refused until it has started."""
    (bound,) = config.bind
    with socket.socket(fileno=os.dup(int(bound.removeprefix("fd://")))) as listener:
        listener.listen()


def advance_clock(seconds: float) -> None:
    """Let the event loop's clock, and with it all that waits on it in this test, jump ahead."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]


async def started(service: Service) -> None:
    """Wait until the models are loaded, without the requests that `ready` takes, which hundreds of tests would pay for."""
    await until(lambda: service.state != ServiceState.STARTING)


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until the models are loaded."""
    while (await client.get("/health")).json()["status"] == ServiceState.STARTING:  # noqa: ASYNC110 - the real server has no event for us
        await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event for us, such as the server noticing that a client has gone."""
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], bool], sleep: Callable[[float], None] = time.sleep) -> None:
    """The same of another process; `sleep` takes seconds."""
    end = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        sleep(0.02)


async def send_raw(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of its own, with `data` sent and nothing read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


def post(body: bytes, *headers: str) -> bytes:
    """The bytes of POST /upscale."""
    lines = ["POST /upscale HTTP/1.1", "Host: test", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def assert_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The response is the error that it should be, in the form that every error has; returns its body."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), response.text[:500]
    body: dict[str, Any] = response.json()
    assert (body["success"], body["code"]) == (False, code)
    assert len(body["error"]) > 10
    assert "Traceback" not in response.text
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def with_settings(settings: Settings, **changes: Any) -> Settings:
    """The same settings but for these."""
    return settings.model_copy(update=changes)


@contextmanager
def file_size_limit(process_id: int, limit_bytes: int) -> Iterator[None]:
    """No file of the process may grow beyond it: like a full disk, and as EFBIG instead of ENOSPC."""
    before = resource.prlimit(process_id, resource.RLIMIT_FSIZE)
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, before)


def files_in(settings: Settings) -> list[str]:
    """The names in the output folder, but for the records of results and jobs."""
    if not settings.output_dir.exists():
        return []
    return [path.name for path in settings.output_dir.iterdir() if path.suffix != ".json"]


def encode(pixels: NDArray[Any] | Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """An image file of an array."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> tuple[Picture, list[str]]:
    """The picture in an image file, and the warnings."""
    return decode_image(open_image(data))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sample_crop(width: int, height: int, left: int = 0, top: int = 0) -> NDArray[np.uint8]:
    """A piece of the sample photograph, uint8 RGB."""
    with Image.open(SAMPLE) as image:
        return np.array(image.crop((left, top, left + width, top + height)).convert("RGB"))


def max_difference(first: NDArray[Any], second: NDArray[Any]) -> int:
    """The largest difference of two images, in grey levels."""
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def psnr(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
