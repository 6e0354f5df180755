"""No secret reaches the log, wherever a client puts it, at LOG_LEVEL=DEBUG, over a server process."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.server import Server, free_port, running_server
from schemas.request import FIELDS
from tests.helpers import FAKE, b64, encode, sample_crop, wait_until

KEY = "the-key-of-the-house"
TOKEN = "the-token-of-the-registry"
PASSWORD = "the-password-of-the-registry"
SIGNING = base64.b64encode(b"the-secret-of-the-webhooks").decode()
SILENCE_SECONDS = 10.0
IMAGE = encode(sample_crop(2, 1))


def http(start: str, *headers: str, body: bytes = b"", key: str = f"X-API-Key: {KEY}") -> bytes:
    lines = [f"{start} HTTP/1.1", "Host: test", "Connection: close", f"Content-Length: {len(body)}", key, *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def of_json(body: object, *headers: str, start: str = "POST /upscale?target_resolution=2k") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http(start, "Content-Type: application/json", *headers, body=data)


def raw(query: str, *headers: str, image: bytes = IMAGE) -> bytes:
    return http(f"POST /upscale?target_resolution=2k&{query}", "Content-Type: image/png", *headers, body=image)


def with_chunk(name: bytes, content: bytes) -> bytes:
    """The image with another chunk after its header."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return IMAGE[:33] + chunk + IMAGE[33:]


def basic(secret: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{secret}:{secret}".encode()).decode()


ASYNC = "Prefer: respond-async"
HEADERS = [
    "Accept",
    "Accept-Language",
    "Authorization",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Cookie",
    "Expect",
    "Forwarded",
    "Host",
    "HTTP2-Settings",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Origin",
    "Prefer",
    "Range",
    "Referer",
    "TE",
    "Transfer-Encoding",
    "Upgrade",
    "User-Agent",
    "X-API-Key",
    "X-Forwarded-For",
    "X-Request-Timeout",
]
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PROPFIND")


def requests_with(s: str) -> dict[str, bytes]:
    """A request with the secret in each place that a client can put it, by the place."""
    image = {"image_b64": b64(IMAGE)}
    paths = [f"/{s}", f"//{s}", f"/%2e/{s}", f"/files/{s}", f"/files/{s}/", f"/jobs/{s}", f"/jobs/{s}/cancel"]
    paths += [
        f"/upscale/{s}",
        f"/health?key={s}",
        f"/metrics?{s}",
        f"/?{s}",
        f"http://user:{s}@test/x",
        f"http://{s}/health",
        f"*{s}",
        s,
    ]
    urls = [
        f"https://bob:{s}@example.com/x",
        f"https://{s}@example.com/",
        f"http://127.0.0.1:1/{s}",
        f"http://{s}.invalid/",
        s,
    ]
    urls += [
        f"http://127.0.0.1:70000/{s}?{s}#{s}",
        f"ftp://{s}/",
        f"http://[{s}]/",
        f"http://127.0.0.1:{s}/",
        f"http://x\n{s}/",
    ]
    form = f"--{s}\r\nContent-Disposition: form-data; name={s}\r\n\r\n{s}\r\n--{s}--\r\n".encode()
    profile = s.encode() + b"\0\0" + zlib.compress(s.encode())
    return {
        **{f"header {name}": http("GET /files/x", f"{name}: {s}") for name in HEADERS},
        **{f"header {name} of a POST": raw("quality=0", f"{name}: {s}") for name in HEADERS},
        **{f"{method} {number}": http(f"{method} {path}") for method in METHODS for number, path in enumerate(paths)},
        **{f"webhook {number}": of_json({**image, "webhook": url}, ASYNC) for number, url in enumerate(urls)},
        **{
            f"webhook {number} in the query": raw(f"webhook={url}", ASYNC)
            for number, url in enumerate(urls)
            if url.isprintable()
        },
        **{f"query {name}": raw(f"{name}={s}") for name in FIELDS},
        **{f"field {name}": of_json({**image, name: s}) for name in FIELDS},
        **{f"number in {name}": of_json({**image, name: int(s, 16)}) for name in FIELDS},
        **{f"list in {name}": of_json({**image, name: [{s: s}]}) for name in FIELDS},
        "key that is wrong": http("GET /metrics", key=f"Authorization: Bearer {s}"),
        "password that is wrong": http("GET /metrics", key=basic(s)),
        "digest": http("GET /metrics", key=f'Authorization: Digest username="{s}"'),
        "name of a field": of_json({**image, s: 1, "quality": 0}),
        "name in the query": raw(f"{s}=1&quality=0"),
        "repeated": raw(f"quality={s}&quality={s}"),
        "JSON that is none": of_json(f'{{"image_b64": {s}'.encode()),
        "JSON that is a text": of_json(s),
        "JSON that is no object": of_json([s]),
        "base64 of it": of_json({"image_b64": b64(s.encode())}),
        "data URL": of_json({"image_b64": f"data:image/{s};base64,!"}),
        "multipart": http("POST /upscale", f"Content-Type: multipart/form-data; boundary={s}", body=form),
        "form": http("POST /upscale", "Content-Type: application/x-www-form-urlencoded", body=s.encode()),
        "image that is none": raw("quality=50", image=s.encode()),
        "text in a PNG": raw("quality=51", image=with_chunk(b"tEXt", b"Comment\0" + s.encode())),
        "profile of a PNG": raw("quality=52", image=with_chunk(b"iCCP", profile)),
        "broken PNG": raw("quality=53", image=IMAGE[:40] + s.encode()),
        "job": of_json(image, ASYNC, start=f"PUT /jobs/{s}?target_resolution=2k"),
        "job of another kind": of_json({**image, "quality": s}, ASYNC, start=f"PUT /jobs/{s}"),
        "id of a request": http("GET /health", f"X-Request-ID: {s} {s}"),
        "name of a header": http("GET /health", f"{s}: 1"),
        "header that is none": http("GET /health", s),
        "broken header": http("GET /health", f"A: \0{s}"),
        "method": http(f"{s.upper()} /health"),
        "version": f"GET /health HTTP/{s}\r\nHost: test\r\n\r\n".encode(),
        "first line": f"{s}\r\n\r\n".encode(),
        "chunk": f"POST /upscale HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n{s}x\r\n".encode(),
        "head that is too long": http("GET /health", f"A: {s * 3000}"),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + s.encode(),
    }


@pytest.fixture(scope="module", params=["text", "json"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": request.param, "API_KEY": KEY, "BODY_TIMEOUT_SECONDS": "3"}
    settings |= {"WEBHOOK_ALLOW_PRIVATE": "true", "WEBHOOK_SECRET": SIGNING, "DEVICE": "cpu"}
    settings |= {"REGISTRY_URL": f"http://user:{PASSWORD}@127.0.0.1:{free_port()}/?{PASSWORD}", "REGISTRY_TOKEN": TOKEN}
    with running_server(tmp_path_factory.mktemp("outputs"), program=FAKE, **settings) as running:
        yield running


def send(server: Server, data: bytes) -> bytes:
    """All that comes back until the server closes the connection, or is silent."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    received = b""
    connection = socket.create_connection((host, int(port)), SILENCE_SECONDS)
    with connection, contextlib.suppress(ConnectionError, TimeoutError):
        connection.sendall(data)
        while piece := connection.recv(65536):
            received += piece
    return received


def job_object(response: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(response.partition(b"\r\n\r\n")[2])
    return parsed


def log_until(server: Server, request_id: str) -> str:
    """All lines, once that of this request is there."""
    send(server, http("GET /health", f"X-Request-ID: {request_id}"))
    wait_until(lambda: any(request_id in line for line in server.log))
    return "".join(server.log)


def test_no_secret_is_in_the_log_wherever_a_client_puts_it(server: Server) -> None:
    places = {secrets.token_hex(8): place for place in requests_with("0")}
    for secret, place in places.items():
        assert b"internal_error" not in send(server, requests_with(secret)[place]), place
    log = log_until(server, "the-last-one")
    assert log.count("message=request" if "message=" in log else '"message": "request"') > len(places) / 2
    in_log = {
        place
        for secret, place in places.items()
        for form in (secret, str(int(secret, 16)), base64.b64encode(f"{secret}:".encode())[:20].decode())
        if form in log.lower() or form in log
    }
    assert in_log == set()
    assert [ours for ours in (KEY, TOKEN, PASSWORD, SIGNING, "the-secret-of-the-webhooks") if ours in log] == []


def test_no_name_of_a_result_is_in_the_log_and_no_url_of_a_webhook(server: Server) -> None:
    url = f"http://127.0.0.1:{free_port()}/the-path?the-query"
    job_id = job_object(send(server, of_json({"image_b64": b64(IMAGE), "webhook": url}, ASYNC)))["id"]
    wait_until(lambda: b"succeeded" in send(server, http(f"GET /jobs/{job_id}")))
    name = Path(job_object(send(server, http(f"GET /jobs/{job_id}")))["result"]["file_path"]).name
    for method in METHODS:
        for path in (f"/files/{name}", f"/files/{name}/", f"/Files/{name}", f"/x/../files/{name}", f"/jobs/{job_id}/x"):
            send(server, http(f"{method} {path}"))
    log = log_until(server, "the-very-last-one")
    assert [secret for secret in (name.partition(".")[0], job_id, "the-path", "the-query") if secret in log] == []


def test_every_line_is_a_record(server: Server) -> None:
    assert [line for line in server.log if not line.startswith(("time=", '{"time"'))] == []
