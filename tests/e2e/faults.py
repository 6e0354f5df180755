"""What the tests of faults share: new pictures, a registry with moods, mounts."""

from __future__ import annotations

import base64
import contextlib
import shutil
import socketserver
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

from bench.server import Server
from core.progress import NullProgress
from imaging.encode import encode_image
from model_utility import Models
from schemas.params import UpscaleParams
from schemas.plan import Size, plan_upscale
from tests.helpers import HANG_SECONDS, decode, encode, sample_crop
from upscale import Upscaler

_numbers = count()


def new_picture() -> bytes:
    """A picture that nobody has asked for, so that no cache has its response: one 2× pass of a thousand pixels."""
    return encode(np.tile(sample_crop(260, 2, left=next(_numbers) % 200, top=next(_numbers) % 290), (1, 2, 1)))


FRAGILE = ("-m", "tests.e2e.fragile_server")  # a program for `running_server`
Check = Callable[..., dict[str, Any]]


def assert_kept(response: dict[str, Any]) -> None:
    assert Path(response["file_path"]).read_bytes() == base64.b64decode(response["base64"])


def assert_not_kept(response: dict[str, Any]) -> None:
    assert response["file_path"] == ""
    assert "could not keep the file" in response["warnings"][-1]


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
        while self.handled.get(timeout=HANG_SECONDS) != mood:
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


def mounts(*arguments: str) -> bool:
    command = [shutil.which("mount") or "mount", *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


def golden_bytes(models: Models, image: bytes) -> bytes:
    """A response's result, by the pipeline itself, in this process."""
    picture, _ = decode(image)
    plan = plan_upscale(Size(picture.width, picture.height), "2k")
    return encode_image(Upscaler(models).run(picture, plan, UpscaleParams(), NullProgress()).picture, "jpeg", 95)[0]


def checked_by(golden: Callable[[bytes], bytes]) -> Check:
    """A check whose right bytes are `golden`'s."""

    def check(server: Server, image: bytes = b"") -> dict[str, Any]:
        image = image or new_picture()
        response = server.upscale(image)
        assert base64.b64decode(response["base64"]) == golden(image)
        return response

    return check
