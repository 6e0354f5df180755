"""The registry client: tells a registry, again and again, where this service is and how it is doing.

It knows the settings and a function that describes the service, and nothing of requests, images or models. A registry
that is down, slow, lying or misspelt costs log lines and retries: no error leaves `Heartbeat.run()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
import ssl
import time
from collections.abc import Callable

import httpx

from core.config import Settings
from outbound.backoff import retry_delay

BEAT_TIMEOUT_SECONDS = 5.0
RETRY_CEILING_SECONDS = 60.0  # or HEARTBEAT_SECONDS, where that is longer

# Addresses reserved for documentation (RFC 5737, RFC 3849): the way towards them is the default route.
_DOCUMENTATION_HOST = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_DISCARD_PORT = 9

logger = logging.getLogger(__name__)


class _BeatRefused(Exception):
    """The registry answered, and not with a 2xx."""


def public_url(settings: Settings) -> str:
    """The URL under which others reach this service. It may wait for DNS, so call it in a thread."""
    if settings.public_url:
        return settings.public_url
    host = settings.public_ip.strip("[]") or _outbound_address(settings)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.public_port or settings.port}"


def _outbound_address(settings: Settings) -> str:
    """The address of the interface that leads to the registry, in the family that HOST listens on."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for host in (_registry_host(settings), _DOCUMENTATION_HOST[family]):
        with contextlib.suppress(OSError, ValueError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Connecting a UDP socket chooses a route and sends no packet.
            probe.connect(socket.getaddrinfo(host, _DISCARD_PORT, family, socket.SOCK_DGRAM)[0][4])
            return str(probe.getsockname()[0])
    return _LOOPBACK[family]


def _registry_host(settings: Settings) -> str:
    try:
        return httpx.URL(settings.registry_url).host
    except httpx.InvalidURL:
        return ""  # does not resolve, so the default route decides


class Heartbeat:
    """Posts `{"url", "type", **describe()}` to the registry; `describe` is called on the event loop, once a beat."""

    def __init__(
        self,
        settings: Settings,
        describe: Callable[[], dict[str, object]],
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout_seconds: float = BEAT_TIMEOUT_SECONDS,
        rng: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._describe = describe
        self._transport = transport
        self._timeout_seconds = timeout_seconds
        self._rng = rng
        self._clock = clock
        self._tls: ssl.SSLContext | None = None
        self._failures = 0  # in a row
        self._last_success: float | None = None

    @property
    def seconds_since_success(self) -> float | None:
        """Age of the last beat that the registry accepted; None before the first."""
        return None if self._last_success is None else self._clock() - self._last_success

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until `stop` is set, then say `draining` once and return, within `timeout_seconds`."""
        beating = asyncio.create_task(self._beat_forever())
        try:
            await stop.wait()
        finally:
            beating.cancel()  # a beat or a pause under way must not hold up the last one
            await asyncio.gather(beating, return_exceptions=True)
        await self._beat(status="draining")

    async def _beat_forever(self) -> None:
        while True:
            began = self._clock()
            await self._beat()
            if self._failures:
                ceiling_seconds = max(self._settings.heartbeat_seconds, RETRY_CEILING_SECONDS)
                delay = retry_delay(self._failures, ceiling_seconds, self._rng)
            else:
                delay = self._settings.heartbeat_seconds - (self._clock() - began)
            await asyncio.sleep(max(0.0, delay))

    async def _beat(self, **override: object) -> None:
        """One attempt; its outcome goes into the log and the counters."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._post(self._body(await asyncio.to_thread(public_url, self._settings), override))
        except Exception as exc:
            self._failures += 1
            # One warning an outage, not one a beat; and no traceback, for it may quote the token.
            level = logging.WARNING if self._failures == 1 else logging.DEBUG
            logger.log(level, "heartbeat failed (%s); more failures in a row are logged at DEBUG", self._reason(exc))
        else:
            if self._failures:
                logger.warning("heartbeat accepted again after %d failures", self._failures)
            self._failures = 0
            self._last_success = self._clock()

    def _body(self, url: str, override: dict[str, object]) -> bytes:
        known = {"url": url, "type": self._settings.service_type}
        try:
            return json.dumps({**known, **self._describe(), **override}, allow_nan=False).encode()
        except Exception:
            logger.exception("the service cannot describe itself; the heartbeat says only where it is")
            return json.dumps({**known, **override}).encode()

    async def _post(self, body: bytes) -> None:
        """Send `body`. The response's status line is all that counts, so its body, of whatever size, is never read."""
        url = httpx.URL(self._settings.registry_url)
        headers = {b"Content-Type": b"application/json"}
        if self._settings.registry_token:
            headers[b"Authorization"] = b"Bearer " + self._settings.registry_token.encode()
            url = url.copy_with(userinfo=b"")  # else httpx replaces the token with the URL's user and password
        # A client per beat: no cookies, no stale connection, DNS asked anew.
        async with (
            await asyncio.to_thread(self._client) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            if not response.is_success:
                raise _BeatRefused(f"status {response.status_code}")

    def _client(self) -> httpx.AsyncClient:
        """Runs in a thread: the first call reads the certificates, 40 ms in which the event loop would stand still."""
        self._tls = self._tls or httpx.create_ssl_context()
        return httpx.AsyncClient(verify=self._tls, transport=self._transport, timeout=None)  # noqa: S113 - _beat has one

    def _reason(self, exc: Exception) -> str:
        """What went wrong, in the words of an exception only where those cannot contain what was sent or received."""
        if isinstance(exc, TimeoutError):
            return f"no answer within {self._timeout_seconds:g} s"
        if isinstance(exc, _BeatRefused):
            return str(exc)
        return f"{type(exc).__name__}: {exc}" if isinstance(exc, httpx.ConnectError) else type(exc).__name__
