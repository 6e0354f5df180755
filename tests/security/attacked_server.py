"""What a server must still be after an attack."""

from __future__ import annotations

from pathlib import Path

from bench.server import Server
from tests.helpers import encode
from tests.security.attack_files import STRIP

HANG_SECONDS = 5.0


def handles(server: Server) -> int:
    """Open files and sockets, and threads."""
    assert server.process
    return sum(len(list(Path(f"/proc/{server.process.pid}/{name}").iterdir())) for name in ("fd", "task"))


def assert_unharmed(server: Server) -> None:
    assert server.process and server.process.poll() is None
    assert "Traceback" not in "".join(server.log), "".join(server.log)[-5000:]
    assert server.upscale(encode(STRIP))["success"] is True
