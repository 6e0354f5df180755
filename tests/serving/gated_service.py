"""A service whose network waits for the test, and what a test asks of it."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image

from core.config import Settings
from core.progress import Progress
from serving.lifecycle import Service
from tests.helpers import HANG_SECONDS, FakeResolver, b64, encode, fake_models, post, send_raw, serving, started

ASYNC = {"Prefer": "respond-async"}


@dataclass
class Witness(FakeResolver):
    """Notes the gray value and the height of every image that reaches the network."""

    seen: list[tuple[int, int]] = field(default_factory=list)

    def super_resolve(self, image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
        self.seen.append((int(image.flat[0]), image.shape[0]))
        return super().super_resolve(image, scale, progress)


def request_fields(gray: int = 10, **fields: Any) -> dict[str, Any]:
    """A request of three passes that can be told from others by its gray."""
    return {"image_b64": b64(encode(np.full((20, 20, 3), gray, np.uint8))), "target_resolution": "2k", **fields}


def png_request(gray: int) -> bytes:
    """The body of such a request whose result keeps its gray exactly."""
    return orjson.dumps(request_fields(gray, output_format="png"))


def unfinished(settings: Settings) -> list[str]:
    """The kinds of what is kept of jobs that are not done."""
    return sorted(path.suffix for path in settings.output_dir.glob("unfinished/*"))


def gray_of(response: httpx.Response) -> int:
    assert response.status_code == 200, response.text
    low, high = Image.open(io.BytesIO(base64.b64decode(response.json()["base64"]))).convert("L").getextrema()
    assert low == high
    return int(low)  # type: ignore[arg-type]


@dataclass
class GatedService:
    """A service whose network waits at `gate`."""

    client: httpx.AsyncClient
    service: Service
    resolver: Witness
    port: int

    async def post(self, gray: int, **headers: str) -> httpx.Response:
        headers = {"Content-Type": "application/json", **headers}
        return await self.client.post("/upscale", content=png_request(gray), headers=headers)

    async def queue(self) -> tuple[int, int]:
        queue = (await self.client.get("/health")).json()["queue"]
        return queue["running"], queue["waiting"]

    async def queue_is(self, running: int, waiting: int) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while await self.queue() != (running, waiting):
                pass

    async def send(self, gray: int) -> asyncio.StreamWriter:
        """A request on a connection of its own, which a test can close."""
        return (await send_raw(self.port, post(png_request(gray))))[1]

    async def submit(self, gray: int = 10) -> dict[str, Any]:
        response = await self.client.post("/upscale", json=request_fields(gray), headers=ASYNC)
        assert response.status_code == 202, response.text
        job: dict[str, Any] = response.json()
        return job

    async def job(self, job_id: str) -> dict[str, Any]:
        response = await self.client.get(f"/jobs/{job_id}")
        assert response.status_code == 200, response.text
        job: dict[str, Any] = response.json()
        return job

    async def job_is(self, job_id: str, status: str) -> dict[str, Any]:
        async with asyncio.timeout(HANG_SECONDS):
            while (job := await self.job(job_id))["status"] != status:
                assert not job["completed_at"], job
        return job

    async def follow(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """The events of a job, until the server ends them."""
        async with self.client.stream("GET", f"/jobs/{job_id}/events") as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            event = ""
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    job = orjson.loads(line.removeprefix("data: "))
                    assert job["status"] == event
                    yield job


@asynccontextmanager
async def gated_service(settings: Settings) -> AsyncIterator[GatedService]:
    resolver = Witness()
    async with serving(settings, lambda _: fake_models(resolver)) as (client, service):
        await started(service)
        resolver.seen.clear()  # of the warm-up
        service._admission.speeds.clear()  # on a busy machine it would be one at which requests are late
        resolver.gate.clear()
        try:
            yield GatedService(client, service, resolver, settings.port)
        finally:
            resolver.gate.set()
