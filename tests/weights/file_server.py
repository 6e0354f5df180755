"""A real HTTP server on loopback that sends weights as a script says, and one run of the fetching."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.helpers import HANG_SECONDS
from weights.download import Patience
from weights.fetch import fetch_all, summary
from weights.manifest import WeightFile

DATA = bytes(range(256)) * 4096  # 1 MiB: more than the socket buffers hold at once
PATIENT = Patience(connect_seconds=HANG_SECONDS, silence_seconds=HANG_SECONDS)
IMPATIENT = Patience(connect_seconds=1, silence_seconds=1)
Respond = Callable[["Handler"], None]


class FileServer(ThreadingHTTPServer):
    """Answers the requests for each path as `script` says, in order, the last one for ever; 404 where it says nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: dict[str, list[Respond]] = {}
        self.asked: list[tuple[str, str | None]] = []  # path and Range of each request
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some of these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Range"]))
        answers = self.server.script.get(self.path, [status(404)])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *args: object) -> None:
        """Not into pytest's output."""

    def head(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


def whole(data: bytes = DATA) -> Respond:
    """All of it, whatever Range says."""

    def respond(handler: Handler) -> None:
        handler.head(200, Content_Length=len(data))
        handler.wfile.write(data)

    return respond


def rest(data: bytes = DATA) -> Respond:
    """What Range asks for."""

    def respond(handler: Handler) -> None:
        start = int(re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"])[1])  # type: ignore[index]
        handler.head(206, Content_Length=len(data) - start, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.wfile.write(data[start:])

    return respond


def cut(at: int = len(DATA) // 2) -> Respond:
    """The connection ends in the middle."""

    def respond(handler: Handler) -> None:
        handler.head(200, Content_Length=len(DATA))
        handler.wfile.write(DATA[:at])

    return respond


def stall(at: int = len(DATA) // 2) -> Respond:
    """The bytes end in the middle, and the connection stays open."""

    def respond(handler: Handler) -> None:
        cut(at)(handler)
        handler.wfile.flush()
        handler.server.closing.wait()

    return respond


def silence(handler: Handler) -> None:
    handler.server.closing.wait()


def status(code: int) -> Respond:
    return lambda handler: handler.head(code, Content_Length=0)


def a_file(url: str, name: str = "net.pth", **changes: object) -> WeightFile:
    file = WeightFile(
        name=name,
        purpose="A network.",
        without="the tests fail",
        license="MIT",
        size_bytes=len(DATA),
        sha256=hashlib.sha256(DATA).hexdigest(),
        url=url,
    )
    return replace(file, **changes)  # type: ignore[arg-type]


class Run:
    """One `fetch_all` of these files: what it said, what it returned, what lies in the folder."""

    def __init__(self, folder: Path, *files: WeightFile, mirror: str = "", patience: Patience = PATIENT) -> None:
        self.lines: list[str] = []
        manifest = {file.name: file for file in files}
        self.have = fetch_all(manifest, folder, mirror=mirror, patience=patience, say=self.lines.append)
        self.folder = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.summary = list(summary(manifest, self.have, folder))

    def said(self, text: str) -> int:
        return sum(text in line for line in self.lines)
