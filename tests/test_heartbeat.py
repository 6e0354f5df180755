"""heartbeat.py against a real HTTP registry on loopback, in all the moods that a registry can have."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import httpx
import pytest

from core.config import VERSION, Settings
from heartbeat import Heartbeat, public_url, retry_delay

TOKEN = "s3cret-token"
PASSWORD = "pa55word"
PUBLIC_URL = "http://upscale.example:10005"
DESCRIPTION: dict[str, object] = {
    "status": "healthy",
    "queue": {"running": 1, "waiting": 2, "capacity": 8},
    "device": "cpu",
    "version": VERSION,
}
PATIENCE_SECONDS = 3.0


@dataclass(frozen=True)
class Beat:
    """One request as the registry saw it."""

    request_line: str
    headers: dict[str, str]
    content: dict[str, object]


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def plain(raw: bytes) -> Answer:
    """Answers `raw` and hangs up."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return answer


def status(line: str, headers: str = "") -> Answer:
    return plain(f"HTTP/1.1 {line}\r\n{headers}Content-Length: 2\r\n\r\n{{}}".encode())


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Answers nothing until the client has gone."""
    await reader.read()


async def endless_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a body without an end, for as long as the client lets it."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        writer.write(b"[" * 65536)
        await writer.drain()


class Registry:
    """A registry that keeps what it hears in `beats` and can be closed and opened again on the same port."""

    def __init__(self) -> None:
        self.port = 0
        self.answer: Answer = status("200 OK")
        self.beats: asyncio.Queue[Beat] = asyncio.Queue()
        self.handled: asyncio.Queue[None] = asyncio.Queue()  # one entry for each connection that has ended
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/register"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def next_beat(self) -> Beat:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.beats.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            content = json.loads(await reader.readexactly(int(headers["content-length"])))
            self.beats.put_nowait(Beat(request_line, headers, content))
            await self.answer(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self.handled.put_nowait(None)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own proxy must not see loopback."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    registry = Registry()
    await registry.open()
    yield registry
    await registry.close()


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every logger at DEBUG, as far as an operator can ask for it."""
    for name in ("", "httpx", "httpcore", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    yield caplog


def heartbeat(url: str, *, timeout_seconds: float = 1.0, **settings: object) -> Heartbeat:
    """A heartbeat in a hurry: it beats and retries after some 10 ms."""
    chosen: dict[str, object] = {"public_url": PUBLIC_URL, "heartbeat_seconds": 0.01, **settings}
    base = Settings(registry_url=url)
    return Heartbeat(
        replace(base, **chosen),  # type: ignore[arg-type]
        lambda: dict(DESCRIPTION),
        timeout_seconds=timeout_seconds,
        rng=lambda: 0.001,
    )


@contextlib.asynccontextmanager
async def running(beating: Heartbeat) -> AsyncIterator[asyncio.Task[None]]:
    """Runs it for the block, then stops it; it must have ended by itself and without an error."""
    stop = asyncio.Event()
    task = asyncio.create_task(beating.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE_SECONDS)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Everything that a handler could print, tracebacks and arguments included."""
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
    return "\n".join(f"{formatter.format(record)} {record.args!r}" for record in caplog.records)


def own_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "heartbeat" and r.levelno >= logging.WARNING]


async def test_first_beat_comes_at_once_and_says_where_what_and_how(registry: Registry) -> None:
    async with running(heartbeat(registry.url, heartbeat_seconds=3600.0)):
        beat = await registry.next_beat()
    assert beat.request_line == "POST /register HTTP/1.1"
    assert beat.headers["content-type"] == "application/json"
    assert beat.content == {"url": PUBLIC_URL, "type": "upscale", **DESCRIPTION}


async def test_beats_go_on_and_each_asks_again_how_the_service_is(registry: Registry) -> None:
    states = iter(["starting", "healthy", "degraded"])
    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=0.01)
    async with running(Heartbeat(settings, lambda: {"status": next(states, "healthy")})):
        seen = [(await registry.next_beat()).content["status"] for _ in range(3)]
    assert seen == ["starting", "healthy", "degraded"]


async def test_interval_counts_from_the_start_of_a_beat(registry: Registry) -> None:
    now = 0.0

    def describe() -> dict[str, object]:
        """Takes an hour, all of the interval, on the injected clock."""
        nonlocal now
        now += 3600.0
        return {}

    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=3600.0)
    async with running(Heartbeat(settings, describe, clock=lambda: now)):
        await registry.next_beat()
        await registry.next_beat()


async def test_age_of_the_last_success_is_none_before_and_grows_after(registry: Registry) -> None:
    now = 100.0
    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=3600.0)
    beating = Heartbeat(settings, lambda: {}, clock=lambda: now)
    assert beating.seconds_since_success is None
    async with running(beating):
        await registry.next_beat()
    now = 107.5
    assert beating.seconds_since_success == 7.5


async def test_last_beat_says_draining_without_waiting_for_the_interval(registry: Registry) -> None:
    began = time.monotonic()
    async with running(heartbeat(registry.url, heartbeat_seconds=3600.0)):
        await registry.next_beat()
    assert (await registry.next_beat()).content == {"url": PUBLIC_URL, "type": "upscale", **DESCRIPTION, "status": "draining"}
    assert registry.beats.empty()
    assert time.monotonic() - began < 1.0


async def test_stopped_before_it_began_says_draining_alone(registry: Registry) -> None:
    stop = asyncio.Event()
    stop.set()
    await heartbeat(registry.url).run(stop)
    assert (await registry.next_beat()).content["status"] == "draining"
    assert registry.beats.empty()


async def test_hanging_registry_holds_up_the_shutdown_for_one_timeout_at_most(registry: Registry) -> None:
    registry.answer = silence
    beating = heartbeat(registry.url, timeout_seconds=0.5)
    async with running(beating):
        await registry.next_beat()
        began = time.monotonic()
    assert time.monotonic() - began < 0.5 + 0.3
    assert (await registry.next_beat()).content["status"] == "draining"
    assert beating.seconds_since_success is None


async def test_hanging_registry_is_given_up_and_asked_again(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    registry.answer = silence
    beating = heartbeat(registry.url, timeout_seconds=0.1)
    async with running(beating):
        await registry.next_beat()
        await registry.next_beat()
        registry.answer = status("200 OK")
    assert "no answer within 0.1 s" in own_warnings(caplog)[0]


async def test_cancelled_task_ends_and_leaves_no_other_task_behind(registry: Registry) -> None:
    task = asyncio.create_task(heartbeat(registry.url).run(asyncio.Event()))
    await registry.next_beat()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "_beat_forever" not in str(asyncio.all_tasks())


async def test_registry_that_went_away_gets_beats_again_when_it_is_back(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    failed_often = asyncio.Event()

    def retry_soon() -> float:
        failures.append(1)
        if len(failures) == 3:
            failed_often.set()
        return 0.001

    failures: list[int] = []
    caplog.set_level(logging.DEBUG, logger="heartbeat")
    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=0.01)
    beating = Heartbeat(settings, lambda: dict(DESCRIPTION), rng=retry_soon)
    async with running(beating) as task:
        await registry.next_beat()
        await registry.close()
        await asyncio.wait_for(failed_often.wait(), PATIENCE_SECONDS)
        while not registry.beats.empty():
            registry.beats.get_nowait()
        await registry.open()
        await registry.next_beat()
        await registry.next_beat()  # so the first has been accepted
        assert not task.done()
    broke, recovered = own_warnings(caplog)
    assert "ConnectError" in broke
    assert "accepted again" in recovered


async def test_token_goes_out_as_bearer_and_into_no_log(registry: Registry, all_logs: pytest.LogCaptureFixture) -> None:
    echo = f"Set-Cookie: seen={TOKEN}\r\nX-Seen: {TOKEN}\r\n"
    registry.answer = status("200 OK", echo)
    beating = heartbeat(registry.url, registry_token=TOKEN)
    async with running(beating):
        beat = await registry.next_beat()
        assert "cookie" not in (await registry.next_beat()).headers
        registry.answer = status(f"500 {TOKEN}", echo)
        await registry.next_beat()
        registry.answer = plain(f"garbage {TOKEN}\r\n\r\n".encode())
        await registry.next_beat()
        await registry.next_beat()
    assert beat.headers["authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in json.dumps(beat.content)
    assert TOKEN not in logged(all_logs)
    assert TOKEN not in repr(beating)


async def test_token_that_no_header_can_carry_is_in_no_log_either(
    registry: Registry, all_logs: pytest.LogCaptureFixture
) -> None:
    async with running(heartbeat(registry.url, registry_token=f"{TOKEN}\n{TOKEN}")):
        pass  # the last beat is an attempt too
    assert registry.beats.empty()
    assert len(own_warnings(all_logs)) == 1
    assert TOKEN not in logged(all_logs)


async def test_token_beyond_ascii_goes_out_as_utf_8(registry: Registry) -> None:
    async with running(heartbeat(registry.url, registry_token="clé")):
        assert (await registry.next_beat()).headers["authorization"] == "Bearer clé"


@pytest.mark.parametrize(("token", "scheme"), [("", "Basic"), (TOKEN, "Bearer")])
async def test_password_in_the_url_is_in_no_log_and_gives_way_to_the_token(
    registry: Registry, all_logs: pytest.LogCaptureFixture, token: str, scheme: str
) -> None:
    url = registry.url.replace("http://", f"http://user:{PASSWORD}@") + f"?key={PASSWORD}"
    async with running(heartbeat(url, registry_token=token)):
        beat = await registry.next_beat()
        registry.answer = status("401 Unauthorized")
        await registry.next_beat()
        await registry.next_beat()
        await registry.close()
    assert beat.headers["authorization"].split()[0] == scheme
    assert PASSWORD not in logged(all_logs)


async def test_without_a_token_there_is_no_authorization_header(registry: Registry) -> None:
    async with running(heartbeat(registry.url)):
        assert "authorization" not in (await registry.next_beat()).headers


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status("500 Internal Server Error"), "status 500"),
        (status("404 Not Found"), "status 404"),
        (status("302 Found", "Location: http://127.0.0.1:1/elsewhere\r\n"), "status 302"),
        (plain(b""), "RemoteProtocolError"),
        (plain(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "RemoteProtocolError"),
        (plain(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), "RemoteProtocolError"),
        (plain(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000), "RemoteProtocolError"),
    ],
    ids=["500", "404", "302", "hang-up", "not-http", "bad-length", "long-header"],
)
async def test_bad_answer_costs_one_warning_and_the_next_good_one_recovers(
    registry: Registry, caplog: pytest.LogCaptureFixture, answer: Answer, reason: str
) -> None:
    registry.answer = answer
    beating = heartbeat(registry.url)
    async with running(beating):
        for _ in range(3):
            await registry.next_beat()
        assert beating.seconds_since_success is None
        registry.answer = status("200 OK")
        await registry.next_beat()
        await registry.next_beat()
        await registry.next_beat()
        assert beating.seconds_since_success is not None
    broke, recovered = own_warnings(caplog)
    assert reason in broke
    assert "accepted again" in recovered


@pytest.mark.parametrize(
    "answer",
    [
        endless_body,
        plain(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n" + bytes(10 * 1024 * 1024)),
        plain(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"),
        plain(b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
    ids=["endless", "10-MB", "not-gzip", "none"],
)
async def test_body_of_the_answer_is_not_read(registry: Registry, caplog: pytest.LogCaptureFixture, answer: Answer) -> None:
    registry.answer = answer
    beating = heartbeat(registry.url)
    async with running(beating):
        await registry.next_beat()
        await asyncio.wait_for(registry.handled.get(), PATIENCE_SECONDS)
        await registry.next_beat()
        assert beating.seconds_since_success is not None
    assert own_warnings(caplog) == []


@pytest.mark.parametrize(
    "url",
    ["registry", "http://", "ftp://registry/x", "http://127.0.0.1:99999/", "http://[::1/", "http://no such host/", "\x00"],
)
async def test_registry_url_that_cannot_work_costs_a_warning(caplog: pytest.LogCaptureFixture, url: str) -> None:
    async with running(heartbeat(url, public_url="")):
        pass  # the last beat is an attempt too
    assert len(own_warnings(caplog)) == 1


async def test_host_that_does_not_resolve_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with running(heartbeat("http://registry.invalid/")):
        pass
    assert len(own_warnings(caplog)) == 1


@pytest.mark.parametrize("flaw", [{"status": object()}, {"status": float("nan")}, None])
async def test_service_that_cannot_describe_itself_is_logged_and_still_announced(
    registry: Registry, caplog: pytest.LogCaptureFixture, flaw: dict[str, object] | None
) -> None:
    def describe() -> dict[str, object]:
        if flaw is None:
            raise RuntimeError("a defect of ours")
        return flaw

    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=0.01)
    async with running(Heartbeat(settings, describe)):
        assert (await registry.next_beat()).content == {"url": PUBLIC_URL, "type": "upscale"}
        await registry.next_beat()
    assert any(record.exc_info for record in caplog.records if record.name == "heartbeat")


async def test_broken_environment_of_the_client_is_only_a_warning(
    registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", f"nonsense://user:{PASSWORD}@proxy")
    async with running(heartbeat(registry.url)):
        pass
    assert len(own_warnings(caplog)) == 1
    assert PASSWORD not in logged(caplog)


async def test_transport_can_be_handed_in() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def hear(request: httpx.Request) -> httpx.Response:
        heard.put_nowait(request.content)
        return httpx.Response(200)

    settings = Settings(registry_url="http://registry.invalid/", public_url=PUBLIC_URL, heartbeat_seconds=3600.0)
    async with running(Heartbeat(settings, lambda: DESCRIPTION, transport=httpx.MockTransport(hear))):
        assert PUBLIC_URL.encode() in await asyncio.wait_for(heard.get(), PATIENCE_SECONDS)


def test_retry_delay_doubles_up_to_a_ceiling() -> None:
    delays = [retry_delay(n, 60.0, lambda: 1.0) for n in range(1, 9)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert retry_delay(100_000, 10.0, lambda: 1.0) == 10


def test_retry_delay_is_jittered_over_its_whole_range() -> None:
    assert [retry_delay(4, 30.0, lambda part=part: part) for part in (0.0, 0.5, 1.0)] == [0.0, 4.0, 8.0]  # type: ignore[misc]
    assert len({retry_delay(4, 30.0) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (Settings(public_url="https://up.example/x", public_ip="203.0.113.7"), "https://up.example/x"),
        (Settings(public_ip="203.0.113.7"), "http://203.0.113.7:10005"),
        (Settings(public_ip="203.0.113.7", public_port=80, port=1), "http://203.0.113.7:80"),
        (Settings(public_ip="2001:db8::5"), "http://[2001:db8::5]:10005"),
        (Settings(public_ip="[2001:db8::5]"), "http://[2001:db8::5]:10005"),
        (Settings(registry_url="http://127.0.0.1:9/"), "http://127.0.0.1:10005"),
        (Settings(registry_url="http://127.0.0.1:9/", public_port=8080), "http://127.0.0.1:8080"),
    ],
)
def test_public_url_is_the_given_one_or_built_from_ip_and_port(settings: Settings, url: str) -> None:
    assert public_url(settings) == url


def test_public_url_towards_an_ipv6_registry_is_bracketed() -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("::1", 9))
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert public_url(Settings(host="::", registry_url="http://[::1]:9/")) == "http://[::1]:10005"


@pytest.mark.parametrize("registry_url", ["", "http://registry.invalid/", "http://[::1", f"http://{'x' * 300}/"])
def test_public_url_without_a_registry_address_is_the_default_routes(registry_url: str) -> None:
    default_route = public_url(Settings())
    assert public_url(Settings(registry_url=registry_url)) == default_route
    assert default_route.startswith("http://")
    assert default_route.endswith(":10005")


def test_public_url_without_any_route_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", no_route)
    assert public_url(Settings(registry_url="http://192.0.2.9/")) == "http://127.0.0.1:10005"
    assert public_url(Settings(host="::", registry_url="http://192.0.2.9/")) == "http://[::1]:10005"
