"""Mutants of files and of requests: no 500, no hang, no growth of memory, no file left behind."""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import httpx
import pytest
from PIL import Image

from bench.server import Server
from core.config import MIB
from storage.result_store import UNFINISHED
from tests.helpers import HANG_SECONDS, b64, encode, wait_until
from tests.security.attack_files import STRIP
from tests.security.attacked_server import assert_unharmed, handles
from tests.security.mutations import corpus, mutated_file, mutated_request

SEED = 20261122
# What the allocators may keep of such requests beyond what they kept of the first ones; ten thousand leaks of 10 kB are more.
MEMORY_MARGIN_BYTES = 64 * MIB
CLIENTS = 4
TALKERS = 64  # most of them wait until the server has had enough of a body that does not come
_numbers = count(1)


def fuzz(clients: int, total: int, play: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(clients) as threads:
        for done in threads.map(play, range(total)):
            assert done is None


def valid_picture(client: httpx.Client) -> httpx.Response:
    """The response to one that nobody has asked for yet: what it takes is what pictures take here and now."""
    number = next(_numbers) % 256
    picture = STRIP.point(lambda value: value ^ number)
    response = client.post("/upscale", json={"image_b64": b64(encode(picture)), "target_resolution": "2k"})
    assert response.json()["cached"] is False
    return response


def mutant_images(server: Server, total: int, first: int = 0) -> set[Path]:
    """Post mutated pictures; returns the files that the responses name."""
    files = corpus(STRIP)
    kept: set[Path] = set()
    busy: list[int] = []  # one whose size was mutated may be predicted to be late behind those of the other clients

    def play(number: int) -> None:
        data = mutated_file(files[number % len(files)], random.Random(f"{SEED}-{first + number}"))  # noqa: S311
        body = {"image_b64": b64(data), "target_resolution": "2k", "enhance_faces": False}
        response = client.post("/upscale", json=body, headers={"X-Request-Timeout": f"{patience_seconds}"})
        assert response.status_code in (200, 400, 503, 504), (
            f"image {first + number}: {response.status_code} {response.text[:300]}"
        )
        if response.status_code == 200:
            kept.add(Path(response.json()["file_path"]))
        elif response.status_code == 503:
            assert response.json()["code"] == "queue_full"
            busy.append(number)

    with httpx.Client(base_url=server.url, timeout=HANG_SECONDS) as client:
        valid = valid_picture(client)
        kept.add(Path(valid.json()["file_path"]))
        patience_seconds = max(3.0, 20 * valid.elapsed.total_seconds())
        fuzz(CLIENTS, total, play)
    assert len(busy) <= total / 20, "so many tell nothing"
    return kept


def mutant_requests(server: Server, total: int, first: int = 0) -> None:
    fields = {"image_b64": b64(encode(STRIP)), "target_resolution": "2k", "enhance_faces": False}
    address = ("127.0.0.1", httpx.URL(server.url).port or 0)

    def play(number: int) -> None:
        request = mutated_request(fields, encode(STRIP), random.Random(f"{SEED}-{first + number}"))  # noqa: S311
        statuses, ended = converse(address, request)
        assert ended or statuses, f"request {first + number} got no response in {HANG_SECONDS} s"
        assert not {status for status in statuses if status.startswith(b"5")} - {b"501", b"503", b"504"}, (
            f"request {first + number}: {statuses}"
        )

    fuzz(TALKERS, total, play)


STATUS = re.compile(rb"(?:\A|\n|\}|\")HTTP/1\.[01] (\d{3}) ")
PROBE = b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


def converse(address: tuple[str, int], request: bytes) -> tuple[list[bytes], bool]:
    """Send a request and one after it; returns the statuses of all responses, and whether the server hung up."""
    received, deadline = bytearray(), time.monotonic() + HANG_SECONDS
    with socket.create_connection(address, timeout=HANG_SECONDS) as connection:
        try:
            connection.sendall(request + PROBE)
            while (left := deadline - time.monotonic()) > 0:
                connection.settimeout(min(left, 0.5) if STATUS.search(received) else left)
                if not (piece := connection.recv(1 << 20)):
                    return STATUS.findall(received), True
                received += piece
        except TimeoutError:
            pass
        except ConnectionError:  # it has heard enough
            return STATUS.findall(received), True
    return STATUS.findall(received), False


def run_mutants(server: Server, outputs: Path, image_count: int, request_count: int) -> None:
    """A tenth first, so that pools and caches are as full as they will be; then the rest must leave everything as it is."""
    mutant_images(server, image_count // 10)
    mutant_requests(server, request_count // 10)
    settle(server)
    known, before, handles_before = files(outputs), server.memory_bytes("VmRSS"), handles(server)
    kept = mutant_images(server, image_count - image_count // 10, image_count // 10)
    assert {path for path in files(outputs) - known if path.suffix != ".json"} <= kept, "no response names this file"
    mutant_requests(server, request_count - request_count // 10, request_count // 10)
    settle(server)
    growth = server.memory_bytes("VmRSS") - before
    assert growth < MEMORY_MARGIN_BYTES, f"{growth / MIB:.0f} MiB more"
    wait_until(lambda: handles(server) <= handles_before + CLIENTS)
    assert_whole(outputs)
    assert_unharmed(server)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if path.name != UNFINISHED}


def assert_whole(folder: Path) -> None:
    """Results, and what is known of them and of jobs; no file is half, and no job unfinished."""
    assert list(folder.glob(f"{UNFINISHED}/*.request")) == []
    for path in files(folder):
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        else:
            with Image.open(path) as image:
                image.load()


def settle(server: Server) -> None:
    """Wait until the work of those that hung up has ended."""
    wait_until(lambda: not (queue := server.health()["queue"])["running"] + queue["waiting"])


def test_hundreds_of_mutants_do_no_harm(server: Server, outputs: Path) -> None:
    run_mutants(server, outputs, 200, 200)


@pytest.mark.slow
def test_ten_thousand_mutants_do_no_harm(server: Server, outputs: Path) -> None:
    run_mutants(server, outputs, 5000, 5000)
