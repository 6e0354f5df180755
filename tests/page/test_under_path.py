"""The page behind a path of a proxy that leaves the path in its requests."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, expect

from core.config import Settings
from tests.helpers import fake_models, with_settings
from tests.page.actions import upscale
from tests.page.conftest import served, visit


def test_everything_of_the_page_is_asked_for_below_its_path(browser: Browser, settings: Settings) -> None:
    settings = with_settings(settings, root_path="/up")
    with served(settings, lambda _: fake_models()) as url, visit(browser, f"{url}up/") as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        upscale(page)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert download.value.failure() is None
        expect(page.get_by_role("link", name="API")).to_have_attribute("href", "docs")
        assert [each for each in asked if not re.match(rf"{url}up/|blob:|data:", each)] == []
