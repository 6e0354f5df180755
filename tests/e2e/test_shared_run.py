"""With the real network: another quality of the same picture comes from the same run, and its bytes are the right ones."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import httpx
import pytest

from bench.server import Server
from tests.e2e.faults import new_picture

pytestmark = pytest.mark.xdist_group("faults")  # they share a server


def passes_of(server: Server) -> str:
    found = re.search(
        r'^upscale_stage_seconds_count{stage="pass_1"} (.*)$', httpx.get(f"{server.url}/metrics").text, re.MULTILINE
    )
    assert found
    return found[1]


def test_another_quality_runs_no_network_and_has_the_bytes_of_a_run_of_its_own(
    server: Server, golden: Callable[[bytes], bytes]
) -> None:
    image = new_picture()
    assert server.upscale(image, quality=50)["cached"] is False
    before = passes_of(server)
    second = server.upscale(image)
    assert (second["cached"], passes_of(server)) == (True, before)
    assert base64.b64decode(second["base64"]) == golden(image)
