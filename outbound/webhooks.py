"""Webhooks: one POST to a URL of the client's choice, signed, and repeated until it is taken.

No redirect is followed, and nothing of a response but its status is read. Signatures follow https://www.standardwebhooks.com.
A receiver that hangs holds up no other one: a host, and the network of its address, have a share of the calls, and a host that
does not answer is left alone for a while, whatever else is meant for it. Each kind of host has its share, too, so that a
thousand that hang leave room for one that has not been called before.
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
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from enum import Enum

import httpcore
import httpx

from core.errors import QueueFull, WebhookRefused
from outbound.backoff import retry_delay
from outbound.public_network import PublicNetwork, network_of

logger = logging.getLogger(__name__)

ATTEMPTS = 8  # within some two minutes
ATTEMPT_SECONDS = 10.0
FIRST_SECONDS = 3.0  # of the first attempt to a host: if it hangs, the next new one's turn comes soon
RETRY_CEILING_SECONDS = 60.0
MAX_PENDING = 1000  # a flood of cancelled jobs must not become a flood of calls
MAX_AT_ONCE = 32
MAX_TO_NETWORK = 8  # at once, whatever names its addresses have
MAX_TO_HOST = 4  # at once


class Kind(Enum):
    """What is known of a host; the value is how many calls may go to such hosts at once."""

    ANSWERED = 22
    UNKNOWN = 20
    SILENT = 6


@dataclass(frozen=True)
class Receiver:
    """Where a webhook goes: a URL that was checked, its host with its port, and the network that it was in then."""

    url: str
    host: str
    network: str


@dataclass(eq=False)
class _Message:
    receiver: Receiver
    body: bytes
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(16)}")
    context: Context = field(default_factory=copy_context)  # whose lines in the log are those of the job
    failures: int = 0
    not_before: float = 0.0  # on the event loop's clock

    def log(self, level: int, what: str) -> None:
        self.context.copy().run(logger.log, level, "%s webhook %s", self.id, what)


@dataclass
class _Host:
    answered: bool = False  # the last time
    failures: int = 0  # to answer, in a row
    not_before: float = 0.0

    @property
    def kind(self) -> Kind:
        return Kind.SILENT if self.failures else Kind.ANSWERED if self.answered else Kind.UNKNOWN


class Webhooks:
    """Delivers in the background; its methods are called on the event loop."""

    def __init__(self, key: bytes, network: PublicNetwork, *, rng: Callable[[], float] = random.random) -> None:
        """`key` signs the deliveries; they are not signed without one."""
        self._key = key
        self._network = network
        self._rng = rng
        self._tls: ssl.SSLContext | None = None
        self._waiting: list[_Message] = []  # in the order in which they came
        self._running: dict[asyncio.Task[None], _Message] = {}
        self._hosts: OrderedDict[str, _Host] = OrderedDict()  # the last ones that were called
        self._timer: asyncio.TimerHandle | None = None
        self._is_in_order = False  # whether the turn is that of who waits longest, or of who asks for least
        self._is_closing = False

    async def check(self, url: str) -> Receiver:
        """Make sure that something may be sent to this URL, as far as can be said now.

        Raises:
            WebhookRefused, QueueFull: as `PublicNetwork.check`.
        """
        addresses = await self._network.check(url)
        return Receiver(url, httpx.URL(url).netloc.decode("ascii"), min(map(network_of, addresses)))

    def deliver(self, receiver: Receiver, body: bytes) -> None:
        """POST `body`, JSON, until it is taken or `ATTEMPTS` have failed. Returns at once."""
        message = _Message(receiver, body)
        self._waiting.append(message)
        if len(self._waiting) + len(self._running) > MAX_PENDING:
            self._drop_one()
        self._start()

    async def close(self) -> None:
        """Try once more, now, whatever is not delivered, and give it up."""
        self._is_closing = True
        self._start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ATTEMPT_SECONDS):
                while self._running:
                    await asyncio.wait(self._running)
        for message in (*self._waiting, *self._running.values()):
            message.log(logging.WARNING, "given up: the service ends")
        self._waiting.clear()
        late = list(self._running)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    # whose turn it is

    def _drop_one(self) -> None:
        """The newest for the network that has the most; of networks with as many, the one that has failed most often."""
        counts = self._waiting_by_network()
        dropped = max(reversed(self._waiting), key=lambda message: (counts[message.receiver.network], message.failures))
        self._waiting.remove(dropped)
        dropped.log(logging.ERROR, f"given up: {MAX_PENDING} are waiting, and most of them for its network")

    def _start(self) -> None:
        """Begin every attempt that may begin now: first to hosts that have answered, last to those that have not."""
        loop = asyncio.get_running_loop()
        busy: Counter[str | Kind] = Counter()
        for message in self._running.values():
            busy.update((message.receiver.host, message.receiver.network, self._host(message).kind))
        now, next_at = loop.time(), float("inf")
        for message in self._in_turn():
            receiver, host = message.receiver, self._host(message)
            start_at = 0.0 if self._is_closing else max(message.not_before, host.not_before)
            if start_at > now:
                next_at = min(next_at, start_at)
                continue
            limit = 1 if host.failures else MAX_TO_HOST
            has_room = len(self._running) < MAX_AT_ONCE and busy[host.kind] < host.kind.value
            if has_room and busy[receiver.network] < MAX_TO_NETWORK and busy[receiver.host] < limit:
                self._waiting.remove(message)
                busy.update((receiver.host, receiver.network, host.kind))
                task = loop.create_task(self._try(message), context=message.context)
                self._running[task] = message
                task.add_done_callback(self._ended)
        if self._timer:
            self._timer.cancel()
        self._timer = None if next_at == float("inf") else loop.call_at(next_at, self._start)

    def _in_turn(self) -> list[_Message]:
        """All that wait: at every other call in order, else the newest for the network that has the fewest first."""
        self._is_in_order = not self._is_in_order
        if self._is_in_order:
            return sorted(self._waiting, key=self._rank)
        newest_first, counts = self._waiting[::-1], self._waiting_by_network()
        return sorted(newest_first, key=lambda message: (*self._rank(message), counts[message.receiver.network]))

    def _rank(self, message: _Message) -> tuple[int, bool]:
        host = self._host(message)
        return host.failures, not host.answered

    def _waiting_by_network(self) -> Counter[str]:
        return Counter(message.receiver.network for message in self._waiting)

    def _host(self, message: _Message) -> _Host:
        return self._hosts.get(message.receiver.host) or _Host()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._start()

    # one attempt

    async def _try(self, message: _Message) -> None:
        host = self._host(message)
        is_last, failures = self._is_closing, host.failures
        seconds = FIRST_SECONDS if host.kind is Kind.UNKNOWN else ATTEMPT_SECONDS
        outcome = await self._attempt(message.receiver.url, message.body, message.id, seconds)
        if isinstance(outcome, int):
            self._note(message.receiver.host, _Host(answered=True))
        elif outcome != QueueFull.code and self._host(message).failures == failures:  # else another attempt has noted it
            self._note_silence(message.receiver.host, failures + 1)
        message.failures += outcome != QueueFull.code
        if outcome in _TAKEN:
            message.log(logging.INFO, "delivered")
        elif outcome == _GONE or is_last or message.failures >= ATTEMPTS:
            message.log(logging.WARNING, f"given up: {outcome}")
        else:
            message.not_before = self._later(max(message.failures, 1))
            self._waiting.append(message)

    def _note(self, name: str, host: _Host) -> None:
        self._hosts[name] = host
        self._hosts.move_to_end(name)
        if len(self._hosts) > MAX_PENDING:
            self._hosts.popitem(last=False)

    def _note_silence(self, name: str, failures: int) -> None:
        """Leave the host alone for a while; for everything that waits for it, it has failed once more."""
        self._note(name, _Host(failures=failures, not_before=self._later(failures)))
        for message in [message for message in self._waiting if message.receiver.host == name]:
            message.failures += 1
            if message.failures >= ATTEMPTS:
                self._waiting.remove(message)
                message.log(logging.WARNING, "given up: its host does not answer")

    def _later(self, failures: int) -> float:
        return asyncio.get_running_loop().time() + retry_delay(failures, RETRY_CEILING_SECONDS, self._rng)

    async def _attempt(self, url: str, body: bytes, message_id: str, seconds: float) -> int | str:
        """The status of the response, or why there is none, in words that hold nothing of what was received."""
        try:
            async with asyncio.timeout(seconds):
                return await self._post(url, body, message_id, seconds)
        except (WebhookRefused, QueueFull) as exc:
            return exc.code
        except TimeoutError:
            return f"no answer within {seconds:g} s"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as exc:
            return type(exc).__name__

    async def _post(self, url: str, body: bytes, message_id: str, seconds: float) -> int:
        self._tls = self._tls or await asyncio.to_thread(httpx.create_ssl_context)  # reads the certificates, for 40 ms
        target = httpx.URL(url)
        headers = [(b"Host", target.netloc), (b"Content-Type", b"application/json"), (b"User-Agent", b"upscale-service")]
        headers += [(b"Content-Length", str(len(body)).encode()), *signature_headers(self._key, message_id, time.time(), body)]
        to = httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
        extensions = {"timeout": {"connect": seconds}}
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=self._network) as pool,
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
