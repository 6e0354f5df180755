"""What the image runs, as the first process of its own process namespace, as in a container."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
from PIL import Image

from bench.server import ROOT, SAMPLE, free_port
from tests.helpers import FAKE, HANG_SECONDS, SMALL_SERVER, wait_until

START: list[str] = json.loads(re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0])
SERVICE = START[-2:]
AS_FIRST = ["unshare", "--pid", "--fork", "--kill-child"]
HOOKS = """
import hashlib, pathlib, time

hash_file = hashlib.file_digest

def file_digest(*args):
    folder = pathlib.Path(__file__).parent
    (folder / "held").touch()
    while (folder / "hold").exists():
        time.sleep(0.05)
    return hash_file(*args)

hashlib.file_digest = file_digest
"""

pytestmark = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*AS_FIRST, "true"], capture_output=True, check=False).returncode != 0,  # noqa: S603
    reason="only root may make a process namespace",
)


class First:
    """A process that has the id 1 where it lives; it may download nothing."""

    def __init__(self, command: Sequence[str], log: Path, environ: dict[str, str], cgroup: Path | None = None) -> None:
        self.port = free_port()
        offline = {"WEIGHTS_MIRROR": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
        settings = {
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "OUTPUT_DIR": str(log.parent / "outputs"),
            "PIP_FIND_LINKS": "",
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._log = log
        with log.open("w") as out:
            self._unshare = subprocess.Popen(  # noqa: S603
                [*AS_FIRST, *command],
                cwd=ROOT,
                env={**os.environ, **SMALL_SERVER, **offline, **settings, "PATH": path, **environ},
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=partial((cgroup / "cgroup.procs").write_text, "0") if cgroup else None,
            )
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        wait_until(lambda: bool(children.read_text()))
        self.proc = Path("/proc", children.read_text().strip())
        wait_until(lambda: (self.proc / "comm").read_text().startswith("python"))  # which handles no signal yet

    def send(self, number: signal.Signals = signal.SIGTERM) -> None:
        os.kill(int(self.proc.name), number)

    def said(self) -> str:
        return self._log.read_text()

    def is_running(self) -> bool:
        return self._unshare.poll() is None

    def end(self) -> tuple[int, str]:
        """Its exit status and all that it said, once it has ended."""
        return self._unshare.wait(HANG_SECONDS), self.said()

    def kill(self) -> None:
        self._unshare.kill()
        self._unshare.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., First]]:
    started: list[First] = []

    def starter(*command: str, cgroup: Path | None = None, **environ: str) -> First:
        started.append(First(command or START, tmp_path / "log", environ, cgroup))
        return started[-1]

    yield starter
    for first in started:
        first.kill()


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A folder that, as PYTHONPATH, holds whoever hashes a file up, for ever."""
    (tmp_path / "sitecustomize.py").write_text(HOOKS)
    (tmp_path / "hold").touch()
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.1, 0.3, 0.6, 1.0, 2.0])
def test_a_stop_at_any_time_of_the_start_is_heard(start: Callable[..., First], seconds: float, number: signal.Signals) -> None:
    first = start()
    time.sleep(seconds)
    first.send(number)
    status, said = first.end()
    assert status in (0, 128 + number), said
    assert "Traceback" not in said


def test_a_stop_while_the_weights_are_checked_ends_it(start: Callable[..., First], held: Path) -> None:
    first = start(PYTHONPATH=str(held))
    first.send()
    status, said = first.end()
    assert (status, said) == (143, "Stopped. Nothing half-written is left behind.\n")


def test_a_stop_while_the_models_load_does_not_wait_for_them(start: Callable[..., First], held: Path) -> None:
    first = start(*SERVICE, PYTHONPATH=str(held))
    wait_until((held / "held").exists)
    first.send()
    status, said = first.end()
    assert status == 0, said
    assert "SIGTERM: finishing what runs" in said


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(start: Callable[..., First], second: signal.Signals) -> None:
    first = start(*SERVICE)
    with closing(_unfinished_request(first)):
        first.send()
        wait_until(lambda: "SIGTERM: finishing what runs" in first.said())
        time.sleep(1)
        assert first.is_running()
        first.send(second)
        assert first.end()[0] == 128 + second


def _unfinished_request(first: First, key: str = "") -> socket.socket:
    """A connection whose request the drain waits for."""
    client = socket.socket()
    client.settimeout(HANG_SECONDS)
    wait_until(lambda: client.connect_ex(("127.0.0.1", first.port)) == 0)
    head = [
        "POST /upscale HTTP/1.1",
        "Host: test",
        "Content-Type: application/json",
        "Content-Length: 100",
        f"X-API-Key: {key}",
    ]
    client.sendall("\r\n".join([*head, "Expect: 100-continue", "", ""]).encode())
    assert client.recv(100).startswith(b"HTTP/1.1 100 ")  # it has been taken in
    return client


@pytest.mark.parametrize("key", ["", "secret"])
def test_the_log_ends_with_the_address_and_a_command_that_works(start: Callable[..., First], tmp_path: Path, key: str) -> None:
    first = start("python", *FAKE, API_KEY=key)
    wait_until(lambda: "photo.jpg" in first.said())
    steps = first.said().splitlines()[-1]
    assert f"open http://localhost:{first.port}/ (port {first.port} of the container: take the one" in steps
    (command,) = re.findall(r"curl .*larger\.jpg", steps)
    shutil.copy(SAMPLE, tmp_path / "photo.jpg")
    subprocess.run(["sh", "-c", command.replace("KEY", key)], cwd=tmp_path, check=True)  # noqa: S603, S607
    with Image.open(tmp_path / "larger.jpg") as larger:
        assert (larger.format, larger.size) == ("JPEG", (1920, 1200))


def _status(first: First, key: str = "") -> int:
    """Of a request that needs a key; 0 while nobody listens."""
    connection = HTTPConnection("127.0.0.1", first.port, timeout=HANG_SECONDS)
    with closing(connection), suppress(ConnectionError):
        connection.request("GET", "/files/none", headers={"X-API-Key": key})
        return connection.getresponse().status
    return 0


def test_sighup_has_the_keys_read_again_and_a_file_without_any_changes_nothing(
    start: Callable[..., First], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first-key\n")
    first = start("python", "-m", "tests.scale.sleeping_server", API_KEY_FILE=str(keys))
    wait_until(lambda: "ready after" in first.said())
    keys.write_text("second-key\nthird-key\n")
    assert _status(first, "second-key") == 401
    with closing(_unfinished_request(first, "first-key")) as begun:
        assert _status(first, "first-key") == 404  # by now the key of the other has been checked, too
        first.send(signal.SIGHUP)
        wait_until(lambda: _status(first, "second-key") == 404)
        assert _status(first, "first-key") == 401
        begun.sendall(b"x" * 100)
        assert begun.recv(12) == b"HTTP/1.1 400"  # it goes on, and is no JSON
    for broken in ("", "with spaces in it\n"):
        before = first.said().count("the keys stay as they were")
        keys.write_text(broken)
        first.send(signal.SIGHUP)
        wait_until(lambda before=before: first.said().count("the keys stay as they were") > before)  # type: ignore[misc]
    keys.unlink()
    first.send(signal.SIGHUP)
    wait_until(lambda: "No such file" in first.said())
    assert (_status(first, "third-key"), _status(first)) == (404, 401)
    assert "keys: 2" in first.said()
    assert "-key" not in first.said()
    assert "spaces in it" not in first.said()


def test_sighup_at_once_waits_for_the_service(start: Callable[..., First]) -> None:
    first = start()
    first.send(signal.SIGHUP)
    _comes_to_sighup(first)


def test_sighup_while_the_weights_are_checked_waits_for_the_service(start: Callable[..., First], held: Path) -> None:
    first = start(*START[START.index("python") :], PYTHONPATH=str(held))
    wait_until((held / "held").exists)
    first.send(signal.SIGHUP)
    (held / "hold").unlink()
    _comes_to_sighup(first)


def _comes_to_sighup(first: First) -> None:
    wait_until(lambda: "SIGHUP: no API_KEY_FILE to read again" in first.said() or not first.is_running())
    wait_until(lambda: _status(first) == 404)


def test_it_ends_as_the_service_does(start: Callable[..., First], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        status, said = start(PORT=str(occupant.getsockname()[1])).end()
    assert status == 1
    assert "Address already in use" in said


@pytest.mark.parametrize(("name", "value"), [("PORT", "http"), ("DRAIN_SECONDS", "soon"), ("WEIGHTS_MIRROR", "ftp://mirror")])
def test_a_wrong_setting_is_named_and_ends_it_with_2(start: Callable[..., First], name: str, value: str) -> None:
    status, said = start(**{name: value}).end()
    assert status == 2
    assert said.startswith(f"{name} must be ")
    assert said.count("\n") == 1


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup whose memory is 512 MiB."""
    root = Path("/sys/fs/cgroup")
    name = f"upscale-test-{os.getpid()}"
    folder, limit = (
        (root / name, "memory.max")
        if (root / "cgroup.controllers").exists()
        else (root / "memory" / name, "memory.limit_in_bytes")
    )
    try:
        folder.mkdir()
        (folder / limit).write_text(str(512 * 1024**2))
    except OSError as exc:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no cgroup can be made: {exc}")
    yield folder
    wait_until(lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()


@pytest.mark.parametrize("command", [START, SERVICE])
def test_too_little_memory_is_a_sentence_and_not_a_kill(
    start: Callable[..., First], small_cgroup: Path, command: list[str]
) -> None:
    status, said = start(*command, cgroup=small_cgroup).end()
    assert status == 1
    assert said.count("\n") == 1
    assert re.search(r"memory limit .* is 512 MiB, and .* the service needs at least \d{4} MiB", said)
