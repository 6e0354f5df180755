"""Before anything runs: pictures come in, their plans are shown, and settings are chosen; the models are fake."""

from __future__ import annotations

import re
from dataclasses import replace

from playwright.sync_api import Browser, Page, Route, expect

from bench.server import free_port
from core.config import Settings
from model_utility import ModelStatus
from tests.helpers import fake_models, with_settings
from tests.page.actions import PHOTOGRAPH, SECOND, button, file, pick, size_row, start, tiles
from tests.page.conftest import served, visit


def test_each_size_says_what_it_gives_before_anything_runs(page: Page) -> None:
    pick(page)
    sizes = {"2x": "240 × 150", "4x": "480 × 300", "2k": "1920 × 1200", "4k": "3840 × 2400", "8k": "7680 × 4800"}
    for name, size in sizes.items():
        expect(size_row(page, name).locator(".result")).to_have_text(size)
        expect(size_row(page, name).locator("small")).to_have_text("about a second")
    expect(page.locator("#estimate")).to_have_text(re.compile("^Takes about"))
    expect(page.locator("#draft .facts")).to_contain_text("120 × 75")


def test_the_choices_reach_the_server(page: Page) -> None:
    pick(page)
    size_row(page, "2k").click()
    page.get_by_label("Restore faces").uncheck()
    page.locator("label", has_text="WebP").click()
    page.get_by_label("Quality").fill("80")
    with page.expect_request(lambda request: request.method == "PUT") as sent:
        start(page)
    for choice in ("target_resolution=2k", "enhance_faces=false", "output_format=webp", "quality=80", "fit=passes"):
        assert choice in sent.value.url
    expect(page.get_by_text("as they were")).to_be_visible()
    assert page.get_by_role("link", name="Download").get_attribute("download") == "portrait-1920x1200.webp"


def test_drawings_have_a_model_of_their_own_where_the_server_has_it(browser: Browser, settings: Settings, page: Page) -> None:
    pick(page)
    page.locator("label", has_text="Drawing").click()
    with page.expect_request(lambda request: request.method == "PUT" and "model=anime&" in request.url):
        start(page)
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    models = fake_models()
    only = replace(models, super_resolvers={"photo": models.super_resolvers["photo"]}, fast={})
    with served(with_settings(settings, port=free_port()), lambda _: only) as url, visit(browser, url) as other:
        pick(other)
        expect(button(other, "Upscale")).to_be_enabled()
        expect(other.get_by_text("Drawing")).to_be_hidden()
        expect(other.get_by_text("Speed")).to_be_hidden()


def test_faces_have_a_strength_where_the_server_restores_them(browser: Browser, settings: Settings, page: Page) -> None:
    pick(page)
    expect(page.get_by_label("Face strength")).to_be_hidden()
    models = replace(fake_models(), status={"face_restoration": ModelStatus("restorer.pth")})
    other = with_settings(settings, port=free_port())
    with served(other, lambda _: models) as url, visit(browser, url) as portrait:
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


def test_faces_are_left_alone_where_the_server_cannot_restore_them(browser: Browser, settings: Settings) -> None:
    reason = "GFPGANv1.4.pth is missing"
    models = replace(fake_models(), status={"face_restoration": ModelStatus(reason=reason, fix="Fetch it.")})
    with served(settings, lambda _: models) as url, visit(browser, url) as page:
        expect(page.locator("#server")).to_have_text("Ready, on a CPU, without face restoration")
        expect(page.locator("#server")).to_have_attribute("title", reason)
        pick(page)
        expect(page.get_by_label("Restore faces")).to_be_disabled()
        expect(page.get_by_label("Restore faces")).not_to_be_checked()
        expect(page.locator("#faces-note")).to_have_text("This server cannot restore faces")
        expect(page.locator("#faces-row")).to_have_attribute("title", reason)
        with page.expect_request(lambda request: request.method == "PUT" and "enhance_faces=false" in request.url):
            start(page)
        expect(page.locator("#report")).to_contain_text("as they were")


def test_a_format_that_the_server_does_not_take_is_refused_before_it_is_sent(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method != "GET" else None)
    pick(page, file(b"none", "IMG_1.dng", ""))
    expect(page.locator("#problem")).to_have_text(re.compile("^DNG is none of the formats"))
    pick(page, file(b"\0" * (7 * 2**20 + 1), "large.png", "image/png"))
    expect(page.locator("#problem")).to_contain_text("up to 7 MB")
    expect(page.locator("#shrink")).to_be_hidden()  # there is no picture in it
    assert sent == []


def test_the_picture_is_sent_once(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.method != "GET" else None)
    pick(page)
    page.get_by_label("Restore faces").uncheck()
    size_row(page, "2k").click()
    start(page)
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    assert sent == ["PUT"]


def test_settings_may_change_before_the_first_plan_is_there(page: Page) -> None:
    held: list[Route] = []
    page.route("**/plan?*", lambda route: held.append(route))
    with page.expect_request("**/plan?*"):
        pick(page)
    with page.expect_request("**/plan?*"):
        page.get_by_label("Restore faces").uncheck()
    with page.expect_response("**/plan?*"):
        held[0].fallback()
    expect(button(page, "Upscale")).to_be_disabled()
    held[1].fallback()
    expect(button(page, "Upscale")).to_be_enabled()


def test_enter_starts_and_plus_opens_the_chooser(page: Page) -> None:
    pick(page)
    expect(button(page, "Upscale")).to_be_enabled()
    page.get_by_label("Restore faces").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    with page.expect_file_chooser() as chooser:
        button(page, "Add pictures").click()
    chooser.value.set_files([file(), file(), file(SECOND, "second.jpg")])
    expect(button(page, "Upscale")).to_be_enabled()
    page.evaluate("document.activeElement.blur()")  # as after a picture was dropped
    page.keyboard.press("Enter")
    expect(tiles(page).nth(1)).to_have_attribute("aria-label", "portrait.jpg: done")
    tiles(page).nth(3).click()
    page.locator("#viewer").click()  # as for a preview
    page.keyboard.press("Enter")
    expect(tiles(page).nth(3)).to_have_attribute("aria-label", "second.jpg: done")


def test_a_picture_can_be_pasted_and_dropped_and_a_link_says_why_not(page: Page) -> None:
    give = """([name, given, type = "text/plain"]) => {
        const data = new DataTransfer();
        if (typeof given === "string") data.setData(type, given);
        else data.items.add(new File([new Uint8Array(given)], "given.jpg", { type: "image/jpeg" }));
        const options = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(name === "paste" ? new ClipboardEvent(name, { ...options, clipboardData: data })
            : new DragEvent(name, { ...options, dataTransfer: data }));
    }"""
    for count, way in enumerate(("paste", "drop"), start=1):
        page.evaluate(give, [way, list(PHOTOGRAPH)])
        expect(tiles(page)).to_have_count(count)
        expect(button(page, "Upscale")).to_be_enabled()
    for way in ("paste", "drop"):
        page.evaluate(give, [way, "https://example.org/a.jpg" if way == "drop" else "some words"])
        said = "That is a link: save the picture and drop the file." if way == "drop" else re.compile("^That is text")
        expect(page.locator("#notice")).to_have_text(said)
        expect(page.locator("#notice")).to_be_visible()
    page.evaluate(give, ["drop", "<b>From another page</b>", "text/html"])
    expect(page.locator("#notice")).to_have_text(re.compile("^That is text"))
    page.evaluate(give, ["drop", "https://example.org/b.jpg", "text/uri-list"])
    expect(page.locator("#notice")).to_have_text(re.compile("^That is a link"))
    expect(tiles(page)).to_have_count(2)
