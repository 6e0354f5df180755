"""The log: one line a record, one line a request, the request's id on every line, nothing secret, nothing forged."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import threading
import tomllib
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from bench.server import ROOT
from core.config import MIB, Settings
from core.logs import OURS, LineFormatter, Values, begin_request, current_request, in_this_context
from core.progress import Progress
from tests.helpers import FakeResolver, b64, encode, fake_models, post, ready, sample_crop, send_raw, serving, until

IMAGE = b64(encode(sample_crop(60, 40)))


def line_of(message: object, *, as_json: bool = False, **rest: Any) -> str:
    """A record as it would be written."""
    record = logging.LogRecord("name", logging.INFO, __file__, 1, message, rest.get("args", ()), rest.get("exc_info"))
    return LineFormatter(as_json=as_json).format(record)


@dataclass
class Log:
    """The records of the service in this process, as it would write them."""

    caplog: pytest.LogCaptureFixture

    @property
    def lines(self) -> list[dict[str, Any]]:
        written = (json.loads(line) for line in self.caplog.text.splitlines())
        return [line for line in written if not line["message"].startswith("HTTP Request: ")]  # of the tests' own client

    def requests(self, path: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if (line["message"], line.get("path")) == ("request", path)]

    async def request(self, path: str) -> dict[str, Any]:
        """The one line of the one request to this path, which is written when its response has been."""
        await until(lambda: bool(self.requests(path)))
        (line,) = self.requests(path)
        return line


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    caplog.set_level(logging.INFO)
    caplog.handler.setFormatter(LineFormatter(as_json=True))
    return Log(caplog)


# one record, one line


def test_a_text_line_has_plain_values_bare_and_others_quoted() -> None:
    line = line_of(Values(path="/files/<name>", passes=[4, 2], cached=False, code="", error='say "no", 480×300'))
    assert re.fullmatch(
        r'time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=INFO path=/files/<name> passes=4,2 cached=false code="" '
        r'error="say \\"no\\", 480×300"',
        line,
    )


def test_a_json_line_keeps_the_types() -> None:
    line = json.loads(line_of(Values(status=200, passes=[4, 2], cached=False), as_json=True))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "INFO", "status": 200, "passes": [4, 2], "cached": False}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("separator", ["\n", "\r", "\x0b", "\x85", "\u2028", "\x1b[2K"])
def test_no_message_can_forge_a_line(separator: str, as_json: bool) -> None:
    forged = f"harmless{separator}time=now level=INFO message=forged"
    for line in (line_of(forged, as_json=as_json), line_of(Values(error=forged), as_json=as_json)):
        assert len(line.splitlines()) == 1
        assert separator not in line


@pytest.mark.parametrize("as_json", [False, True])
def test_a_traceback_stays_in_the_line_of_its_record(as_json: bool) -> None:
    try:
        raise RuntimeError("first\nsecond")
    except RuntimeError:
        line = line_of("it %s", as_json=as_json, args=("failed",), exc_info=sys.exc_info())
    assert "\n" not in line
    assert "Traceback (most recent call last):\\n" in line
    assert "it failed" in line


@pytest.mark.parametrize(
    ("quoted", "kept"),
    [
        ("invalid literal for int() with base 10: 'the \\'secret'", "invalid literal for int() with base 10: '…'"),
        ("can't open b'the secret', or \"the secret\"", "can't open '…', or '…'"),
        ("CUDA error: unspecified launch failure", "CUDA error: unspecified launch failure"),
    ],
)
async def test_what_an_exception_quotes_in_the_work_for_a_request_is_left_out(quoted: str, kept: str) -> None:
    def line(name: str) -> str:
        try:
            raise RuntimeError(quoted)
        except RuntimeError:
            record = logging.LogRecord(name, logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())
        exception: str = json.loads(LineFormatter(as_json=True).format(record))["exception"]
        return exception

    assert quoted in line("serving.jobs"), "at the start, it is what the operator has set"
    assert f"RuntimeError: {kept}" in line("asyncio")
    begin_request("of-the-test")
    assert f"RuntimeError: {kept}" in line("serving.jobs")
    assert f'File "{__file__}"' in line("serving.jobs")


def test_of_libraries_nothing_below_a_warning_is_heard() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["root_packages"]
    assert {*packages, "__main__"} - {"cli", "command"} == OURS
    loud = """
import logging
from core.logs import configure_logging

configure_logging("DEBUG", "text")
for name in ("__main__", "serving.jobs", "httpcore", "hpack.hpack", "PIL", "library.of.tomorrow"):
    logging.getLogger(name).debug("at DEBUG, by %s", name)
    logging.getLogger(name).warning("at WARNING, by %s", name)
"""
    heard = subprocess.run([sys.executable, "-c", loud], cwd=ROOT, capture_output=True, text=True, check=True).stderr  # noqa: S603
    assert [line.rpartition(" ")[2].rstrip('"') for line in heard.splitlines() if "at DEBUG" in line] == [
        "__main__",
        "serving.jobs",
    ]
    assert heard.count("at WARNING") == 6


async def test_work_for_another_thread_belongs_to_the_request_that_gave_it() -> None:
    begin_request("of-the-test")
    work = in_this_context(lambda: current_request().request_id)
    begin_request("of-another")
    assert await asyncio.get_running_loop().run_in_executor(None, work) == "of-the-test"


# one request, one line


async def test_an_upscale_is_one_line_with_what_was_done(client: httpx.AsyncClient, log: Log) -> None:
    body = json.dumps({"image_b64": IMAGE, "target_resolution": "2k", "output_format": "png"}).encode()
    response = await client.post("/upscale", content=body, headers={"Content-Type": "application/json"})
    line = await log.request("/upscale")
    assert line.pop("time")
    seconds = line.pop("seconds")
    assert 0 <= line.pop("queue_seconds") <= seconds
    assert 0 <= line.pop("device_seconds") <= seconds
    assert line == {
        "level": "INFO",
        "request_id": response.json()["request_id"],
        "message": "request",
        "method": "POST",
        "path": "/upscale",
        "status": 200,
        "code": "",
        "bytes_in": len(body),
        "bytes_out": len(response.content),
        "original": "60x40",
        "upscaled": "1920x1280",
        "format": "png",
        "passes": [4, 4, 2],
        "faces": 0,
        "cached": False,
    }


async def test_every_outcome_is_one_line(client: httpx.AsyncClient, log: Log) -> None:
    await client.post("/upscale", json={"image_b64": "?"})
    line = await log.request("/upscale")
    assert (line["status"], line["code"]) == (400, "invalid_base64")
    await client.post("/upscale", json={"image_b64": IMAGE, "quality": 0})
    await until(lambda: len(log.requests("/upscale")) == 2)
    line = log.requests("/upscale")[1]
    assert (line["status"], line["code"], line["field"]) == (400, "out_of_range", "quality")
    await client.get("/nothing%0Ahere?key=in-a-query")
    line = await log.request("unknown")
    assert (line["status"], line["code"], line["method"]) == (404, "not_found", "GET")
    await client.put("/health")
    await until(lambda: [line["status"] for line in log.requests("unknown")].count(405) == 1)
    await client.get(f"/files/{'0' * 32}.png")
    line = await log.request("/files/<name>")
    assert (line["status"], line["code"]) == (404, "not_found")
    assert "in-a-query" not in str(log.lines)
    assert "0" * 32 not in str(log.lines)


async def test_a_defect_is_one_line_with_its_traceback_and_one_of_its_request(settings: Settings, log: Log) -> None:
    resolver = FakeResolver()
    async with serving(settings, lambda _: fake_models(resolver)) as (client, _):
        await ready(client)
        resolver.error = RuntimeError("the secret of the house")
        request_id = (await client.post("/upscale", json={"image_b64": IMAGE})).json()["request_id"]
        line = await log.request("/upscale")
    assert (line["status"], line["code"]) == (500, "internal_error")
    (defect,) = [line for line in log.lines if line["level"] == "ERROR"]
    assert defect["request_id"] == request_id
    assert "the secret of the house" in defect["exception"]


async def test_a_client_that_leaves_is_one_line(settings: Settings, log: Log) -> None:
    resolver = FakeResolver()
    async with serving(settings, lambda _: fake_models(resolver)) as (client, _):
        await ready(client)
        resolver.gate.clear()
        resolver.entered.clear()
        _, writer = await send_raw(settings.port, post(json.dumps({"image_b64": IMAGE}).encode()))
        await until(resolver.entered.is_set)
        writer.close()
        line = await log.request("/upscale")
        resolver.gate.set()
    assert (line["status"], line["code"], line["bytes_out"]) == (499, "client_gone", 0)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the framework leaves the file to the collector
async def test_a_client_that_takes_nothing_more_is_one_line(settings: Settings, log: Log) -> None:
    settings.output_dir.mkdir()
    with (settings.output_dir / f"{'0' * 32}.png").open("wb") as file:
        file.truncate(50 * MIB)
    async with serving(settings, lambda _: fake_models(), stall_seconds=0.5) as (client, _):
        await ready(client)
        _, writer = await send_raw(settings.port, f"GET /files/{'0' * 32}.png HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        line = await log.request("/files/<name>")
    writer.close()
    assert (line["status"], line["code"]) == (200, "client_gone")
    assert 0 < line["bytes_out"] < 50 * MIB
    assert [line for line in log.lines if line["level"] in ("WARNING", "ERROR") or "exception" in line] == []


async def test_other_errors_of_the_event_loop_are_logged_as_ever(client: httpx.AsyncClient, log: Log) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "a task failed", "exception": OSError("of a disk")})
    assert [line["message"] for line in log.lines if line["level"] == "ERROR"] == ["a task failed"]


# its id


@pytest.mark.parametrize("request_id", ["7", "a.B-c_9", "x" * 128])
async def test_a_clients_own_request_id_is_taken(client: httpx.AsyncClient, log: Log, request_id: str) -> None:
    response = await client.post("/upscale", json={"image_b64": "?"}, headers={"X-Request-ID": request_id})
    assert response.headers.get_list("x-request-id") == [response.json()["request_id"]] == [request_id]
    assert (await log.request("/upscale"))["request_id"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 129, "two words", "a/b", '"', "é", "a\tb"])
async def test_an_unfit_request_id_is_replaced(client: httpx.AsyncClient, request_id: str) -> None:
    response = await client.get("/health", headers={b"X-Request-ID": request_id.encode("latin-1")})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


@dataclass
class TalkingResolver(FakeResolver):
    """Logs from the device's thread."""

    def super_resolve(self, image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
        logging.getLogger("network").info("pass in %s", threading.current_thread().name)
        return super().super_resolve(image, scale, progress)


async def test_lines_from_the_devices_thread_carry_the_id_of_their_request(settings: Settings, log: Log) -> None:
    async with serving(settings, lambda _: fake_models(TalkingResolver())) as (client, _):
        await ready(client)
        for request_id, strength in (("first", 0.1), ("second", 0.2)):  # the same would not be made twice
            order = {"image_b64": IMAGE, "target_resolution": "2k", "face_strength": strength}
            await client.post("/upscale", json=order, headers={"X-Request-ID": request_id})
    passes = [line.get("request_id") for line in log.lines if line["message"].startswith("pass in device")]
    assert passes[-6:] == 3 * ["first"] + 3 * ["second"]
    assert set(passes[:-6]) == {None}  # the warm-up belongs to nobody


async def test_lines_from_an_io_thread_carry_the_id_of_their_request(settings: Settings, log: Log) -> None:
    async with serving(settings, lambda _: fake_models()) as (client, service):
        await ready(client)
        begin_request("of-the-test")
        await service.io.run(logging.getLogger("io").info, "from an io thread")
    (line,) = [line for line in log.lines if line["message"] == "from an io thread"]
    assert line["request_id"] == "of-the-test"


async def test_every_response_says_how_long_it_took(client: httpx.AsyncClient) -> None:
    for response in (
        await client.get("/health"),
        await client.get("/nothing"),
        await client.post("/upscale", json={"image_b64": IMAGE}),
    ):
        assert 0 < float(response.headers["x-process-time"]) <= response.elapsed.total_seconds() + 0.001
