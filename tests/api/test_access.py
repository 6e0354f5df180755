"""Who may come in: keys, pages of other origins, what browsers are told. Over a real socket."""

from __future__ import annotations

import base64
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.access import MAX_KEYS_BYTES, Access
from bench.server import ROOT, free_port, running_server
from core.config import ConfigError, Settings
from tests.helpers import (
    FAKE,
    HANG_SECONDS,
    assert_error,
    b64,
    encode,
    fake_models,
    ready,
    sample_crop,
    send_raw,
    serving,
    with_settings,
)

KEY, OTHER = "first-key", "second:key"
ORIGIN = "https://page.example"
BODY = {"image_b64": b64(encode(sample_crop(60, 40))), "target_resolution": "2k"}


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@asynccontextmanager
async def guarded(settings: Settings, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(with_settings(settings, **{"api_key": f"{KEY}, {OTHER}", **changes}), lambda _: fake_models()) as (
        client,
        _,
    ):
        await ready(client)
        yield client


@pytest.mark.parametrize("key", [KEY, OTHER])
@pytest.mark.parametrize(
    "header",
    [
        lambda key: {"Authorization": f"Bearer {key}"},
        lambda key: {"X-API-Key": key},
        lambda key: {"Authorization": basic("anybody", key)},
    ],
)
async def test_each_key_opens_in_each_way(settings: Settings, header: Callable[[str], dict[str, str]], key: str) -> None:
    async with guarded(settings) as client:
        assert (await client.post("/upscale", json=BODY, headers=header(key))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer"},
        {"Authorization": KEY},
        {"Authorization": f"Digest {KEY}"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic \xe9"},
        {"Authorization": "Basic AAAA"},
        {"Authorization": "Basic /////w=="},
        {"Authorization": basic(KEY, "")},
        {"Authorization": basic("", f"{KEY}, {OTHER}")},
        {"X-API-Key": ""},
        {"X-API-Key": f"{KEY},{OTHER}"},
        {"X-API-Key": "\xe9\xff"},
    ],
)
async def test_no_key_or_a_wrong_one_answers_401_everywhere_but_for_health(
    settings: Settings, headers: dict[str, str]
) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    async with guarded(settings) as client:
        for method, path in (
            *(("POST", "/upscale"), ("GET", f"/files/{'0' * 32}.png"), ("GET", "/nothing"), ("PUT", "/health")),
            *(("GET", "/jobs/12345678"), ("OPTIONS", "/upscale"), ("GET", "/health/"), ("GET", "//health")),
        ):
            response = await client.request(method, path, headers={k.encode(): v for k, v in sent.items()})
            if path != "/health":
                assert_error(response, 401, "unauthorized")
                assert response.headers["www-authenticate"] == 'Basic realm="upscale", charset="UTF-8"'
        assert (await client.get("/health")).status_code == 200


async def test_401_comes_before_the_body(settings: Settings) -> None:
    async with guarded(settings):
        reader, writer = await send_raw(
            settings.port,
            b"POST /upscale HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n{",
        )
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in head.lower()


async def test_without_a_key_configured_anybody_is_served(client: httpx.AsyncClient) -> None:
    assert (await client.post("/upscale", json=BODY)).status_code == 200


def test_keys_come_from_a_file_too(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"\n {KEY} \r\n{OTHER}\n")
    access = Access(with_settings(settings, api_key="third", api_key_file=str(file)))
    assert [access.admits("/upscale", [key]) for key in (KEY, OTHER, "third", "fourth", "")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"api_key": ","}, "API_KEY must hold at least one key"),
        ({"api_key": "zwei-schlüssel"}, "printable ASCII"),
        ({"api_key": "two words"}, "printable ASCII"),
        ({"api_key_file": "empty"}, "must hold at least one key"),
        ({"api_key_file": "missing"}, "No such file"),
        ({"api_key_file": "binary"}, "not UTF-8"),
        ({"api_key_file": "."}, "no regular file"),
        ({"api_key_file": "pipe"}, "no regular file"),
        ({"api_key_file": "long"}, "too large"),
        ({"cors_origins": "page.example"}, "'page.example'"),
        ({"cors_origins": "https://page.example/"}, "'https://page.example/'"),
    ],
)
def test_what_would_leave_it_open_or_useless_is_refused_at_the_start(
    settings: Settings, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "long").write_text("k" * (MAX_KEYS_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    if "api_key_file" in changes:
        changes = {"api_key_file": str(tmp_path / changes["api_key_file"])}
    with pytest.raises(ConfigError) as caught:
        Access(with_settings(settings, **changes))
    assert message in str(caught.value)
    assert "schlüssel" not in str(caught.value)
    assert "two words" not in str(caught.value)


def test_an_empty_file_of_keys_ends_the_process_with_2(tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    environment = {**os.environ, "API_KEY_FILE": str(tmp_path / "keys")}
    ended = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert ended.returncode == 2
    assert "must hold at least one key" in ended.stderr.splitlines()[-1]


# pages of other origins


async def test_without_cors_no_page_of_another_origin_is_told_anything(client: httpx.AsyncClient) -> None:
    response = await client.get("/health", headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_an_origin_that_is_named_may_ask_see_responses_and_errors(settings: Settings) -> None:
    async with guarded(settings, cors_origins=f"{ORIGIN},http://localhost:3000") as client:
        wish = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
        preflight = await client.options("/upscale", headers=wish)
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "X-API-Key" in preflight.headers["access-control-allow-headers"]
        served = await client.post("/upscale", json=BODY, headers={"Origin": ORIGIN, "X-API-Key": KEY})
        refused = await client.post("/upscale", json=BODY, headers={"Origin": ORIGIN})
        assert (served.status_code, refused.status_code) == (200, 401)
        for response in (preflight, served, refused):
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert response.headers["access-control-allow-credentials"] == "true"
            assert "Origin" in response.headers["vary"]
        for name in ("X-Request-ID", "Retry-After", "ETag", "Location", "X-Upscale-Size"):
            assert name in served.headers["access-control-expose-headers"]
        stranger = await client.get("/health", headers={"Origin": "https://page.example.evil"})
        assert "access-control-allow-origin" not in stranger.headers
        assert "Origin" in stranger.headers["vary"]


async def test_any_origin_may_ask_but_without_credentials(settings: Settings) -> None:
    async with guarded(settings, cors_origins="*") as client:
        response = await client.get("/health", headers={"Origin": ORIGIN})
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers


# what browsers are told


@pytest.mark.parametrize(
    ("headers", "cors_origins", "status"),
    [
        ({}, "", 200),
        ({"Origin": ORIGIN}, "", 403),
        ({"Origin": "null"}, "", 403),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, "https://other.example", 403),
        ({"Origin": ORIGIN, "Host": "page.example:8443"}, "", 403),
        ({"Origin": ORIGIN, "Host": "page.example"}, "", 200),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}, "", 200),
        ({"Origin": ORIGIN}, ORIGIN, 200),
        ({"Origin": ORIGIN}, "*", 200),
    ],
)
async def test_a_form_of_another_page_is_refused(
    settings: Settings, headers: dict[str, str], cors_origins: str, status: int
) -> None:
    async with guarded(settings, api_key="", cors_origins=cors_origins) as client:
        sent = await client.post("/plan", files={"image": encode(sample_crop(60, 40))}, headers=headers)
        assert sent.status_code == status
        if status == 403:
            assert "CORS_ORIGINS" in assert_error(sent, 403, "foreign_origin")["error"]


async def test_every_response_tells_browsers_what_to_refuse(client: httpx.AsyncClient) -> None:
    for response in (await client.get("/health"), await client.get("/nothing"), await client.post("/upscale", json=BODY)):
        headers = response.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "img-src 'self' blob: data:" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


async def test_a_page_that_needs_more_says_so_itself_and_runs_no_script_inline(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs"):
        policy = (await client.get(path)).headers["content-security-policy"]
        directives = dict(directive.strip().split(" ", 1) for directive in policy.split(";"))
        assert directives.get("script-src", directives["default-src"]) == "'self'"


# the whole process


async def test_an_output_folder_that_cannot_be_written_is_said_at_the_start(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.output_dir.write_bytes(b"a file, not a folder")
    async with serving(settings, lambda _: fake_models()) as (client, _):
        await ready(client)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"OUTPUT_DIR {settings.output_dir} cannot be written: File exists" in warning


def whole_run(outputs: Path, log_format: str) -> str:
    """The log of a server that has secrets, and of requests that hold them where they belong and where they do not."""
    environment = {
        "API_KEY": "the-key-of-the-house",
        "REGISTRY_TOKEN": "the-token-of-the-registry",
        "REGISTRY_URL": "http://user:the-password@127.0.0.1:9/beats?the-query",
        "HEARTBEAT_SECONDS": "0.2",
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": log_format,
    }
    started = running_server(outputs, program=FAKE, **environment)
    with started as server, httpx.Client(base_url=server.url, timeout=HANG_SECONDS) as client:
        for headers in (
            {"X-API-Key": "the-key-of-the-house"},
            {"Authorization": "Bearer the-key-of-the-house"},
            {"Authorization": basic("", "the-key-of-the-house")},
            {"X-API-Key": "the-key-of-the-house-mistyped"},
        ):
            client.post("/upscale", json={"image_b64": LOGGED_IMAGE, "target_resolution": "2k"}, headers=headers)
            client.post("/upscale?key=the-key-of-the-house", json={"image_b64": [LOGGED_IMAGE]}, headers=headers)
    return "".join(server.log)


LOGGED_IMAGE = b64(encode(sample_crop(257, 2)))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a run in each format; both at once, since each waits mostly for its start."""
    formats = ("text", "json")
    with ThreadPoolExecutor() as runs:
        return dict(zip(formats, runs.map(whole_run, map(tmp_path_factory.mktemp, formats), formats), strict=True))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_key_token_or_image_is_in_the_log_of_a_whole_run(logs: dict[str, str], log_format: str) -> None:
    log = logs[log_format]
    assert log.count("/upscale") >= 8
    encoded = base64.b64encode(b":the-key-of-the-house").decode()
    for secret in ("the-key", "the-token", "the-password", "the-query", encoded, LOGGED_IMAGE[:40]):
        assert secret not in log


def test_sighup_does_not_change_how_it_ends(tmp_path: Path) -> None:
    with running_server(tmp_path, program=FAKE) as server:
        assert server.process
        server.process.terminate()
        while server.process.poll() is None:
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.001)
    assert server.process.returncode == 0
    assert not [line for line in server.log if "Traceback" in line]


def test_a_terminal_that_is_closed_ends_it(tmp_path: Path) -> None:
    terminal, end = os.openpty()
    environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(free_port()), "OUTPUT_DIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, *FAKE], cwd=ROOT, env=environment, preexec_fn=partial(os.login_tty, end))  # noqa: S603
    os.close(end)
    try:
        seen = b""
        while b"ready after" not in seen:
            seen += os.read(terminal, 4096)
        os.close(terminal)
        assert process.wait(HANG_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
