"""Several workers of one process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import httpx
import pytest

from bench.server import running_server
from tests.helpers import FAKE
from tests.scale.crowd import crowd


def rate_of(workers: int) -> float:
    """Pictures a second."""
    settings = {"DEVICE": ",".join(["cpu"] * workers), "SLEEP_SECONDS": "0.5"}
    with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs), program=FAKE, **settings) as server:
        report = crowd(server.url, pictures=24 * workers, clients=2 * workers + 6)
        page = httpx.get(f"{server.url}/metrics").text
    assert report.faults == []
    assert page.count("upscale_worker_tasks_total{") == workers
    print(f"{workers} workers: {report.rate:.2f} pictures a second")  # noqa: T201
    return report.rate


@pytest.mark.scale
def test_two_and_four_workers_do_two_and_four_times_as_much() -> None:
    one, two, four = map(rate_of, (1, 2, 4))
    assert two / one >= 1.9
    assert four / one >= 3.6
