"""The unit of systemd, read by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from bench.server import ROOT
from core.config import Settings
from serving.lifecycle import CANCEL_SECONDS
from tests.deploy.balancer import DEPLOY

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


def test_it_is_not_killed_while_it_drains() -> None:
    assert int(unit()["TimeoutStopSec"]) > Settings().drain_seconds + CANCEL_SECONDS


def test_a_lost_card_is_tried_again_and_a_wrong_setting_is_not() -> None:
    assert (unit()["Restart"], unit()["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert unit()["SuccessExitStatus"] == "143"
