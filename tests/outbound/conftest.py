"""Fixtures of the tests of outgoing requests."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from core.config import Settings
from core.logs import OURS, set_level
from tests.helpers import with_settings
from tests.outbound.receiver import SECRET
from tests.outbound.registry import Registry


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own proxy must not see loopback."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    registry = Registry()
    await registry.open()
    yield registry
    await registry.close()


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every logger at DEBUG, as far as an operator can ask for it."""
    with caplog.at_level(logging.DEBUG):  # of the handler
        set_level("DEBUG")
        yield caplog
    for name in OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def open_settings(settings: Settings) -> Settings:
    return with_settings(settings, webhook_allow_private=True, webhook_secret=SECRET)
