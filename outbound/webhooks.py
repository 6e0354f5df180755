"""Webhooks: one POST to a URL of the client's choice, signed, and repeated until it is taken.

No redirect is followed, and nothing of a response but its status is read. Signatures follow https://www.standardwebhooks.com.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import random
import secrets
import ssl
import time
from collections.abc import Callable

import httpcore
import httpx

from core.errors import QueueFull, WebhookRefused
from outbound.backoff import retry_delay
from outbound.public_network import PublicNetwork

logger = logging.getLogger(__name__)

ATTEMPTS = 8  # within some two minutes
ATTEMPT_SECONDS = 10.0
RETRY_CEILING_SECONDS = 60.0
MAX_PENDING = 1000  # a flood of cancelled jobs must not become a flood of calls
MAX_AT_ONCE = 8


class Webhooks:
    """Delivers in the background; its methods are called on the event loop."""

    def __init__(self, key: bytes, network: PublicNetwork, *, rng: Callable[[], float] = random.random) -> None:
        """`key` signs the deliveries; they are not signed without one."""
        self._key = key
        self.network = network
        self._rng = rng
        self._tls: ssl.SSLContext | None = None
        self._pending: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(MAX_AT_ONCE)
        self._closing = asyncio.Event()

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
        """The status of the response, or why there is none, in words that hold nothing of what was received."""
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
        extensions = {"timeout": {"connect": ATTEMPT_SECONDS}}
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=self.network) as pool,
            pool.stream("POST", to, headers=headers, content=body, extensions=extensions) as response,
        ):
            return response.status


def signature_headers(key: bytes, message_id: str, now: float, body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of Standard Webhooks; without a key, without a signature. `now` is in seconds since the epoch."""
    timestamp = str(int(now))
    headers = [(b"webhook-id", message_id.encode()), (b"webhook-timestamp", timestamp.encode())]
    if key:
        signed = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        headers.append((b"webhook-signature", b"v1," + base64.b64encode(signed)))
    return headers


_TAKEN = range(200, 300)
_GONE = 410  # who responds so wants to hear no more
