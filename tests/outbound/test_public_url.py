"""The address that the heartbeat announces."""

from __future__ import annotations

import socket

import pytest

from core.config import Settings
from outbound.heartbeat import public_url


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
