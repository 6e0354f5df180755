"""What a person can do with the page, in Chromium; the networks are fake, except in test_real.py."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, FloatRect, Locator, Page, Route, expect

from bench.server import free_port
from core.config import Settings
from model_utility import ModelStatus
from tests.helpers import FakeResolver, encode, fake_models, sample_crop
from tests.page.conftest import served, visit

PHOTOGRAPH = encode(sample_crop(120, 75, left=150, top=20), "JPEG", quality=90)
SECOND = encode(sample_crop(120, 75, left=20, top=100), "JPEG", quality=90)  # the same picture twice would be made once
SLOW = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}  # bytes a second
WIDE = encode(np.zeros((4, 1500, 3), np.uint8))


def file(data: bytes = PHOTOGRAPH, name: str = "portrait.jpg", media_type: str = "image/jpeg") -> Any:
    """As a person would pick it."""
    return {"name": name, "mimeType": media_type, "buffer": data}


def pick(page: Page, *files: Any) -> None:
    page.set_input_files("#pick", list(files) or [file()])


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def tiles(page: Page) -> Locator:
    """The pictures in the strip, without the first one, which adds another."""
    return page.locator("#strip li:not(:first-child) button")


def start(page: Page) -> None:
    expect(button(page, "Upscale")).to_be_enabled()
    button(page, "Upscale").click()


def upscale(page: Page) -> None:
    pick(page)
    start(page)
    expect(page.get_by_role("link", name="Download")).to_be_visible()


def size_row(page: Page, target: str) -> Locator:
    return page.locator(f"#size-{target}")


def box_of(locator: Locator) -> FloatRect:
    """Where it is on the screen, in CSS pixels."""
    box = locator.bounding_box()
    assert box
    return box


# before anything runs


def test_each_size_says_what_it_gives_before_anything_runs(page: Page) -> None:
    pick(page)
    for target, size in {"2k": "1920 × 1200", "4k": "3840 × 2400", "8k": "7680 × 4800"}.items():
        expect(size_row(page, target).locator(".result")).to_have_text(size)
    expect(page.locator("#estimate")).to_have_text(re.compile("^Takes about"))
    expect(page.locator("#draft .facts")).to_contain_text("120 × 75")


def test_an_impossible_size_is_greyed_out_with_the_reason(page: Page) -> None:
    pick(page, file(WIDE, "wide.png", "image/png"))
    reason = "Takes pictures of up to 1024 px a side; this has 1500. Exact size would reach it"
    expect(size_row(page, "2k").locator("small")).to_have_text(reason)
    expect(size_row(page, "2k").locator("input")).to_be_disabled()
    expect(size_row(page, "4k").locator("input")).to_be_checked()
    page.get_by_role("checkbox", name="Exact size").check()
    expect(size_row(page, "2k").locator(".result")).to_have_text("2048 × 5")
    expect(size_row(page, "2k").locator("input")).to_be_enabled()


def test_the_choices_reach_the_server(page: Page) -> None:
    pick(page)
    page.locator("#size-2k").click()
    page.get_by_label("Restore faces").uncheck()
    page.locator("label", has_text="WebP").click()
    page.get_by_label("Quality").fill("80")
    with page.expect_request(lambda request: request.method == "PUT") as sent:
        start(page)
    for choice in ("target_resolution=2k", "enhance_faces=false", "output_format=webp", "quality=80", "fit=passes"):
        assert choice in sent.value.url
    expect(page.get_by_text("as they were")).to_be_visible()
    assert page.get_by_role("link", name="Download").get_attribute("download") == "portrait-1920x1200.webp"


def test_drawings_have_their_own_network_where_the_server_has_it(browser: Browser, settings: Settings, page: Page) -> None:
    pick(page)
    expect(page.get_by_text("Drawing")).to_be_hidden()
    upscaler = fake_models()
    upscaler.models = {"upscale_x4_anime": ModelStatus("anime.pth")}
    upscaler.resolvers["anime"] = upscaler.resolvers["photo"]
    other = replace(settings, port=free_port())
    with served(other, lambda _: upscaler) as url, visit(browser, url) as drawing:
        pick(drawing)
        with drawing.expect_response(lambda answer: "model=anime" in answer.url and answer.ok):
            drawing.locator("label", has_text="Drawing").click()
        with drawing.expect_request(lambda request: request.method == "PUT" and "model=anime" in request.url):
            start(drawing)
        expect(drawing.get_by_role("link", name="Download")).to_be_visible()


def test_faces_have_a_strength_where_the_server_restores_them(browser: Browser, settings: Settings, page: Page) -> None:
    pick(page)
    expect(page.get_by_label("Face strength")).to_be_hidden()
    upscaler = fake_models()
    upscaler.models = {"face_restoration": ModelStatus("restorer.pth")}
    other = replace(settings, port=free_port())
    with served(other, lambda _: upscaler) as url, visit(browser, url) as portrait:
        pick(portrait)
        strength = portrait.get_by_label("Face strength")
        strength.fill("0.4")
        expect(portrait.locator("#strength-note")).to_have_text("40 % restored")
        portrait.get_by_label("Restore faces").uncheck()
        expect(strength).to_be_disabled()
        portrait.get_by_label("Restore faces").check()
        with portrait.expect_request(lambda request: request.method == "PUT") as sent:
            start(portrait)
        assert "face_strength=0.4" in sent.value.url


def test_a_format_that_the_server_does_not_take_is_refused_before_it_is_sent(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method != "GET" else None)
    pick(page, file(b"none", "IMG_1.heic", ""))
    expect(page.locator("#problem")).to_have_text(re.compile("^HEIC is none of the formats"))
    pick(page, file(b"\0" * (7 * 2**20 + 1), "large.png", "image/png"))
    expect(page.locator("#problem")).to_contain_text("up to 7 MB")
    assert sent == []


def test_a_picture_can_be_pasted_and_dropped(page: Page) -> None:
    give = """([name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "given.jpg", { type: "image/jpeg" }));
        const options = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(name === "paste" ? new ClipboardEvent(name, { ...options, clipboardData: data })
            : new DragEvent(name, { ...options, dataTransfer: data }));
    }"""
    for count, way in enumerate(("paste", "drop"), start=1):
        page.evaluate(give, [way, list(PHOTOGRAPH)])
        expect(tiles(page)).to_have_count(count)
        expect(button(page, "Upscale")).to_be_enabled()


# what runs


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
    for photograph in [file()] if running else [file(SECOND, "first.jpg"), file()]:
        pick(page, photograph)
        start(page)
        expect(button(page, "Cancel")).to_be_visible()
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


# the result


def test_the_slider_moves_by_pointer_and_by_keys(page: Page) -> None:
    upscale(page)
    slider = page.get_by_role("slider", name="How much")
    expect(slider).to_have_attribute("aria-valuenow", "50")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "62 % original")
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuenow", "0")
    frame = box_of(page.locator("#viewer"))
    page.mouse.move(frame["x"] + frame["width"] * 0.5, frame["y"] + 200)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.25, frame["y"] + 220, steps=4)
    page.mouse.up()
    expect(slider).to_have_attribute("aria-valuenow", "25")
    page.mouse.move(frame["x"] + frame["width"] * 0.8, frame["y"] + 200)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.8 + 20, frame["y"] + 300, steps=4)  # as a finger that scrolls the page
    page.mouse.up()
    page.mouse.dblclick(frame["x"] + frame["width"] * 0.8, frame["y"] + 200)
    expect(button(page, "1:1")).to_have_attribute("aria-pressed", "true")
    expect(slider).to_have_attribute("aria-valuenow", "25")


def test_one_to_one_shows_one_pixel_of_the_result_on_one_of_the_screen(page: Page) -> None:
    upscale(page)
    button(page, "1:1").click()
    result = page.get_by_alt_text("The result")
    before, frame = box_of(result), box_of(page.locator("#viewer"))
    assert before["width"] == result.evaluate("image => image.naturalWidth")
    page.mouse.move(frame["x"] + 100, frame["y"] + 100)
    page.mouse.down()
    page.mouse.move(frame["x"] + 40, frame["y"] + 70)
    page.mouse.up()
    after = box_of(result)
    assert (after["x"] - before["x"], after["y"] - before["y"]) == (-60, -30)
    button(page, "Fit").click()
    assert box_of(result)["width"] <= frame["width"]


def test_faces_are_outlined_on_demand(browser: Browser, settings: Settings) -> None:
    upscaler = fake_models()
    face = type("Face", (), {"box": (30.0, 15.0, 60.0, 45.0)})
    methods = {"detect": staticmethod(lambda *_: [face]), "flops": staticmethod(lambda *_: 0.0)}
    upscaler.detector = type("OneFace", (), methods)()
    upscaler.restorer = None
    upscaler.models = {"face_restoration": ModelStatus(reason="GFPGANv1.4.pth is missing", remedy="Fetch it.")}
    with served(settings, lambda _: upscaler) as url, visit(browser, url) as page:
        upscale(page)
        expect(page.get_by_text("1 found, not restored")).to_be_visible()
        outline = page.locator(".faces div")
        expect(outline).to_be_hidden()
        button(page, "Faces").click()
        expect(outline).to_be_visible()
        picture, box = box_of(page.get_by_alt_text("The result")), box_of(outline)
        assert (box["x"] - picture["x"]) / picture["width"] == pytest.approx(30 / 120, abs=0.005)
        assert box["width"] / picture["width"] == pytest.approx(30 / 120, abs=0.005)
        assert (box["y"] - picture["y"]) / picture["height"] == pytest.approx(15 / 75, abs=0.005)


def test_the_same_picture_can_be_made_with_other_settings(page: Page) -> None:
    upscale(page)
    button(page, "Other settings").click()
    expect(button(page, "Upscale")).to_be_enabled()
    expect(tiles(page)).to_have_count(2)
    button(page, "Remove").click()
    expect(tiles(page)).to_have_count(1)
    expect(page.get_by_role("link", name="Download")).to_be_visible()


# what goes wrong


@pytest.mark.parametrize("data", [b"no picture at all", PHOTOGRAPH[:2000]], ids=["no picture", "half a picture"])
def test_an_error_of_the_server_is_said_in_its_words(page: Page, data: bytes) -> None:
    with page.expect_response("**/plan?*") as answered:
        pick(page, file(data, "broken.jpg"))
    error = answered.value.json()
    expect(page.locator("#problem")).to_have_text(error["error"])
    expect(page.locator("#reference")).to_contain_text(error["request_id"])


def test_a_defect_of_the_server_is_said_and_can_be_tried_again(page: Page, resolver: FakeResolver) -> None:
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
        served(replace(settings, queue_limit=0), lambda _: fake_models(resolver)) as url,
        visit(browser, url) as page,
    ):
        resolver.gate.clear()
        pick(page)
        start(page)
        expect(page.locator("#doing")).to_have_text("Making it larger")
        pick(page, file(SECOND, "second.jpg"))
        expect(page.locator("#estimate")).to_have_text(re.compile(r"^The queue is full.*Asking again in \d+ s\.$"))
        page.get_by_label("Restore faces").uncheck()  # it can be set up meanwhile
        resolver.gate.set()
        start(page)
        expect(page.get_by_role("link", name="Download")).to_be_visible()


def test_what_finds_no_place_waits_for_one_and_sends_the_picture_no_oftener_than_it_must(
    browser: Browser, settings: Settings
) -> None:
    resolver = FakeResolver()
    with (
        served(replace(settings, queue_limit=0), lambda _: fake_models(resolver)) as url,
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


def test_a_size_that_would_take_too_long_is_greyed_out_and_the_others_are_not(page: Page) -> None:
    too_long = {
        "success": False,
        "error": "Too long.",
        "code": "deadline_exceeded",
        "predicted_seconds": 3963,
        "timeout_seconds": 1800,
    }
    page.route("**/plan?target_resolution=8k*", lambda route: route.fulfill(status=504, json=too_long))
    pick(page)
    expect(size_row(page, "8k").locator("small")).to_have_text("Would take about 1 h 6 min; the server allows 30 min")
    expect(size_row(page, "8k").locator("input")).to_be_disabled()
    expect(button(page, "Upscale")).to_be_enabled()


def refuse_once(page: Page, target: str) -> None:
    """The server is full when it is asked for that size, the first time."""
    full = {"success": False, "error": "The queue is full.", "code": "queue_full"}
    answer = {"status": 503, "json": full, "headers": {"Retry-After": "1"}}
    page.route(f"**/plan?target_resolution={target}*", lambda route: route.fulfill(**answer), times=1)


def test_a_size_that_was_refused_for_now_is_asked_for_again_though_the_others_were_answered(page: Page) -> None:
    refuse_once(page, "2k")
    pick(page)
    expect(size_row(page, "2k").locator(".result")).to_have_text("1920 × 1200")
    expect(button(page, "Upscale")).to_be_enabled()
    expect(page.locator("#estimate")).to_have_text(re.compile("^Takes about"))


def test_a_plan_that_is_asked_for_again_does_not_stop_what_is_sent(page: Page, resolver: FakeResolver) -> None:
    refuse_once(page, "8k")
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", SLOW)
    noise = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)  # some 900 kB: seconds at that rate
    pick(page, file(encode(noise), "noise.png", "image/png"))
    start(page)
    expect(page.locator("#doing")).to_have_text("Sending the picture")
    expect(page.get_by_role("link", name="Download")).to_be_visible()


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


def test_a_picture_that_the_browser_cannot_show_is_compared_with_nothing(page: Page) -> None:
    page.evaluate("() => { Image.prototype.decode = () => Promise.reject(new Error('not here')) }")
    upscale(page)
    result = page.get_by_alt_text("The result")
    expect(result).to_be_visible()
    assert page.locator(".layer.after").evaluate("layer => getComputedStyle(layer).getPropertyValue('--split')") == "0px"
    expect(page.get_by_role("slider", name="How much")).to_be_hidden()


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
    page.route("**/plan?*", lambda route: route.abort("connectionrefused"), times=1)
    pick(page)
    expect(page.locator("#estimate")).to_have_text(re.compile("^The server cannot be reached. Asking again in"))
    expect(button(page, "Upscale")).to_be_enabled()


@pytest.mark.parametrize(
    ("status", "words"), [(401, "wants a key"), (413, "too large"), (502, "cannot reach it"), (418, "answered 418")]
)
def test_an_error_of_somebody_before_the_server_has_words_too(page: Page, status: int, words: str) -> None:
    page.route("**/plan?*", lambda route: route.fulfill(status=status, body="<h1>proxy</h1>", content_type="text/html"))
    pick(page)
    expect(page.locator("#problem")).to_contain_text(words)


def test_with_a_key_the_browser_asks_for_it_and_the_page_just_works(browser: Browser, settings: Settings) -> None:
    with served(replace(settings, api_key="the-key-of-this-house"), lambda _: fake_models()) as url:
        assert httpx.get(url).status_code == 401
        with visit(browser, url, http_credentials={"username": "", "password": "the-key-of-this-house"}) as page:
            upscale(page)
            expect(page.get_by_role("slider", name="How much")).to_be_visible()


# for everybody


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    def tab_to(locator: Locator) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if locator.evaluate("element => element === document.activeElement"):
                return
        raise AssertionError(f"the keyboard does not reach {locator}")

    page.on("filechooser", lambda _: None)  # from now on the browser hands choosers over, which it takes a while to hear of
    tab_to(page.locator("#pick"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([file()])
    expect(button(page, "Upscale")).to_be_enabled()
    tab_to(size_row(page, "4k").locator("input"))
    page.keyboard.press("ArrowUp")
    expect(size_row(page, "2k").locator("input")).to_be_checked()
    tab_to(page.get_by_label("Restore faces"))
    page.keyboard.press("Space")
    tab_to(button(page, "Upscale"))
    assert button(page, "Upscale").evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    assert page.evaluate("document.activeElement.textContent") == "portrait.jpg"  # not thrown back to the top
    tab_to(page.get_by_role("link", name="Download"))
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "portrait-1920x1200.jpg"


def test_changes_of_state_are_told_to_those_who_listen(page: Page, resolver: FakeResolver) -> None:
    resolver.gate.clear()
    pick(page)
    start(page)
    expect(page.get_by_role("status")).to_have_text("Making it larger")
    resolver.gate.set()
    expect(page.get_by_role("status")).to_have_text("portrait.jpg is done")


def test_on_a_telephone_nothing_scrolls_sideways(browser: Browser, site: str, resolver: FakeResolver) -> None:
    with visit(browser, site, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:

        def fits() -> bool:
            return bool(page.evaluate("document.documentElement.scrollWidth <= 390 && visualViewport.scale === 1"))

        assert fits()
        pick(page, file(name="a very long name of a photograph, as telephones and cameras and people give them.jpg"))
        expect(button(page, "Upscale")).to_be_in_viewport()
        assert fits()
        resolver.gate.clear()
        start(page)
        expect(button(page, "Cancel")).to_be_in_viewport()
        assert fits()
        resolver.gate.set()
        expect(page.get_by_role("link", name="Download")).to_be_in_viewport()
        assert fits()
        pick(page, file(WIDE, "wide.png", "image/png"), file(b"none", "broken.jpg"), *[file()] * 6)
        expect(tiles(page)).to_have_count(9)
        assert fits()
        tiles(page).nth(2).click()
        expect(page.locator("#problem")).to_be_visible()
        assert fits()


def test_dark_and_light_follow_the_system(browser: Browser, site: str) -> None:
    light, dark = (brightness(browser, site, scheme) for scheme in ("light", "dark"))
    assert light > 200
    assert dark < 50


def brightness(browser: Browser, site: str, scheme: str) -> int:
    with visit(browser, site, color_scheme=scheme) as page:
        color: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(re.findall(r"\d+", color)[0])
