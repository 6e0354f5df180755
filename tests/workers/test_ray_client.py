"""DEVICE=ray where there is no Ray."""

from __future__ import annotations

import subprocess
import sys

from bench.server import ROOT
from tests.scale.ray_cluster import HAS_RAY


def test_whoever_has_no_cluster_is_told_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-m", "workers.ray_worker"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert ("`ray start`" if HAS_RAY else "scripts/setup.sh --ray") in done.stderr
    assert "Traceback" not in done.stderr
