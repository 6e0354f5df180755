"""What runs: waiting, cancelling, and finding the jobs again after a reload."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.helpers import FakeResolver, encode
from tests.page.actions import SECOND, SLOW, button, file, pick, start, tiles, upscale


def test_a_second_picture_waits_in_line_while_one_runs(page: Page, resolver: FakeResolver) -> None:
    resolver.gate.clear()
    pick(page)
    start(page)
    expect(page.locator("#doing")).to_have_text("Making it larger")
    pick(page, file(SECOND, "second.jpg"))
    start(page)
    expect(page.locator("#doing")).to_have_text("1 picture before this one")
    expect(page.locator("#percent")).to_have_text("Waiting")
    resolver.gate.set()
    for index, name in enumerate(("portrait.jpg", "second.jpg")):
        expect(tiles(page).nth(index)).to_have_attribute("aria-label", f"{name}: done")


@pytest.mark.parametrize("running", [True, False], ids=["running", "waiting"])
def test_what_is_cancelled_ends_and_can_be_begun_again(page: Page, resolver: FakeResolver, running: bool) -> None:
    resolver.gate.clear()
    pick(page)
    start(page)
    expect(page.locator("#doing")).to_have_text("Making it larger")
    if not running:
        pick(page, file(SECOND, "second.jpg"))
        start(page)
        expect(page.locator("#doing")).to_have_text("1 picture before this one")
    with page.expect_response("**/cancel"):
        button(page, "Cancel").click()
    resolver.gate.set()
    expect(page.locator("#problem")).to_have_text("Cancelled. Nothing was kept.")
    button(page, "Upscale again").click()
    expect(page.get_by_role("link", name="Download")).to_be_visible()


def test_what_is_cancelled_while_it_is_sent_makes_no_job(page: Page, site: str) -> None:
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", SLOW)
    pick(page, file(encode(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)), "noise.png", "image/png"))
    start(page)
    expect(page.locator("#doing")).to_have_text("Sending the picture")
    button(page, "Cancel").click()
    expect(page.locator("#problem")).to_have_text("Cancelled. Nothing was kept.")
    assert httpx.get(f"{site}health").json()["queue"]["running"] == 0


def test_what_is_cancelled_before_its_first_byte_is_sent_is_not_sent(page: Page) -> None:
    pick(page)
    expect(button(page, "Upscale")).to_be_enabled()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    page.evaluate("() => { document.querySelector('#go').click(); document.querySelector('[data-do=cancel]').click(); }")
    expect(page.locator("#problem")).to_have_text("Cancelled. Nothing was kept.")
    assert "PUT" not in sent


def test_after_a_reload_the_page_finds_its_jobs_again(page: Page, resolver: FakeResolver) -> None:
    upscale(page)
    resolver.gate.clear()
    pick(page, file(SECOND, "second.jpg"))
    start(page)
    expect(page.locator("#doing")).to_have_text("Making it larger")
    page.reload()
    expect(tiles(page).nth(0)).to_have_attribute("aria-label", "portrait.jpg: done")
    expect(page.locator("#doing")).to_have_text("Making it larger")
    resolver.gate.set()
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    expect(page.get_by_role("slider", name="How much")).to_be_visible()  # the original is there again, too


def test_a_stream_that_breaks_is_replaced_by_asking(page: Page, resolver: FakeResolver) -> None:
    page.route("**/events", lambda route: route.abort())
    resolver.gate.clear()
    pick(page)
    start(page)
    expect(button(page, "Cancel")).to_be_visible()
    resolver.gate.set()
    expect(page.get_by_role("link", name="Download")).to_be_visible()
