"""A folder with pictures in it, for the command line around a fake network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.command.runs import SMALL
from tests.helpers import encode, sample_crop


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a picture of each kind, and a note that is none."""
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(SMALL)
    Path("b.jpg").write_bytes(encode(sample_crop(50, 40), "JPEG"))
    Path("clear.png").write_bytes(encode(np.dstack([sample_crop(40, 30), np.full((30, 40), 9, np.uint8)])))
    Path("note.jpg").write_text("not a picture")
    return tmp_path
