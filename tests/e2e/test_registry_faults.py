"""A registry that misbehaves touches no request."""

from __future__ import annotations

import pytest

from bench.server import Server
from tests.e2e.faults import Check, Registry

pytestmark = pytest.mark.xdist_group("faults")  # they share a server

MOODS: dict[str, bytes | None] = {
    "hangs": None,
    "hangs up": b"",
    "speaks no HTTP": b"\x00\xff" * 1000 + b"\r\n\r\n",
    "says 200 and nonsense": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>\xff\xfe\x00",
    "says 500": b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    "sends in circles": b"HTTP/1.1 307 Here\r\nLocation: /register\r\nContent-Length: 0\r\n\r\n",
    "sends elsewhere": b"HTTP/1.1 302 There\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "promises more than it sends": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}",
    "contradicts itself": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "answers 10 MB": b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"[" * 10_000_000,
    "answers 10 MB of zeros that are not what they seem": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    + bytes(10_000_000),
    "answers a head of 10 MB": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("mood", MOODS)
def test_a_registry_touches_no_request_whatever_it_does(server: Server, registry: Registry, right: Check, mood: str) -> None:
    memory = server.memory_bytes("VmRSS")
    registry.wait_for_a_beat(MOODS[mood])
    right(server)
    assert server.health()["heartbeat_active"] is True
    registry.wait_for_a_beat(Registry.GOOD)
    assert server.memory_bytes("VmRSS") < memory + 30_000_000
