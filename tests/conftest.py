"""Fixtures of every test module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bench.server import free_port
from core.config import Settings
from tests.helpers import WEIGHTS as WEIGHTS
from tests.helpers import FakeResolver as FakeResolver  # tests/page, test_bench and test_soak import these from here as yet
from tests.helpers import encode as encode
from tests.helpers import fake_models as fake_models
from tests.helpers import ready as ready
from tests.helpers import sample_crop as sample_crop
from tests.helpers import serving as serving


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A service of the test's own: free port, its own output folder."""
    return Settings(host="127.0.0.1", port=free_port(), output_dir=tmp_path / "outputs", weights_dir=WEIGHTS)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Of a service that is ready, with a fake network."""
    async with serving(settings, lambda _: fake_models()) as (client, _):
        await ready(client)
        yield client
