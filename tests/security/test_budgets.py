"""Memory and time that clients may take together: what is dropped is given back, and nobody waits behind a crowd."""

from __future__ import annotations

import asyncio
import base64
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image
from werkzeug.exceptions import RequestEntityTooLarge

from api.requests import RequestBody
from bench.server import Server, running_server
from core.budget import MemoryBudget, Room
from core.config import TARGET_PX, Settings
from imaging import encode as encode_module
from imaging.decode import decode_image
from schemas.json_body import LONG_BYTES, MAX_OTHER_BYTES, PIECE_BYTES
from schemas.request import IncomingRequest, image_text, read_fields
from serving import decoding
from serving.decoding import LANES, LARGE_PIXELS, MAX_WAITING
from tests.helpers import FAKE, HANG_SECONDS, assert_error, encode, send_raw, until
from tests.security.attacked_server import processor_seconds
from tests.serving.gated_service import ASYNC, GatedService, gated_service, gray_of, request_fields
from utility import IO_THREADS, IOExecutor, decode_base64

PNG = {"Content-Type": "image/png"}
LARGE = "/upscale?target_resolution=8k&fit=exact"
SMALL = encode(np.full((20, 20, 3), 10, np.uint8))


def png_of(side_px: int, mode: str = "RGB") -> bytes:
    """A black picture, which weighs little as a file: 59 million pixels in 57 KB."""
    return encode(Image.new(mode, (side_px, side_px)), compress_level=9)


# budgets


def test_room_is_given_back_by_who_drops_what_lies_in_it() -> None:
    budget = MemoryBudget(100)
    room, thing = Room(budget), type("Thing", (), {})()
    assert room.grow(60)
    assert not room.grow(60)
    assert not Room(budget).grow(41)
    assert room.resize(30)
    room.hold_for(thing)
    assert budget.held_bytes == 30
    del thing
    assert budget.held_bytes == 0


@pytest.mark.parametrize("piece_bytes", [2, 1000, 65_536, 500_000])
async def test_a_body_takes_little_more_than_its_bytes(piece_bytes: int) -> None:
    whole = bytes(range(256)) * 2000
    tracemalloc.start()
    try:
        body = RequestBody(None, len(whole))
        for start in range(0, len(whole), piece_bytes):
            body.append(whole[start : start + piece_bytes])
        assert (
            tracemalloc.get_traced_memory()[0] < len(whole) * 1.2
        )  # an object for each two bytes would take twenty times that
        body.set_complete()
        assert await body == whole
        assert tracemalloc.get_traced_memory()[0] < len(whole) / 20
    finally:
        tracemalloc.stop()


async def test_a_body_that_goes_on_beyond_its_limit_is_dropped() -> None:
    body = RequestBody(None, 10)
    body.append(b"1234567890")
    body.append(b"1")
    with pytest.raises(RequestEntityTooLarge):
        await body


async def test_who_leaves_before_a_thread_is_free_leaves_nothing_behind() -> None:
    threads, release = IOExecutor(), threading.Event()
    busy = [asyncio.create_task(threads.run(release.wait, HANG_SECONDS)) for _ in range(IO_THREADS)]
    bodies = [type("Body", (), {})()]
    seen = weakref.ref(bodies[0])
    waiting = asyncio.create_task(threads.run(id, bodies.pop()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    del waiting
    assert seen() is None
    release.set()
    await asyncio.gather(*busy)
    threads.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No picture is decoded before it is set."""
    gate = threading.Event()

    def decode(image: Any) -> Any:
        assert gate.wait(HANG_SECONDS)
        return decode_image(image)

    monkeypatch.setattr(decoding, "decode_image", decode)
    yield gate
    gate.set()


async def upload(
    h: GatedService, image: bytes, target: str = "/upscale?target_resolution=8k&fit=exact"
) -> asyncio.StreamWriter:
    """A request on a connection of its own, whose response nobody reads."""
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n"
    return (await send_raw(h.port, f"{head}Content-Type: image/png\r\n\r\n".encode() + image))[1]


async def test_bodies_of_clients_that_left_while_decoders_were_busy_are_forgotten(
    settings: Settings, gate: threading.Event
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1100, 3), np.uint8)
    image = encode(noise)  # some 4 MB
    async with gated_service(settings) as h:
        budget, waiting = h.service._decoder.budget, h.service._decoder
        clients = [await upload(h, image) for _ in range(LANES[False] + 10)]
        await until(lambda: waiting.waiting == 10)
        assert budget.held_bytes > 10 * len(image)
        for client in clients:
            client.close()
        await until(lambda: waiting.waiting == 0)
        assert budget.held_bytes <= LANES[False] * noise.size * 12 / 3  # threads cannot be stopped: what they have counts
        gate.set()
        await until(lambda: budget.held_bytes == 0)


async def test_a_picture_counts_until_its_result_is_made_and_its_body_does_not(settings: Settings) -> None:
    async with gated_service(settings) as h, asyncio.TaskGroup() as clients:
        waiting = [clients.create_task(h.post(gray)) for gray in (10, 20)]
        await h.queue_is(running=1, waiting=1)
        assert h.service._decoder.budget.held_bytes == 2 * 20 * 20 * 3
        h.resolver.gate.set()
        assert [gray_of(await response) for response in waiting] == [10, 20]
        await until(lambda: h.service._decoder.budget.held_bytes == 0)


async def test_pictures_that_take_too_much_memory_together_are_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gated_service(settings) as h:
        monkeypatch.setattr(h.service._decoder.budget, "limit_bytes", 300 * 300 * 12)
        query = "/upscale?target_resolution=2k"
        first = asyncio.create_task(h.client.post(query, content=png_of(290), headers=PNG))
        await h.queue_is(running=1, waiting=0)
        assert_error(await h.client.post(query, content=png_of(291), headers=PNG), 503, "queue_full")
        h.resolver.gate.set()
        assert (await first).status_code == 200
        assert (await h.client.post(query, content=png_of(291), headers=PNG)).status_code == 200


# waiting


async def test_of_a_crowd_of_large_pictures_few_wait_and_a_small_one_passes(settings: Settings, gate: threading.Event) -> None:
    image = png_of(TARGET_PX["8k"] - 1)
    async with gated_service(settings) as h, asyncio.TaskGroup() as requests:
        send = [h.client.post(LARGE, content=image, headers=PNG) for _ in range(20)]
        crowd = [requests.create_task(each) for each in send]
        refused = 20 - LANES[True] - MAX_WAITING[True]
        async with asyncio.timeout(HANG_SECONDS):
            for _, response in zip(range(refused), asyncio.as_completed(crowd), strict=False):
                assert_error(await response, 503, "queue_full")
        plan = await h.client.post("/plan?target_resolution=8k&fit=exact", content=image, headers=PNG)
        assert plan.status_code == 200  # its header tells all that a plan needs
        small = requests.create_task(h.client.post("/upscale?target_resolution=2k", content=SMALL, headers=PNG))
        await until(lambda: h.service._decoder._threads.locked())  # it is being decoded beside two large ones
        for request in crowd:
            request.cancel()
        gate.set()
        h.resolver.gate.set()
        assert (await small).status_code == 200


async def test_the_deadline_of_a_job_covers_the_wait_for_its_decoding(settings: Settings, gate: threading.Event) -> None:
    async with gated_service(settings) as h:
        headers = {**ASYNC, "X-Request-Timeout": "0.3"}
        assert_error(await h.client.post("/upscale", json=request_fields(), headers=headers), 504, "deadline_exceeded")
        put = await h.client.put("/jobs/12345678", json=request_fields(), headers=headers)
        assert_error(put, 504, "deadline_exceeded")
        gate.set()
        h.resolver.gate.set()
        assert (await h.client.put("/jobs/12345678", json=request_fields())).json()["status"] == "succeeded"


def test_a_picture_that_may_be_upscaled_may_be_decoded() -> None:
    assert TARGET_PX["8k"] ** 2 > LARGE_PIXELS
    assert TARGET_PX["8k"] ** 2 * 12 < decoding.MAX_BYTES / 2


# slow readers

QUERY = "/upscale?target_resolution=2k&output_format=png"


async def test_answers_that_nobody_reads_hold_no_memory(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        image = encode(np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8))
        clients = []
        tracemalloc.start()
        for quality in range(1, 25):
            clients.append(await upload(h, image, f"{QUERY}&quality={quality}"))
            await until(partial(made, settings.output_dir, quality))
        encoded = tracemalloc.Filter(inclusive=True, filename_pattern=encode_module.__file__)
        held = sum(each.size for each in tracemalloc.take_snapshot().filter_traces([encoded]).statistics("filename"))
        tracemalloc.stop()
        sizes = [path.stat().st_size for path in settings.output_dir.glob("*.png")]
        assert held < sum(sizes) / 5
        for client in clients:
            client.close()


def made(folder: Path, count: int) -> bool:
    return len(list(folder.glob("*.png"))) == count


# the interpreter's lock


HELD = {
    "four million parameters of a data URL": b"data:image/a" + b";a=a" * 3_900_000,
    "a letter beyond ASCII at the end": b"A" * 15_000_000 + " é".encode(),
    "a smile": b"A" * 9_000_000 + "😀".encode(),
    "letters beyond ASCII": "é".encode() * 8_000_000,
    "escapes": b"\\u0041" * 2_700_000,
    "escapes of nothing": b"\\u0000" * 2_700_000,
    "an escape that is none": b"\\q" * 4_000_000,
    "spaces": b" " * 16_000_000,
    "a character of another alphabet": b"A" * 9_000_000 + b"-",
    "padding": b"=" * 9_000_000,
    "escaped quotes": b'\\"' * 8_000_000,
    "backslashes": b"\\\\" * 8_000_000,
}
OTHERS = {
    "a field of megabytes": b'{"x":"' + b"y" * 16_000_000 + b'"}',
    "a name of megabytes": b'{"' + "ü".encode() * 8_000_000 + b'":1}',
    "a value of megabytes": b'{"image_b64":"AAAA","webhook":"http://' + b"a" * 16_000_000 + b'"}',
    "digits": b'{"quality":' + b"1" * 16_000_000 + b"}",
    "quotes": b'{"a":' * 3_000_000,
    "nested": b'{"x":' + b"[" * 16_000_000,
    "a list of strings": b'{"x":[' + b",".join([b'"' + b"a" * 1000 + b'"'] * 15_000) + b"]}",
}
PART = b"--b\r\nContent-Disposition: form-data; name="
FORMS = {
    "parts": (PART + b"x\r\n\r\ny\r\n") * 150_000,
    "parts with long heads": (PART + b"x" + b"; a*0=b" * 1000 + b"\r\n\r\ny\r\n") * 1000,
    "headers": b"--b\r\n" + b"A: b\r\n" * 1_300_000,
    "a header": PART + b"a" * 8_000_000,
    "a quoted name": PART + b'"' + b'\\"' * 4_000_000,
    "lines before the first part": b"\r\n--" * 2_000_000,
    "lines behind the last part": PART + b"x\r\n\r\ny\r\n--b--" + b"\r\n--b" * 1_500_000,
    "lines in a part": PART + b"image\r\n\r\n" + b"\r\n" * 4_000_000,
    "what is nearly a boundary": PART + b"image\r\n\r\n" + b"x--b\r\n--" * 900_000,
    "spaces behind a boundary": PART + b"image\r\n\r\n" + (b"\r\n--b" + b" " * 16_000) * 500,
}


@pytest.fixture(scope="module")
def lone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("outputs"), program=FAKE) as running:
        yield running


@pytest.mark.parametrize("case", [*HELD, *OTHERS, *FORMS])
def test_megabytes_of_nonsense_cost_next_to_nothing(lone_server: Server, case: str) -> None:
    body = {**OTHERS, **FORMS}[case] if case not in HELD else b'{"image_b64":"' + HELD[case] + b'"}'
    kind = "multipart/form-data; boundary=b" if case in FORMS else "application/json"
    before = processor_seconds(lone_server)
    response = httpx.post(f"{lone_server.url}/upscale", content=body, headers={"Content-Type": kind}, timeout=60)
    assert response.status_code == 400, response.text
    assert len(response.content) < 1000
    assert processor_seconds(lone_server) - before < 0.8  # in which 16 MB come in, are copied and looked through


NOISE = encode(np.random.default_rng(1).integers(0, 256, (700, 700, 3), np.uint8))  # 1.5 MB, in 2 MB of base64


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text,
        lambda text: text.replace("/", r"\/"),  # as PHP writes it
        lambda text: text.replace("=", r"\u003d").replace("+", r"\u002b").replace("/", r"\u002F"),  # as Gson does
        lambda text: r"\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: "data:image/png;base64," + text,
        lambda text: "".join(rf"\u{ord(each):04x}" for each in text[: 2 * PIECE_BYTES]) + text[2 * PIECE_BYTES :],
        lambda text: " " * PIECE_BYTES + text + r"\t" * PIECE_BYTES,
    ],
)
def test_a_long_string_is_what_json_says_that_it_is(written: Any) -> None:
    text = written(base64.b64encode(NOISE).decode())
    assert len(text) > MAX_OTHER_BYTES > LONG_BYTES
    for x in ('\\"', "\\" * 3000 + '"', '"' * 90_000):
        before, after = f'"x": {orjson.dumps(x).decode()}, ', f', "y": "{"y" * 100_000}", "quality": 90'
        given = read_fields(IncomingRequest(f'{{{before}"image_b64": "{text}"{after}}}'.encode()))
        assert decode_base64(image_text(given)) == NOISE
        assert given["quality"] == 90
        assert len(x) > LONG_BYTES or given["x"] == x
