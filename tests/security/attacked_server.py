"""What a server must still be after an attack."""

from __future__ import annotations

import os
from pathlib import Path

from bench.server import Server
from tests.helpers import encode
from tests.security.attack_files import STRIP


def processor_seconds(server: Server) -> float:
    """What the process has used so far, which does not depend on what else the machine has to do."""
    assert server.process
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def handles(server: Server) -> int:
    """Open files and sockets, and threads."""
    assert server.process
    return sum(len(list(Path(f"/proc/{server.process.pid}/{name}").iterdir())) for name in ("fd", "task"))


def assert_unharmed(server: Server) -> None:
    assert server.process and server.process.poll() is None
    assert "Traceback" not in "".join(server.log), "".join(server.log)[-5000:]
    assert server.upscale(encode(STRIP))["success"] is True
