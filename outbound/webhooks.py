"""Tells others that a job is done: one POST to a URL of the client's choice, signed, and repeated until it is taken.

Since anybody may name any URL, this room is the one that keeps the server from being made a way into its own network: a name
is resolved here, every address of it must be a public one, and the connection goes to such an address and no other, so that a
name cannot change its meaning in between. No redirect is followed, and nothing of an answer but its status is read.

It knows nothing of jobs or of the server's HTTP. Signatures follow https://www.standardwebhooks.com.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import random
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future

import httpcore
import httpx

from core.config import Settings
from core.errors import QueueFull, WebhookRefused
from outbound.heartbeat import retry_delay

logger = logging.getLogger(__name__)

ATTEMPTS = 8  # within some two minutes
ATTEMPT_SECONDS = 10.0
RETRY_CEILING_SECONDS = 60.0
RESOLVE_SECONDS = 5.0
MAX_LOOKUPS = 32  # at once: names that nobody answers for keep a thread each
LOOKUP_RETRY_SECONDS = 5
MAX_URL_CHARACTERS = 2000
MAX_PENDING = 1000  # a flood of cancelled jobs must not become a flood of calls
MAX_AT_ONCE = 8

Resolve = Callable[[str, int], list[str]]
"""The addresses of a host, for a port; it waits for DNS and raises OSError."""


def resolve_host(host: str, port: int) -> list[str]:
    """What the system says: names, and every way of writing an address, such as 127.1."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large, and does not lead elsewhere by wrapping an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped:
            return is_public(str(wrapped))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or any(ip in network for network in _SPECIAL))


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What older releases of Python take for public, and 168.63.129.16, by which machines in one public cloud reach their host.
_SPECIAL = [ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")]


class Webhooks:
    """Delivers in the background; its methods are called on the event loop."""

    def __init__(
        self, settings: Settings, *, resolve: Resolve = resolve_host, rng: Callable[[], float] = random.random
    ) -> None:
        self._key = settings.webhook_key
        self._allow_private = settings.webhook_allow_private
        self._resolve = resolve
        self._rng = rng
        self._free_resolvers = threading.BoundedSemaphore(MAX_LOOKUPS)
        self._tls: ssl.SSLContext | None = None
        self._pending: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(MAX_AT_ONCE)
        self._closing = asyncio.Event()

    async def check(self, url: str) -> None:
        """Make sure that something may be delivered there, as far as can be said now.

        Raises:
            WebhookRefused: it is no http or https URL, or leads to an address that is not public, or nowhere.
            QueueFull: too many names are being looked up.
        """
        host, port = _host_and_port(url)
        await self.addresses(host, port)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where a host may be connected to.

        Raises:
            WebhookRefused: it has no address, or one that is not public.
            QueueFull: too many names are being looked up.
        """
        try:
            addresses = await asyncio.wait_for(self._look_up(host, port), RESOLVE_SECONDS)
        except (OSError, UnicodeError) as exc:  # TimeoutError among them
            raise _refused(f"The host {host[:80]!r} cannot be found.") from exc
        if not addresses or not (self._allow_private or all(map(is_public, addresses))):
            raise _refused(f"The host {host[:80]!r} is not on the public internet.")
        return addresses

    async def _look_up(self, host: str, port: int) -> list[str]:
        """In a thread of its own, for which the end of the process does not wait: DNS may be silent for half a minute."""
        full = QueueFull(
            "Too many webhooks are looked up just now. Try again later.", retry_after_seconds=LOOKUP_RETRY_SECONDS
        )
        if not self._free_resolvers.acquire(blocking=False):
            raise full
        found: Future[list[str]] = Future()
        found.set_running_or_notify_cancel()  # so that nobody who stops waiting can cancel it

        def look() -> None:
            try:
                found.set_result(self._resolve(host, port))
            except Exception as exc:
                found.set_exception(exc)
            finally:
                self._free_resolvers.release()

        try:
            threading.Thread(target=look, name="dns", daemon=True).start()
        except RuntimeError as exc:  # no thread can be had
            self._free_resolvers.release()
            raise full from exc
        return await asyncio.wrap_future(found)

    def deliver(self, url: str, body: bytes) -> None:
        """POST `body`, JSON, to a URL that was checked, until it is taken or `ATTEMPTS` have failed. Returns at once."""
        if len(self._pending) >= MAX_PENDING:
            logger.error("a webhook is not called: %d others are waiting already", len(self._pending))
            return
        task = asyncio.create_task(self._deliver(url, body))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def close(self) -> None:
        """Try once more, now, whatever is not delivered, and give it up."""
        self._closing.set()
        if self._pending:
            _, late = await asyncio.wait(self._pending, timeout=ATTEMPT_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _deliver(self, url: str, body: bytes) -> None:
        message_id = f"msg_{secrets.token_hex(16)}"
        for failures in range(1, ATTEMPTS + 1):
            is_last = self._closing.is_set()
            async with self._turn:
                outcome = await self._attempt(url, body, message_id)
            if outcome in _TAKEN:
                logger.info("%s webhook delivered", message_id)
                return
            if outcome == _GONE or is_last:
                break
            with contextlib.suppress(TimeoutError):
                delay = retry_delay(failures, RETRY_CEILING_SECONDS, self._rng)
                await asyncio.wait_for(self._closing.wait(), delay)
        logger.warning("%s webhook given up: %s", message_id, outcome)

    async def _attempt(self, url: str, body: bytes, message_id: str) -> int | str:
        """The status of the answer, or why there is none, in words that hold nothing of what was received."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._post(url, body, message_id)
        except (WebhookRefused, QueueFull) as exc:
            return exc.message
        except TimeoutError:
            return f"no answer within {ATTEMPT_SECONDS:g} s"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as exc:
            return type(exc).__name__

    async def _post(self, url: str, body: bytes, message_id: str) -> int:
        self._tls = self._tls or await asyncio.to_thread(httpx.create_ssl_context)  # reads the certificates, for 40 ms
        target = httpx.URL(url)
        headers = [(b"Host", target.netloc), (b"Content-Type", b"application/json"), (b"User-Agent", b"upscale-service")]
        headers += [(b"Content-Length", str(len(body)).encode()), *signature_headers(self._key, message_id, time.time(), body)]
        to = httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=_CheckedNetwork(self)) as pool,
            pool.stream("POST", to, headers=headers, content=body) as response,
        ):
            return response.status


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to an address that was checked; TLS and the Host header still speak of the name."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the base class has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._webhooks.addresses(host, port)
        timeout = ATTEMPT_SECONDS / (len(addresses) + 1)  # so that one that is silent leaves the others their time
        for address in addresses:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
        raise httpcore.ConnectError("no address of the host answers")


def signature_headers(key: bytes, message_id: str, now: float, body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of Standard Webhooks; without a key, without a signature. `now` is in seconds since the epoch."""
    timestamp = str(int(now))
    headers = [(b"webhook-id", message_id.encode()), (b"webhook-timestamp", timestamp.encode())]
    if key:
        signed = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        headers.append((b"webhook-signature", b"v1," + base64.b64encode(signed)))
    return headers


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parsed = httpx.URL(url) if len(url) <= MAX_URL_CHARACTERS else None
    except httpx.InvalidURL:
        parsed = None
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.raw_host or parsed.userinfo:
        raise _refused(f"It is not an http or https URL of at most {MAX_URL_CHARACTERS} characters without a password.")
    port = {"http": 80, "https": 443}[parsed.scheme] if parsed.port is None else parsed.port
    if not 0 < port < 65536:
        raise _refused("Its port is not from 1 to 65535.")
    return parsed.raw_host.decode("ascii"), port


def _refused(why: str) -> WebhookRefused:
    return WebhookRefused(f"webhook cannot be used: {why}", field="webhook")


_TAKEN = range(200, 300)
_GONE = 410  # who answers so wants to hear no more
