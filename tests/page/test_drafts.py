"""Before anything runs: pictures come in, their plans are shown, and settings are chosen; the models are fake."""

from __future__ import annotations

import re
from dataclasses import replace

from playwright.sync_api import Browser, Page, expect

from bench.server import free_port
from core.config import Settings
from model_utility import ModelStatus
from tests.helpers import fake_models, with_settings
from tests.page.actions import PHOTOGRAPH, WIDE, button, file, pick, size_row, start, tiles
from tests.page.conftest import served, visit


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


def test_drawings_have_a_model_of_their_own_where_the_server_has_it(browser: Browser, settings: Settings, page: Page) -> None:
    pick(page)
    expect(page.get_by_text("Drawing")).to_be_hidden()
    models = replace(fake_models(), status={"upscale_x4_anime": ModelStatus("anime.pth")})
    other = with_settings(settings, port=free_port())
    with served(other, lambda _: models) as url, visit(browser, url) as drawing:
        pick(drawing)
        with drawing.expect_response(lambda response: "model=anime" in response.url and response.ok):
            drawing.locator("label", has_text="Drawing").click()
        with drawing.expect_request(lambda request: request.method == "PUT" and "model=anime" in request.url):
            start(drawing)
        expect(drawing.get_by_role("link", name="Download")).to_be_visible()


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


def test_a_format_that_the_server_does_not_take_is_refused_before_it_is_sent(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method != "GET" else None)
    pick(page, file(b"none", "IMG_1.dng", ""))
    expect(page.locator("#problem")).to_have_text(re.compile("^DNG is none of the formats"))
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
