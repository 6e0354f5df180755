"""What is measured on a graphics card runs here on the CPU, so that no minute of a card is lost on a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench import gpu
from bench.report.gpu import report
from core.config import PROJECT
from tests.helpers import sample_crop

from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip - after models has prepared the process

PARTS = [part for part in gpu.PARTS if part != "profile"]  # which takes half a minute here


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network, which RealESRGANer would not load; and pictures, since the benchmarks' are of another group."""
    monkeypatch.setattr("realesrgan.RealESRGANer", lambda *_, **__: SimpleNamespace(enhance=np.asarray))
    monkeypatch.setattr(gpu, "square", lambda side: sample_crop(side, side, left=170, top=60))
    monkeypatch.setattr(gpu, "build_rrdbnet", lambda *_: RRDBNet(3, 3, num_feat=64, num_block=1, num_grow_ch=32).eval())
    monkeypatch.setattr(gpu, "_fur", lambda side: sample_crop(side, side, left=100, top=10))


@pytest.mark.usefixtures("one_torch_thread")
def test_every_part_runs_and_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--dry", "--out", str(tmp_path), *PARTS]) == 0
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert figures["exactness, fp32, fur"]["repeats"]
    assert figures["exactness, fp32, fur"]["grey levels"] <= 1
    text = report(figures)
    for row in ("| 16×8 |", "| fur | torch fp32 |", "| search for faces, 128² |", "| JPEG of 7680×4320 by Pillow |"):
        assert row in text
    assert "context: " in capsys.readouterr().out


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: gpu.Card) -> None:
        raise RuntimeError("no such card")

    monkeypatch.setitem(gpu.PARTS, "environment", fail)
    assert gpu.main(["--dry", "--out", str(tmp_path), "environment", "jpeg"]) == 1
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert "no such card" in figures["failed: environment"]
    assert "JPEG by Pillow" in figures


def test_the_committed_figures_are_those_of_the_page() -> None:
    page = (PROJECT / "docs" / "gpu.md").read_text()
    assert report(json.loads((PROJECT / "docs" / "bench" / "gpu.json").read_text())) in page
