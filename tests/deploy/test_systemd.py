"""The unit of systemd, read by systemd itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from bench.server import ROOT, free_port
from core.config import Settings
from serving.lifecycle import CANCEL_SECONDS
from tests.deploy.balancer import DEPLOY
from tests.helpers import FAKE, SMALL_SERVER, wait_until

ANALYZE = shutil.which("systemd-analyze")


def unit() -> dict[str, str]:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "upscale.service")
    return dict(parser["Service"])


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
def test_systemd_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "upscale.service"
    path.write_text((DEPLOY / "upscale.service").read_text().replace("/opt/upscale", str(ROOT)))
    said = subprocess.run([str(ANALYZE), "verify", path], check=True, capture_output=True, text=True)  # noqa: S603
    assert said.stderr == ""


def test_a_reload_at_once_waits_for_the_service(tmp_path: Path) -> None:
    python, command = "/opt/upscale/.venv/bin/python", unit()["ExecStart"].replace("app.py", " ".join(FAKE))
    environment = {**os.environ, **SMALL_SERVER, "PORT": str(free_port()), "OUTPUT_DIR": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command.replace(python, sys.executable).split(), cwd=ROOT, env=environment, stderr=log)  # noqa: S603
    try:
        cmdline = Path(f"/proc/{process.pid}/cmdline")
        wait_until(lambda: cmdline.read_text().startswith(f"{sys.executable}\0-m\0weights"))  # which handles no signal yet
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "SIGHUP: no API_KEY_FILE" in (tmp_path / "log").read_text() or process.poll() is not None)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_it_is_not_killed_while_it_drains() -> None:
    assert int(unit()["TimeoutStopSec"]) > Settings().drain_seconds + CANCEL_SECONDS


def test_a_lost_card_is_tried_again_and_a_wrong_setting_is_not() -> None:
    assert (unit()["Restart"], unit()["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert unit()["SuccessExitStatus"] == "143"
