"""Ask OSV (https://osv.dev) whether a vulnerability is known in any package of this environment: `make audit`.

Exit status 0: none is known, or the service cannot be reached, which one line then says; 1: some are, in a table.
pip-audit's other service, the Python index, is not asked: a mirror that knows no vulnerabilities looks like good news there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import httpx

PIP_AUDIT = "pip-audit==2.10.1"
TOOL = Path(__file__).parent.parent / "build" / "audit"  # of its own: its thirty packages are none of the service's
KNOWN_BAD = {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "version": "2.4.1"}


def main(url: str, tool: Path = TOOL) -> int:
    """Audit with the OSV service at `url`."""
    if reason := _unreachable(url):
        sys.stderr.write(f"not audited: {url} {reason}\n")
        return 0
    if not (tool / "bin" / "pip-audit").exists():
        venv.create(tool, with_pip=True)
        subprocess.run([tool / "bin" / "pip", "install", "--quiet", PIP_AUDIT], check=True)  # noqa: S603 - our own words
    packages = sysconfig.get_path("purelib")
    options = ["--progress-spinner", "off", "--vulnerability-service", "osv", "--osv-url", url, "--path", packages]
    return subprocess.run([tool / "bin" / "pip-audit", *options], check=False).returncode  # noqa: S603


def _unreachable(url: str) -> str:
    """Why the service cannot be asked; empty if it can."""
    try:
        answer = httpx.post(url, json=KNOWN_BAD, timeout=15)
        return "" if answer.json().get("vulns") else f"does not answer as OSV does (status {answer.status_code})"
    except httpx.TransportError as exc:
        return f"cannot be reached: {exc}"
    except ValueError:
        return f"does not answer as OSV does (status {answer.status_code})"


if __name__ == "__main__":
    sys.exit(main(os.environ.get("OSV_URL", "https://api.osv.dev/v1/query")))
