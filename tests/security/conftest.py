"""A server process for attacks, started as an operator starts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.server import Server, running_server
from tests.helpers import SMALL_SERVER

BODY_TIMEOUT_SECONDS = 2.5


@pytest.fixture(scope="package")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="package")
def server(outputs: Path) -> Iterator[Server]:
    settings = {**SMALL_SERVER, "BODY_TIMEOUT_SECONDS": str(BODY_TIMEOUT_SECONDS), "LOG_LEVEL": "INFO"}
    with running_server(outputs, **settings) as running:
        yield running
