"""The whole way with the real models, in a process of its own: upload → progress → compare → download."""

from __future__ import annotations

from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect

from bench.server import running_server
from tests.helpers import WEIGHTS, encode, sample_crop
from tests.page.actions import file, pick, start
from tests.page.conftest import visit


def test_from_a_photograph_to_a_larger_one(browser: Browser, tmp_path: Path) -> None:
    photograph = encode(sample_crop(300, 120, left=40, top=40))
    with running_server(tmp_path, WEIGHTS_DIR=str(WEIGHTS)) as server, visit(browser, f"{server.url}/") as page:
        pick(page, file(photograph, "strip.png", "image/png"))
        expect(page.locator("#size-2k .result")).to_have_text("1200 × 480")
        page.locator("#size-2k").click()
        shares = watch_progress(page)
        start(page)
        expect(page.get_by_role("link", name="Download")).to_be_visible(timeout=120_000)
        seen = page.evaluate(shares)
        assert len(set(seen)) >= 4, "the bar moves with the work"
        assert seen == sorted(seen)

        expect(page.get_by_role("slider", name="How much")).to_be_visible()
        assert page.get_by_alt_text("The result").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1200, 480]
        expect(page.locator("#report")).to_contain_text("300 × 120")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert download.value.suggested_filename == "strip-1200x480.jpg"
        (kept,) = tmp_path.glob("*.jpg")
        assert download.value.path().read_bytes() == kept.read_bytes() == httpx.get(download.value.url).content


def watch_progress(page: Page) -> str:
    """Note each percentage that is shown from now on; returns the expression that gives them."""
    page.evaluate("""() => {
        window.shares = [];
        const shown = document.querySelector("#bar");
        const note = () => document.querySelector("#doing").textContent === "Making it larger"
            && window.shares.push(Number(shown.getAttribute("aria-valuenow")));
        new MutationObserver(note).observe(shown, { attributes: true, attributeFilter: ["aria-valuenow"] });
    }""")
    return "window.shares"
