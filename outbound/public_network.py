"""The guard of public addresses: URLs of clients may not lead into the server's own network.

A host is resolved here, every address of it must be a public one, and the connection goes to such an address and no other, so
that a name cannot change its meaning in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

import httpcore
import httpx

from core.config import MAX_PORT, MAX_URL_CHARACTERS
from core.errors import QueueFull, WebhookRefused

RESOLVE_SECONDS = 5.0
MAX_LOOKUPS = 32  # at once: names that nobody answers for keep a thread each
LOOKUP_RETRY_SECONDS = 5

Resolve = Callable[[str, int], list[str]]
"""The addresses of a host, for a port; it waits for DNS and raises OSError."""


def resolve_host(host: str, port: int) -> list[str]:
    """What the system says: names, and every way of writing an address, such as 127.1."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large, and does not lead elsewhere by wrapping an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if wrapped := _wrapped(ip):
            return is_public(str(wrapped))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or any(ip in network for network in _SPECIAL))


def network_of(address: str) -> str:
    """The network that usually has one owner: the last 8 bits of an IPv4 address left out, or the last 80 of an IPv6 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = _wrapped(ip) or ip
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))


def _wrapped(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What older releases of Python take for public, and 168.63.129.16, by which machines in one public cloud reach their host.
_SPECIAL = [ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")]


class PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to hosts whose addresses are all public, or to any if `allow_private`; TLS and Host keep the name."""

    def __init__(self, *, allow_private: bool = False, resolve: Resolve = resolve_host) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._free_resolvers = threading.BoundedSemaphore(MAX_LOOKUPS)
        self._network = httpcore.AnyIOBackend()

    async def check(self, url: str) -> list[str]:
        """The addresses of this URL's host, if something may be sent there, as far as can be said now.

        Raises:
            WebhookRefused: it is no http or https URL, or leads to a port of another service, to an address that is not
                public, or nowhere.
            QueueFull: too many names are being looked up.
        """
        return await self._addresses(*_host_and_port(url))

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the base class has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to the first address of the host that answers; each has its share of `timeout`, in seconds.

        Raises:
            WebhookRefused, QueueFull: as `check`.
            httpcore.ConnectError: no address answers.
        """
        addresses = await self._addresses(host, port)
        share = None if timeout is None else timeout / (len(addresses) + 1)  # one that is silent leaves the others their time
        for address in addresses:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._network.connect_tcp(address, port, share, local_address, socket_options)
        raise httpcore.ConnectError("no address of the host answers")

    async def _addresses(self, host: str, port: int) -> list[str]:
        """Where a host may be connected to.

        Raises:
            WebhookRefused: it has no address, or one that is not public, or the port is that of another service.
            QueueFull: too many names are being looked up.
        """
        if not (port in (80, 443) or 1023 < port <= MAX_PORT):
            raise _refused("Its port must be 80, 443 or above 1023.")
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                addresses = await self._look_up(host, port)
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


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parsed = httpx.URL(url) if len(url) <= MAX_URL_CHARACTERS else None
    except httpx.InvalidURL:
        parsed = None
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.raw_host or parsed.userinfo:
        raise _refused(f"It is not an http or https URL of at most {MAX_URL_CHARACTERS} characters without a password.")
    port = {"http": 80, "https": 443}[parsed.scheme] if parsed.port is None else parsed.port
    return parsed.raw_host.decode("ascii"), port


def _refused(why: str) -> WebhookRefused:
    return WebhookRefused(f"webhook cannot be used: {why}", field="webhook")
