"""A real server process, started as an operator starts it: for measurements, the demonstration and the end-to-end tests."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "samples" / "astronaut.jpg"
START_SECONDS = 300
POLL_SECONDS = 0.01
RESERVED_PORTS = 30

_reserved: deque[socket.socket] = deque()


@dataclass
class Server:
    """A running service; `process` is None where somebody else started it."""

    url: str
    process: subprocess.Popen[str] | None = None
    log: list[str] = field(default_factory=list)
    seconds_to_health: float = 0.0
    seconds_to_ready: float = 0.0
    seconds_of_health: list[float] = field(default_factory=list)  # each response of /health while the models loaded

    def post(self, image: bytes, **fields: Any) -> httpx.Response:
        """POST /upscale to 2k, unless `fields` say otherwise."""
        body = {"image_b64": base64.b64encode(image).decode(), "target_resolution": "2k", **fields}
        return httpx.post(f"{self.url}/upscale", json=body, timeout=600)

    def upscale(self, image: bytes, **fields: Any) -> dict[str, Any]:
        """The response's fields; raises RuntimeError where it is not a success."""
        response = self.post(image, **fields)
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {response.text}")
        parsed: dict[str, Any] = response.json()
        return parsed

    def exchange(self, path: str, body: bytes, **headers: str) -> tuple[HTTPResponse, bytes]:
        """POST over a connection of its own; the response's head, and its body as it came. `content_type=` is a header."""
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=600)
        with closing(connection):
            connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response, response.read()

    def memory_bytes(self, field: str) -> int:
        """`VmRSS`, what the process has in memory now, or `VmHWM`, the most that it had."""
        status = (self._proc / "status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) * 1024

    def forget_peak_memory(self) -> None:
        """Let `VmHWM` begin again at `VmRSS` (proc(5), clear_refs)."""
        (self._proc / "clear_refs").write_text("5")

    @property
    def _proc(self) -> Path:
        if self.process is None:
            raise ValueError("only the process of a server that was started here can be inspected")
        return Path(f"/proc/{self.process.pid}")

    def health(self) -> dict[str, Any]:
        """The body of GET /health."""
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        with closing(connection):
            connection.request("GET", "/health")
            parsed: dict[str, Any] = json.load(connection.getresponse())
        return parsed


@contextmanager
def running_server(outputs: Path, *, program: Sequence[str] = ("app.py",), **environment: str) -> Iterator[Server]:
    """`python app.py` on a free port of loopback, ready to serve; killed at the end."""
    port = free_port()
    settings = {"HOST": "127.0.0.1", "PORT": str(port), "OUTPUT_DIR": str(outputs)}
    environ = {**os.environ, **settings, **environment}
    command = [sys.executable, *program]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)  # noqa: S603
    server = Server(f"http://127.0.0.1:{port}", process)
    reader = threading.Thread(target=lambda: server.log.extend(process.stderr or ()))  # an unread pipe would block it
    reader.start()
    try:
        if not _becomes_ready(server, process):
            raise RuntimeError("the server did not get ready:\n" + "".join(server.log))
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        if process.stderr:
            process.stderr.close()


def _becomes_ready(server: Server, process: subprocess.Popen[str]) -> bool:
    start = time.monotonic()
    while time.monotonic() - start < START_SECONDS and process.poll() is None:
        asked = time.monotonic()
        try:
            status = server.health()["status"]
        except OSError:  # nobody listens yet
            time.sleep(POLL_SECONDS)
            continue
        now = time.monotonic()
        server.seconds_of_health.append(now - asked)
        server.seconds_to_health = server.seconds_to_health or now - start
        if status != "starting":
            server.seconds_to_ready = now - start
            return True
        time.sleep(POLL_SECONDS)
    return False


def free_port() -> int:
    """A port of loopback that nobody listens on, and that the kernel gives to nobody else before thirty more are asked for.

    A server binds it all the same: both sockets have SO_REUSEADDR, and this one does not listen.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    _reserved.append(reserved)
    if len(_reserved) > RESERVED_PORTS:
        _reserved.popleft().close()
    port: int = reserved.getsockname()[1]
    return port
