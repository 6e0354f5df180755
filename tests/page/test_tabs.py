"""The page in two tabs, which show the same pictures, and left while it sends one."""

from __future__ import annotations

import re

import httpx
from playwright.sync_api import Page, Route, expect

from tests.helpers import FakeResolver
from tests.page.actions import PHOTOGRAPH, SECOND, SLOW, button, file, pick, size_row, start, tiles, until_kept


def ids_sent(page: Page) -> list[str]:
    """The ids of the jobs that any tab sends from now on."""
    sent: list[str] = []

    def hear(method: str, url: str) -> None:
        if method == "PUT":
            sent.append(re.split("[/?]", url)[-2])

    page.context.on("request", lambda request: hear(request.method, request.url))
    return sent


def other_tab(page: Page, pictures: int) -> Page:
    tab = page.context.new_page()
    tab.goto(page.url)
    expect(tiles(tab)).to_have_count(pictures)
    expect(button(tab, "Upscale")).to_be_enabled()
    return tab


def test_what_one_tab_starts_and_removes_is_so_in_the_other(page: Page, resolver: FakeResolver) -> None:
    pick(page, file(), file(SECOND, "second.jpg"))
    expect(button(page, "Upscale all")).to_be_visible()
    until_kept(page, 2)
    other = other_tab(page, 2)
    sent = ids_sent(page)
    resolver.gate.clear()
    start(page)
    expect(tiles(other).nth(0)).to_have_attribute("data-state", "active")
    resolver.gate.set()
    expect(tiles(other).nth(0)).to_have_attribute("data-state", "done")
    size_row(other, "2k").click()  # of the second, which is selected there
    button(other, "Remove").click()
    expect(tiles(page)).to_have_count(1)
    expect(tiles(other)).to_have_count(1)
    page.reload()
    expect(tiles(page).nth(0)).to_have_attribute("title", "portrait.jpg: done")
    assert len(sent) == 1


def test_a_picture_that_another_tab_has_sent_with_other_settings_is_followed(page: Page, site: str) -> None:
    pick(page)

    def come_first(route: Route) -> None:
        if route.request.method == "PUT":
            path = route.request.url.split("?")[0]
            httpx.put(f"{path}?scale=2", content=PHOTOGRAPH, headers={"Content-Type": "image/jpeg", "Prefer": "respond-async"})
        route.fallback()

    page.route("**/jobs/*", come_first)
    start(page)
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    expect(page.locator("#report")).to_contain_text("240 × 150")


def test_a_job_that_was_lost_is_sent_again_under_one_id_by_both_tabs(page: Page, resolver: FakeResolver) -> None:
    resolver.gate.clear()
    page.context.route("**/events", lambda route: route.abort())
    pick(page)
    sent = ids_sent(page)
    with page.expect_response(lambda response: response.request.method == "PUT"):
        start(page)
    other = page.context.new_page()
    other.goto(page.url)
    expect(tiles(other).nth(0)).to_have_attribute("data-state", "active")
    page.context.route(f"**/jobs/{sent[0]}", lambda route: route.fulfill(status=404, json={}))
    for tab in (page, other):
        expect(tab.locator("#left")).to_have_text(re.compile("^Sent again, since the server was restarted"))
    resolver.gate.set()
    for tab in (page, other):
        expect(tiles(tab)).to_have_count(1)
        expect(tiles(tab).nth(0)).to_have_attribute("data-state", "done")
    assert len(set(sent)) == 2


def test_a_picture_is_sent_on_however_often_the_page_is_left_meanwhile(page: Page) -> None:
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", {**SLOW, "uploadThroughput": 1000})
    pick(page)
    sent = ids_sent(page)
    with page.expect_request(lambda request: request.method == "PUT"):
        start(page)
    for _ in range(3):
        with page.expect_request(lambda request: request.method == "PUT"):
            page.reload()
        expect(page.locator("#left")).to_be_empty()
    network.send("Network.emulateNetworkConditions", {**SLOW, "uploadThroughput": -1})
    page.reload()
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    assert len(set(sent)) == 1
