"""The page of documents at /docs, in Chromium."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Browser, expect

from core.config import Settings
from tests.helpers import fake_models, with_settings
from tests.page.conftest import served, visit


@pytest.mark.parametrize(("operation", "root_path"), [("plan", ""), ("upscale", "/up")])
def test_what_the_documents_offer_to_try_works_as_it_stands(
    browser: Browser, settings: Settings, operation: str, root_path: str
) -> None:
    settings = with_settings(settings, root_path=root_path)
    with (
        served(settings, lambda _: fake_models()) as url,
        visit(browser, f"{url.rstrip('/')}{root_path}/docs") as page,
    ):
        block = page.locator(f"#operations-pictures-{operation}")
        block.get_by_role("button").first.click()
        block.get_by_role("button", name="Try it out").click()
        with page.expect_response(lambda response: response.request.method == "POST") as heard:
            block.get_by_role("button", name="Execute").click()
        assert heard.value.status == 200, heard.value.text()
        assert heard.value.url.endswith(f":{settings.port}{root_path}/{operation}")
        sent = json.loads(heard.value.request.post_data or "")
        assert set(sent) == {"image_b64", "target_resolution"}
        expect(block.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        loaded = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert len(loaded) > 4
        assert [each for each in loaded if not each.startswith((f"{url.rstrip('/')}{root_path}/", "data:"))] == []
