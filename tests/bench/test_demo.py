"""`make demo` against a running service with a fake network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.images import demo
from bench.server import SAMPLE, running_server
from tests.helpers import decode, max_difference


def test_it_never_shows_what_was_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = ("-m", "tests.scale.sleeping_server")
    with running_server(tmp_path / "outputs", program=program, SLEEP_SECONDS="0") as server:
        monkeypatch.setenv("PORT", server.url.rpartition(":")[2])
        for _ in range(2):
            assert demo.main(tmp_path / "demo") == 0
            said = capsys.readouterr().out
            assert "1920×1200 in " in said
            assert " s, newly made; faces found: " in said
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"astronaut-2k.jpg", "before-after.png"}


def test_what_it_posts_looks_like_the_sample() -> None:
    posted, sample = decode(demo.unseen(SAMPLE))[0].pixels, decode(SAMPLE.read_bytes())[0].pixels
    assert max_difference(posted, sample) == 1
    assert np.count_nonzero(posted != sample) <= 64
