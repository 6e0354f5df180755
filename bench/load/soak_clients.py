"""The clients of the soak test: new and repeated requests, invalid ones, closed connections, and jobs that they cancel."""

from __future__ import annotations

import base64
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.load.command import HANG_SECONDS
from bench.load.goldens import GoldenPicture
from bench.server import Server
from core.config import MAX_BODY_BYTES, MIB

CLIENTS = 6  # two more than the server admits, so that some are refused
SEED = 20261122


@dataclass
class SoakClients:
    """`counts` tells what they did; `faults`, what should not have happened."""

    server: Server
    pictures: list[GoldenPicture]
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    _numbers: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311

    def burst(self) -> None:
        """More at once than ever later, so that every pool of threads reaches its size."""
        with ThreadPoolExecutor(10 * CLIENTS) as clients:
            for _ in range(20 * CLIENTS):
                clients.submit(httpx.post, f"{self.server.url}/upscale", json={"image_b64": "!" * MIB}, timeout=HANG_SECONDS)
                clients.submit(httpx.get, f"{self.server.url}/files/{'0' * 32}.jpg", timeout=HANG_SECONDS)

    def run(self, seconds: float) -> None:
        """Keep all clients busy for that time, then wait until the server is idle."""
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(CLIENTS) as clients:
            for done in [clients.submit(self._client, end, self._numbers.random()) for _ in range(CLIENTS)]:
                done.result()
        deadline = time.monotonic() + HANG_SECONDS
        while (queue := self.server.health()["queue"])["running"] + queue["waiting"]:
            if time.monotonic() > deadline:
                self.faults.append(f"the queue does not empty: {queue}")
                return
            time.sleep(0.1)
        time.sleep(1)  # for the server to notice that all have hung up

    def _client(self, end: float, seed: float) -> None:
        rng = random.Random(seed)  # noqa: S311
        actions = [self._send_new, self._repeat, self._send_invalid, self._hang_up, self._start_job]
        with httpx.Client(base_url=self.server.url, timeout=HANG_SECONDS) as client:
            while time.monotonic() < end:
                action = rng.choices(actions, weights=(8, 3, 3, 2, 2))[0]
                try:
                    action(client, rng)
                except httpx.HTTPError as exc:
                    self.faults.append(f"{action.__name__}: {exc!r}")

    def _new_request(self, rng: random.Random) -> dict[str, Any]:
        """Hardly ever the same as another, so that it costs its work."""
        return {
            "picture": rng.randrange(len(self.pictures)),
            "output_format": rng.choice(["jpeg", "png", "webp"]),
            "quality": rng.randint(1, 100),
            "face_strength": rng.random(),  # of faces that are not there
        }

    def _send(self, client: httpx.Client, request: dict[str, Any], **headers: str) -> httpx.Response:
        options = {name: request[name] for name in ("output_format", "quality", "face_strength")}
        image = base64.b64encode(self.pictures[request["picture"]].file).decode()
        return client.post("/upscale", json={"image_b64": image, "target_resolution": "2k", **options}, headers=headers)

    def _check(self, request: dict[str, Any], response: httpx.Response, kind: str) -> None:
        self.counts[f"{kind}: {response.status_code}"] += 1
        if response.status_code == 200:
            parsed = response.json()
            self.counts["cache hits"] += bool(parsed.get("cached"))
            self.compare(request, base64.b64decode(parsed["base64"]))
        elif response.status_code == 503 and response.json()["code"] == "queue_full":
            time.sleep(0.2)
        else:
            self.faults.append(f"{kind}: {response.status_code} {response.text[:200]}")

    def compare(self, request: dict[str, Any], data: bytes) -> None:
        """A single byte that differs from the golden result is a fault."""
        self.counts["compared with golden bytes"] += 1
        if data != self.pictures[request["picture"]].result(request["output_format"], request["quality"]):
            self.faults.append(f"wrong bytes: {request}")

    def _send_new(self, client: httpx.Client, rng: random.Random) -> None:
        request = self._new_request(rng)
        self._check(request, self._send(client, request), "new")
        self.sent.append(request)

    def _repeat(self, client: httpx.Client, rng: random.Random) -> None:
        if self.sent:
            request = rng.choice(self.sent[-50:])
            self._check(request, self._send(client, request), "repeated")

    def _send_invalid(self, client: httpx.Client, rng: random.Random) -> None:
        image = rng.choice(self.pictures).file
        truncated = base64.b64encode(image[: rng.randrange(len(image) // 2)]).decode()
        json = {"Content-Type": "application/json"}
        send: Callable[[], httpx.Response] = rng.choice(
            [
                lambda: client.post("/upscale", json={"image_b64": truncated}),
                lambda: client.post("/upscale", json={"image_b64": "!"}),
                lambda: client.post("/upscale", content=b"[" * 1000, headers=json),
                lambda: client.get("/files/" + "0" * 32 + ".jpg"),
                lambda: client.delete("/upscale"),
                lambda: client.post("/upscale", content=bytes(MAX_BODY_BYTES + 1), headers=json),
            ]
        )
        status = send().status_code
        self.counts[f"invalid: {status}"] += 1
        if status not in (400, 404, 405, 413, 503):  # a picture that is broken further on may find the queue full
            self.faults.append(f"invalid: {status}")

    def _hang_up(self, _: httpx.Client, rng: random.Random) -> None:
        image = base64.b64encode(rng.choice(self.pictures).file)
        body = b'{"target_resolution":"2k","face_strength":%f,"image_b64":"%s"}' % (rng.random(), image)
        head = b"POST /upscale HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        request = head % len(body) + body
        head_bytes = len(request) - len(body)
        with socket.create_connection(("127.0.0.1", httpx.URL(self.server.url).port or 80)) as connection:
            connection.sendall(request[: rng.choice([head_bytes, head_bytes + len(body) // 2, len(request)])])
            time.sleep(rng.random() / 2)
        self.counts["hung up"] += 1

    def _start_job(self, client: httpx.Client, rng: random.Random) -> None:
        request = self._new_request(rng)
        response = self._send(client, request, Prefer="respond-async")
        self.counts[f"job: {response.status_code}"] += 1
        if response.status_code != 202:
            return
        job = response.json()
        if rng.random() < 0.5:
            time.sleep(rng.random() / 4)
            client.post(job["urls"]["cancel"])
            self.counts["job cancelled"] += 1
            return
        deadline = time.monotonic() + HANG_SECONDS
        while job["status"] in ("starting", "processing"):
            if time.monotonic() > deadline:
                self.faults.append(f"job hangs: {job}")
                return
            time.sleep(0.1)
            job = client.get(job["urls"]["get"]).json()
        if job["status"] == "succeeded":
            self.compare(request, client.get(job["result"]["url"]).content)
        else:
            self.faults.append(f"job: {job}")
