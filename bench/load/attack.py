"""`make attack`: requests that the OpenAPI document allows and forbids, by the hundred, from schemathesis (https://schemathesis.io).

A server process with the real weights; the same seed, so the same requests. Exit status 1 if a response is a 5xx that is not
documented, has a status, a header or a body that the document lacks, or accepts what the document forbids.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from bench.server import ROOT, running_server

SCHEMATHESIS = "schemathesis==4.32.5"
TOOL = ROOT / "build" / "attack"  # an environment of its own: its packages are none of the service's
CONFIG = """[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]  # a full queue and a deadline are no internal errors
"""
OPTIONS = [
    *("--checks", "all"),
    *("--exclude-checks", "positive_data_acceptance"),  # a string of base64 need not be a picture
    *("--max-examples", "100"),
    *("--seed", "1"),
    *("--request-timeout", "60"),
]


def main() -> int:
    """Install the tool, start a server, attack it."""
    if not (TOOL / "bin" / "st").exists():
        venv.create(TOOL, with_pip=True)
        subprocess.run([TOOL / "bin" / "pip", "install", "--quiet", SCHEMATHESIS], check=True)  # noqa: S603 - constants
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), REQUEST_TIMEOUT_SECONDS="5") as server:
        config = Path(folder, "schemathesis.toml")
        config.write_text(CONFIG, encoding="utf-8")
        command = [str(TOOL / "bin" / "st"), "--config-file", str(config), "run", f"{server.url}/openapi.json", *OPTIONS]
        return subprocess.run(command, cwd=folder, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
