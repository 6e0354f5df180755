"""Fixtures of every test module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from bench.server import free_port
from core.config import Settings
from tests.helpers import WEIGHTS, fake_models, serving, started

LONG_ID = 60  # characters of a parameter, beyond which it names no test


@pytest.hookimpl(tryfirst=True)  # xdist looks for groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beside each other run files, but for those that name a group, which share a server."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Short, and the same in each process: in a colour profile there is the time at which it was made."""
    return f"{argname} of {len(val)}" if isinstance(val, bytes | str) and len(val) > LONG_ID else None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A service of the test's own: free port, its own output folder."""
    return Settings(host="127.0.0.1", port=free_port(), output_dir=tmp_path / "outputs", weights_dir=WEIGHTS)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Of a service that is ready, with a fake network."""
    async with serving(settings, lambda _: fake_models()) as (client, service):
        await started(service)
        yield client


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Threads of one pass wait for each other at every layer; beside busy processes that takes ten times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
