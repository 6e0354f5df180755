"""`make audit`: finds what the service knows, and says in one line where there is no service.."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.server import ROOT, free_port

VULNERABILITY = {
    "id": "PYSEC-2026-1",
    "modified": "2026-01-01T00:00:00Z",
    "summary": "A test",
    "affected": [
        {
            "package": {"name": "any", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
        }
    ],
}


@contextmanager
def osv(bad: set[str]) -> Iterator[str]:
    """A service that knows a vulnerability in each of these packages."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked["package"]["name"].lower()
            entry = json.loads(json.dumps(VULNERABILITY).replace('"any"', f'"{name}"'))
            body = json.dumps({"vulns": [entry]} if name in bad else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/v1/query"
        finally:
            httpd.shutdown()
            thread.join()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OSV_URL": url}
    return subprocess.run(
        [sys.executable, "scripts/audit.py"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_without_the_service_one_line_says_so() -> None:
    done = audit(f"http://127.0.0.1:{free_port()}/v1/query")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("not audited: http://127.0.0.1:")


def test_a_service_that_knows_nothing_is_not_taken_for_good_news() -> None:
    with osv(set()) as url:
        done = audit(url)
    assert (done.returncode, done.stdout) == (0, "")
    assert "not audited" in done.stderr


@pytest.mark.slow  # installs pip-audit
def test_a_known_vulnerability_is_found() -> None:
    with osv({"jinja2", "pillow"}) as url:
        done = audit(url)
    assert done.returncode == 1, done.stderr
    assert "PYSEC-2026-1" in done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines() if "PYSEC" in line} == {"jinja2", "pillow"}
