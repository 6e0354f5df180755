"""The configuration of nginx, with instances that only say who they are."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from api.server import KEEP_ALIVE_SECONDS
from bench.server import free_port
from core.config import Settings
from tests.deploy.balancer import DEPLOY, balanced, configuration, needs_nginx, nginx
from tests.helpers import HANG_SECONDS

pytestmark = needs_nginx


class Instance(ThreadingHTTPServer):
    """Answers with its name and what it got; or, once it is `full`, with 503."""

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.is_full = name, False


class _Handler(BaseHTTPRequestHandler):
    server: Instance
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        host, request_id = self.headers["Host"], self.headers["X-Request-ID"]
        body = json.dumps({"name": self.server.name, "host": host, "id": request_id, "bytes": len(sent)}).encode()
        self.send_response(503 if self.server.is_full else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        """A test reads no log."""


@contextmanager
def instances(*names: str) -> Iterator[list[Instance]]:
    with ExitStack() as stack:
        servers = [stack.enter_context(Instance(name)) for name in names]
        for server in servers:
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
            stack.callback(server.shutdown)
        yield servers


@contextmanager
def balancer(folder: Path, *ports: int, **options: bool) -> Iterator[httpx.Client]:
    with balanced(folder, ports, **options) as url, httpx.Client(base_url=url, timeout=HANG_SECONDS) as client:
        yield client


def assert_error(response: httpx.Response, status: int, code: str) -> None:
    body = response.json()
    assert (response.status_code, body["success"], body["code"]) == (status, False, code)
    assert body["request_id"] == response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    assert len(body["error"]) > 10


@pytest.mark.parametrize("own_folders", [False, True])
def test_nginx_takes_it(tmp_path: Path, own_folders: bool) -> None:
    path = configuration(tmp_path, 1, [2, 3], own_folders)
    subprocess.run(nginx(tmp_path, "-t", "-c", str(path)), check=True, capture_output=True)  # noqa: S603


def test_its_limits_are_the_services() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    assert f"client_max_body_size {Settings().max_body_bytes // 2**20}m;" in text
    assert f"client_body_timeout {Settings().body_timeout_seconds:.0f}s;" in text
    assert f"proxy_next_upstream_timeout {Settings().request_timeout_seconds:.0f}s;" in text
    assert f" keepalive_timeout {KEEP_ALIVE_SECONDS - 15:.0f}s;" in text


def test_what_an_instance_refuses_or_leaves_unanswered_another_gets(tmp_path: Path) -> None:
    dead = free_port()
    with instances("a", "b") as (first, second), balancer(tmp_path, dead, first.server_port, second.server_port) as client:
        assert Counter(client.post("/upscale").json()["name"] for _ in range(20)).keys() == {"a", "b"}
        first.is_full = True
        answers = [client.post("/upscale", content=b"x" * 100_000).json() for _ in range(20)]
        assert {(answer["name"], answer["bytes"]) for answer in answers} == {("b", 100_000)}
        second.is_full = True
        assert {client.post("/upscale").status_code for _ in range(20)} == {503}
        first.is_full = False
        assert {client.post("/upscale").json()["name"] for _ in range(20)} == {"a"}, "an instance was left out for its 503"


def test_an_instance_hears_the_clients_host_and_request_id(tmp_path: Path) -> None:
    with instances("a") as (only,), balancer(tmp_path, only.server_port) as client:
        assert client.get("/", headers={"X-Request-ID": "mine", "Host": "example.com"}).json()["id"] == "mine"
        assert client.get("/", headers={"Host": "example.com"}).json()["host"] == "example.com"
        assert len(client.get("/", headers={"X-Request-ID": "a b"}).json()["id"]) == 32


def test_its_own_errors_have_the_form_of_the_services(tmp_path: Path) -> None:
    with balancer(tmp_path, free_port(), free_port()) as client:
        unreachable = client.get("/health")
        assert_error(unreachable, 503, "no_instance")
        assert unreachable.headers["retry-after"] == "5"
        assert_error(client.post("/upscale", content=b"x" * (16 * 2**20 + 1)), 413, "body_too_large")
        assert_error(client.get("/metrics"), 404, "not_found")
        assert_error(client.get("/", headers={"X": "x" * 40_000}), 400, "bad_request")
        assert_error(client.get(f"/{'x' * 40_000}"), 414, "bad_request")
        assert_error(client.request("TRACE", "/"), 405, "method_not_allowed")
        assert_error(client.get("/", headers={"Host": "a b"}), 400, "bad_request")


def test_its_log_holds_no_name_of_a_result(tmp_path: Path) -> None:
    with instances("a") as (only,), balancer(tmp_path, only.server_port) as client:
        client.get("/files/secret.jpg", headers={"X-Request-ID": "mine"})
    (line,) = (tmp_path / "access.log").read_text().splitlines()
    assert "secret" not in line
    assert "request_id=mine" in line


def test_instances_with_folders_of_their_own_get_what_is_theirs(tmp_path: Path) -> None:
    with instances("a", "b") as (a, b), balancer(tmp_path, a.server_port, b.server_port, own_folders=True) as client:

        def owners(path: str) -> set[str]:
            return {client.get(path).json()["name"] for _ in range(6)}

        assert owners("/jobs/a-0123") == owners("/jobs/a-0123/events") == owners("/files/a-0123.jpg") == {"a"}
        assert owners("/jobs/b-0123") == owners("/files/b-0123.jpg") == {"b"}
        chosen = [owners(f"/jobs/order-{number}") for number in range(20)]
        assert {len(names) for names in chosen} == {1}
        assert set().union(*chosen) == owners("/upscale") == {"a", "b"}
        assert owners("/jobs/order-7/events") == owners("/jobs/order-7/cancel") == chosen[7]
        (owner,) = chosen[7]
        (a if owner == "a" else b).is_full = True
        assert client.put("/jobs/order-7").json()["name"] == owner, "two instances might start the same job"
