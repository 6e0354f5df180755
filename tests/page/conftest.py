"""A real browser before a real server: Debian's Chromium, driven by Playwright, in a pytest process of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from bench.browser import launch
from core.config import Settings
from model_utility import Models
from tests.helpers import FakeResolver, fake_models, ready, serving
from workers.speed import Speed

WAIT_MS = 20_000  # the longest that a test waits for anything: the machine may be busy

expect.set_options(timeout=WAIT_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in a window of its own, and what the browser said of it."""

    page: Page
    url: str
    console: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def watch(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        # The browser itself says of every response from 400 on, even one that is expected, that it failed.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.console.append(message.text)

    def _see(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data"):
            self.hosts.add(parts.netloc)


@contextmanager
def visit(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    """The page, opened; in the end nothing may have been wrong in the console, and no other host asked."""
    context: BrowserContext = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})  # type: ignore[arg-type]
    context.set_default_timeout(WAIT_MS)
    seen = Visit(context.new_page(), url)
    seen.watch()
    seen.page.goto(url)
    yield seen.page
    context.close()
    assert seen.console == []
    assert seen.hosts == {urlsplit(url).netloc}


@contextmanager
def served(settings: Settings, load: Callable[[Settings], Models]) -> Iterator[str]:
    """The service with those models, in a thread: Playwright's calls block, and so would its event loop."""
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(settings, load) as (client, service):
            await ready(client)
            # Measured beside other work, it may be any.
            service._admission.speeds = {"cpu": Speed(fixed_seconds=0.001, seconds_per_flop=1e-8)}
            started.set()
            await asyncio.get_running_loop().run_in_executor(None, stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(60)
        yield f"http://127.0.0.1:{settings.port}/"
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def resolver() -> Iterator[FakeResolver]:
    """The fake model of `site`; clear its gate to hold what runs."""
    resolver = FakeResolver()
    yield resolver


@pytest.fixture
def site(settings: Settings, resolver: FakeResolver) -> Iterator[str]:
    """The address of a service with a fake model."""
    with served(settings, lambda _: fake_models(resolver)) as url:
        yield url
        resolver.gate.set()


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    """The page of `site`, on a desk."""
    with visit(browser, site) as page:
        yield page
