"""What goes wrong, with the picture, the server, or something between."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from core.config import Settings
from tests.helpers import FakeResolver, fake_models, with_settings
from tests.page.actions import SECOND, button, file, pick, start, tiles, upscale
from tests.page.conftest import served, visit


def test_what_is_no_picture_is_said_in_the_words_of_the_server(page: Page) -> None:
    with page.expect_response("**/preview?*") as answered:
        pick(page, file(b"no picture at all", "broken.jpg"))
    error = answered.value.json()
    expect(page.locator("#problem")).to_have_text(error["error"])
    expect(page.locator("#reference")).to_contain_text(error["request_id"])


def test_an_internal_error_of_the_server_is_said_and_can_be_tried_again(page: Page, resolver: FakeResolver) -> None:
    resolver.error = RuntimeError("a defect")
    pick(page)
    start(page)
    expect(page.locator("#problem")).to_contain_text("request_id")
    resolver.error = None
    button(page, "Try again").click()
    expect(page.get_by_role("link", name="Download")).to_be_visible()


def test_a_full_queue_counts_down_and_tries_again(browser: Browser, settings: Settings) -> None:
    resolver = FakeResolver()
    with (
        served(with_settings(settings, queue_limit=0), lambda _: fake_models(resolver)) as url,
        visit(browser, url) as page,
    ):
        resolver.gate.clear()
        pick(page)
        start(page)
        expect(page.locator("#doing")).to_have_text("Making it larger")
        pick(page, file(SECOND, "second.jpg"))
        page.get_by_label("Restore faces").uncheck()  # it can be set up meanwhile
        start(page)
        expect(page.locator("#doing")).to_have_text(re.compile("^The queue is full"))
        expect(page.locator("#left")).to_have_text(re.compile(r"^Asking again in \d+ s\.$"))
        resolver.gate.set()
        expect(page.get_by_role("link", name="Download")).to_be_visible()


def test_what_finds_no_place_waits_for_one_and_sends_the_picture_no_oftener_than_it_must(
    browser: Browser, settings: Settings
) -> None:
    resolver = FakeResolver()
    with (
        served(with_settings(settings, queue_limit=0), lambda _: fake_models(resolver)) as url,
        visit(browser, url) as page,
    ):
        pick(page, file(SECOND, "second.jpg"))
        expect(button(page, "Upscale")).to_be_enabled()
        pick(page)
        expect(button(page, "Upscale")).to_be_enabled()
        resolver.gate.clear()
        start(page)
        expect(page.locator("#doing")).to_have_text("Making it larger")
        tiles(page).nth(0).click()
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
        button(page, "Upscale").click()
        expect(page.locator("#doing")).to_have_text(re.compile("^The queue is full"))
        expect(page.locator("#left")).to_have_text(re.compile(r"^Asking again in \d+ s\.$"))
        page.wait_for_timeout(10_000)
        assert len(sent) in (2, 3), "after 2, then 4, then 8 seconds"
        expect(button(page, "Cancel")).to_be_visible()
        resolver.gate.set()
        expect(page.get_by_role("link", name="Download")).to_be_visible()


def test_a_plan_that_was_refused_for_now_is_asked_for_again(page: Page) -> None:
    full = {"success": False, "error": "The queue is full.", "code": "queue_full"}
    page.route("**/plan?*", lambda route: route.fulfill(status=503, json=full, headers={"Retry-After": "1"}))
    pick(page)
    expect(page.locator("#estimate")).to_have_text(re.compile("^The queue is full. Asking again"))
    page.unroute("**/plan?*")
    expect(button(page, "Upscale")).to_be_enabled()
    expect(page.locator("#estimate")).to_have_text(re.compile("^Takes about"))


def test_a_job_whose_acceptance_was_lost_can_be_cancelled(page: Page, site: str, resolver: FakeResolver) -> None:
    resolver.gate.clear()

    def lose(route: Route) -> None:
        route.fetch()
        route.abort("connectionreset")

    page.route("**/jobs/*", lose, times=1)
    pick(page)
    with page.expect_request(lambda request: request.method == "PUT") as sent:
        start(page)
    expect(page.locator("#doing")).to_have_text("The server cannot be reached.")
    with page.expect_response("**/cancel") as answered:
        button(page, "Cancel").click()
    assert answered.value.json()["status"] == "canceled"
    expect(page.locator("#problem")).to_have_text("Cancelled. Nothing was kept.")
    assert httpx.get(sent.value.url).json()["status"] == "canceled"


def test_a_double_click_is_one_click(page: Page, resolver: FakeResolver) -> None:
    resolver.gate.clear()
    pick(page, file(), file(SECOND, "second.jpg"))
    expect(button(page, "Upscale")).to_be_enabled()
    button(page, "Upscale").dblclick()
    expect(page.locator("#doing")).to_have_text("Making it larger")
    tiles(page).nth(1).click()
    button(page, "Remove").dblclick()
    expect(tiles(page)).to_have_count(1)
    resolver.gate.set()
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    button(page, "Other settings").dblclick(delay=50)  # "Upscale" comes near where it was
    expect(page.locator("#draft")).to_be_visible()
    expect(tiles(page)).to_have_count(2)


def test_a_picture_that_nobody_can_show_is_compared_with_nothing(page: Page) -> None:
    upscale(page)
    page.evaluate("() => { Image.prototype.decode = () => Promise.reject(new Error('not here')) }")
    page.route("**/preview?*", lambda route: route.fulfill(status=500, json={}))
    button(page, "Other settings").click()
    expect(page.locator("#problem")).to_be_visible()
    expect(page.locator("#blank")).to_be_visible()


def test_a_result_that_is_gone_says_so_when_it_is_asked_for_and_not_when_nobody_knows(page: Page) -> None:
    upscale(page)
    page.route("**/files/*", lambda route: route.fulfill(status=502), times=2)
    page.get_by_role("link", name="Download").click()
    page.route("**/files/*", lambda route: route.abort(), times=2)
    page.get_by_role("link", name="Download").click()
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    page.unroute("**/files/*")
    page.route("**/files/*", lambda route: route.fulfill(status=404, json={}))
    page.get_by_role("link", name="Download").click()
    expect(page.locator("#problem")).to_have_text("The server no longer has this result.")


def test_a_server_that_cannot_be_reached_is_tried_again_by_itself(page: Page) -> None:
    page.route("**/plan?*", lambda route: route.abort("connectionrefused"))
    pick(page)
    expect(page.locator("#estimate")).to_have_text(re.compile("^The server cannot be reached. Asking again in"))
    page.unroute("**/plan?*")
    expect(button(page, "Upscale")).to_be_enabled()


@pytest.mark.parametrize(
    ("status", "words"), [(401, "wants a key"), (413, "too large"), (502, "cannot reach it"), (418, "answered 418")]
)
def test_an_error_of_somebody_before_the_server_has_words_too(page: Page, status: int, words: str) -> None:
    page.route("**/plan?*", lambda route: route.fulfill(status=status, body="<h1>proxy</h1>", content_type="text/html"))
    pick(page)
    expect(page.locator("#problem")).to_contain_text(words)


def test_with_a_key_the_browser_asks_for_it_and_the_page_just_works(browser: Browser, settings: Settings) -> None:
    with served(with_settings(settings, api_key="the-key-of-this-house"), lambda _: fake_models()) as url:
        assert httpx.get(url).status_code == 401
        with visit(browser, url, http_credentials={"username": "", "password": "the-key-of-this-house"}) as page:
            upscale(page)
            expect(page.get_by_role("slider", name="How much")).to_be_visible()
