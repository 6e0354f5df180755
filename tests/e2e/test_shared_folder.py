"""Two processes that share a folder, one of which is killed."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.helpers import HANG_SECONDS
from tests.scale.jobs import holding, submit, wait_for


def test_a_job_is_shown_and_cancelled_at_another_instance_and_taken_up_when_its_own_is_killed(tmp_path: Path) -> None:
    outputs, files = tmp_path / "outputs", tmp_path / "files"
    with holding(outputs, files) as first, holding(outputs, tmp_path / "others") as second:
        (files / "hold").touch()
        job, unwanted = submit(first), submit(first)
        wait_for([job], second, lambda shown: shown["status"] == "processing")
        wait_for([unwanted], second, lambda shown: shown["position"] == 1)
        canceled = httpx.post(f"{second.url}/jobs/{unwanted.id}/cancel", timeout=HANG_SECONDS).json()
        assert canceled["status"] == unwanted.at(first)["status"] == "canceled"
        assert first.process
        first.process.kill()
        wait_for([job], second, lambda shown: shown["status"] == "succeeded")
        assert job.is_right_at(second)
    assert list(outputs.glob("unfinished/*.request")) == []
