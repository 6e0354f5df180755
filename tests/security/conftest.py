"""A server process for attacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.server import Server, running_server
from tests.helpers import FAKE

BODY_TIMEOUT_SECONDS = 2.5


@pytest.fixture(scope="package")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="package")
def server(outputs: Path) -> Iterator[Server]:
    settings = {"BODY_TIMEOUT_SECONDS": str(BODY_TIMEOUT_SECONDS), "LOG_LEVEL": "INFO"}
    with running_server(outputs, program=FAKE, **settings) as running:
        yield running
