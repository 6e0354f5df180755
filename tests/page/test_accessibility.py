"""axe-core's rules, in every state that the page has, in light and dark."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.helpers import FakeResolver
from tests.page.conftest import visit
from tests.page.test_page import WIDE, button, file, pick, start


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_in_any_state(browser: Browser, site: str, resolver: FakeResolver, scheme: str) -> None:
    with visit(browser, site, color_scheme=scheme, reduced_motion="reduce") as page:
        assert violations(page) == []
        pick(page, file(WIDE, "wide.png", "image/png"))
        expect(button(page, "Upscale")).to_be_enabled()
        assert violations(page) == []
        pick(page, file(b"none", "broken.jpg"))
        expect(page.locator("#problem")).to_be_visible()
        assert violations(page) == []
        resolver.gate.clear()
        pick(page)
        start(page)
        expect(button(page, "Cancel")).to_be_visible()
        assert violations(page) == []
        resolver.gate.set()
        expect(page.get_by_role("link", name="Download")).to_be_visible()
        expect(page.get_by_role("slider", name="How much")).to_be_visible()
        assert violations(page) == []


def violations(page: Page) -> list[str]:
    """Which rule, and where."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]
