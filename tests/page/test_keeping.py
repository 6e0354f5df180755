"""What outlives a reload, a restart of the server, and a key that it wants from now on."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Dialog, Page, Route, expect

from core.config import Settings
from tests.helpers import FakeResolver, b64, fake_models, with_settings
from tests.page.actions import SECOND, button, file, photograph, pick, size_row, start, tiles, until_kept
from tests.page.conftest import served, visit


def test_drafts_are_there_again_after_a_reload_in_order_and_with_their_settings(page: Page) -> None:
    pick(page, file(name="first.jpg"), file(SECOND, "second.jpg"))
    expect(tiles(page)).to_have_count(2)
    expect(button(page, "Upscale")).to_be_enabled()
    page.locator("#size-2k").click()
    page.locator("label", has_text="WebP").click()
    tiles(page).nth(1).click()
    expect(button(page, "Upscale")).to_be_enabled()
    page.reload()
    expect(tiles(page).nth(0)).to_have_attribute("title", "first.jpg: not started")
    expect(tiles(page).nth(1)).to_have_attribute("title", "second.jpg: not started")
    tiles(page).nth(0).click()
    expect(size_row(page, "2k").locator("input")).to_be_checked()
    expect(page.get_by_role("radio", name="WebP")).to_be_checked()
    start(page)
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    assert page.get_by_role("link", name="Download").get_attribute("download") == "first-1920x1200.webp"
    button(page, "Remove").click()
    button(page, "Remove").click()
    expect(tiles(page)).to_have_count(0)
    page.reload()
    expect(page.get_by_text("Make photographs larger")).to_be_visible()
    expect(tiles(page)).to_have_count(0)


def test_what_was_removed_just_before_a_reload_stays_removed(page: Page) -> None:
    for _ in range(10):
        pick(page)
        expect(button(page, "Upscale")).to_be_enabled()
        until_kept(page, 1)
        with page.expect_navigation():
            page.evaluate("() => { document.querySelector('#draft [data-do=remove]').click(); location.reload(); }")
        expect(page.locator("#limits")).to_contain_text("up to 7 MB")
        expect(tiles(page)).to_have_count(0)


def test_those_that_wait_to_be_sent_are_sent_after_a_reload(page: Page, resolver: FakeResolver) -> None:
    resolver.gate.clear()
    pick(page, *[file(photograph(number), f"{number}.jpg") for number in range(4)])
    button(page, "Upscale all").click()
    expect(tiles(page).nth(3)).to_have_attribute("title", "3.jpg: waits")
    until_kept(page, 4, "name === '3.jpg' && queued")
    page.reload()
    expect(tiles(page).nth(3)).to_have_attribute("title", "3.jpg: waits")
    resolver.gate.set()
    expect(page.locator("#all p")).to_have_text("4 of 4 done")


def test_the_browser_asks_before_it_leaves_only_while_it_does_not_keep_what_is_there(page: Page) -> None:
    asked: list[str] = []

    def hear(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", hear)
    pick(page)
    size_row(page, "2k").click()  # a browser does not ask for a page that nobody has touched
    start(page)
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    page.reload()
    assert asked == []
    page.evaluate("() => { IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError') } }")
    pick(page, file(SECOND, "second.jpg"))
    expect(button(page, "Upscale")).to_be_enabled()
    size_row(page, "2k").click()
    page.reload()
    assert asked == ["beforeunload"]
    expect(tiles(page)).to_have_count(1)


@pytest.mark.parametrize("lost", ["interrupted", "unknown"])
def test_a_job_that_a_restart_lost_is_sent_again_by_itself_and_once(page: Page, resolver: FakeResolver, lost: str) -> None:
    interrupted = {"success": False, "error": "The server was restarted.", "code": "interrupted", "status_code": 500}
    ids: list[str] = []
    page.on("request", lambda request: ids.append(re.split("[/?]", request.url)[-2]) if request.method == "PUT" else None)
    page.route("**/events", lambda route: route.abort())
    resolver.gate.clear()
    pick(page)
    with page.expect_response(lambda response: response.request.method == "PUT") as accepted:
        start(page)
    job = {**accepted.value.json(), "status": "failed", "error": interrupted}

    def lose(route: Route) -> None:
        if route.request.method == "PUT":
            route.fallback()
        elif lost == "interrupted":
            route.fulfill(json={**job, "id": route.request.url.split("/")[-1]})
        else:
            route.fulfill(status=404, json={})

    page.route(f"**/jobs/{ids[0]}", lose)
    expect(page.locator("#left")).to_have_text(re.compile("^Sent again, since the server was restarted"))
    page.route("**/jobs/*", lose)
    expect(page.locator("#problem")).to_have_text(re.compile("The server was restarted|The server does not know this picture"))
    assert len(ids) == len(set(ids)) == 2
    resolver.gate.set()


KEY = "the-key-of-this-house"


@pytest.mark.parametrize("given", ["the right one", "a wrong one"])
def test_a_key_that_is_wanted_from_now_on_is_asked_for_and_nothing_is_lost(
    browser: Browser, settings: Settings, given: str
) -> None:
    person = {"username": "", "password": KEY if given == "the right one" else "guess"}  # once, when the browser asks
    with ExitStack() as stack:
        before = stack.enter_context(ExitStack())
        url = before.enter_context(served(settings, lambda _: fake_models()))
        page = stack.enter_context(visit(browser, url, http_credentials=person))
        pick(page, file(), file(SECOND, "second.jpg"))
        for index in (1, 0):
            tiles(page).nth(index).click()
            expect(button(page, "Upscale")).to_be_enabled()
        before.close()
        stack.enter_context(served(with_settings(settings, api_key=KEY), lambda _: fake_models()))
        refused: list[str] = []
        page.on("response", lambda response: refused.append(response.url) if response.status == 401 else None)
        start(page)
        if given == "a wrong one":
            expect(page.locator("#problem")).to_have_text("The server wants a key, and did not get one that it knows.")
            tiles(page).nth(1).click()
            page.locator("#viewer").click()  # the middle is previewed
            expect(page.locator("#spot-says")).to_have_text("The server wants a key, and did not get one that it knows.")
            tiles(page).nth(0).click()
            page.wait_for_timeout(4000)
            assert len(refused) == 1, "the browser would ask again for each"
            page.context.set_extra_http_headers({"Authorization": f"Basic {b64(f':{KEY}'.encode())}"})
            button(page, "Try again").click()
            tiles(page).nth(0).click()
        expect(page.get_by_role("link", name="Download")).to_be_visible()
