"""nginx with the configuration of deploy/, in front of instances on loopback."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.server import ROOT, free_port
from tests.helpers import wait_until

DEPLOY = ROOT / "deploy"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx-light)")

_SHARED_FOLDER = "    map $uri $pool { default upscale; }\n"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
_SERVERS = re.compile(r"( *server upscale-\d:10005 max_fails=0;\n)+")


def configuration(folder: Path, port: int, instances: Sequence[int], own_folders: bool = False) -> Path:
    """A copy of deploy/nginx.conf with these ports of loopback in it, and all that it writes in `folder`."""
    text = (DEPLOY / "nginx.conf").read_text()
    if own_folders:
        text = _replaced(text, _SHARED_FOLDER, (DEPLOY / "own_folders.conf").read_text())
    servers = "".join(f"server 127.0.0.1:{instance} max_fails=0;\n" for instance in instances)
    text, count = _SERVERS.subn(servers, text)
    assert count == 1
    for number, instance in enumerate(instances):
        text = text.replace(f"upscale-{number}:10005", f"127.0.0.1:{instance}")
    text = _replaced(text, "listen 10005;", f"listen 127.0.0.1:{port};")
    text = _replaced(text, "/var/log/nginx/", f"{folder}/")
    text = _replaced(text, "pid /run/nginx.pid;", f"pid {folder}/nginx.pid; user root; daemon off;")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in _TEMPORARY)
    text = _replaced(text, "http {\n", f"http {{\n{temporary}")
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} is not in the configuration once"
    return text.replace(old, new)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def nginx(folder: Path, *options: str) -> list[str]:
    """The command that runs nginx; its errors go into `folder`."""
    return [NGINX or "nginx", "-e", str(folder / "error.log"), *options]


@contextmanager
def balanced(folder: Path, instances: Sequence[int], own_folders: bool = False) -> Iterator[str]:
    """The URL of an nginx in front of them."""
    port = free_port()
    path = configuration(folder, port, instances, own_folders)
    process = subprocess.Popen(nginx(folder, "-c", str(path)))  # noqa: S603
    try:
        wait_until(lambda: _is_open(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
