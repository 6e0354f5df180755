"""What the browser cannot show, and what is too large for the server."""

from __future__ import annotations

import io
import re

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from core.config import Settings
from tests.helpers import FakeResolver, encode, fake_models, sample_crop, with_settings
from tests.page.actions import button, file, pick, size_row, start, tiles, until, watch_pictures
from tests.page.conftest import served, visit

LONG = encode(np.zeros((4, 8000, 3), np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def heic(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(("encoded", "name"), [(heic, "IMG_1.HEIC"), (lambda image: encode(image, "TIFF"), "scan.tif")])
def test_what_the_browser_cannot_show_the_server_shows(page: Page, encoded: object, name: str) -> None:
    assert callable(encoded)
    pick(page, file(encoded(Image.fromarray(sample_crop(120, 75))), name, ""))
    expect(page.locator("#draft .facts")).to_contain_text("120 × 75")
    expect(size_row(page, "4x").locator(".result")).to_have_text("480 × 300")
    thumbnail = tiles(page).locator("img")
    expect(thumbnail).to_be_visible()
    assert thumbnail.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [120, 75]
    start(page)
    expect(page.get_by_role("slider", name="How much")).to_be_visible()
    expect(page.get_by_alt_text("The original")).to_be_visible()


def test_a_picture_that_is_too_long_for_every_size_is_made_smaller_first(page: Page, resolver: FakeResolver) -> None:
    sent = watch_pictures(resolver)
    pick(page, file(LONG, "long.png", "image/png"))
    expect(page.locator("#problem")).to_have_text("The picture is 8000 × 4: too large for every size.")
    button(page, "Make it 3840 px wide first").click()
    expect(page.locator("#draft .facts")).to_have_text(re.compile(r"^3840 × 2, .*, made smaller from 8000 × 4$"))
    start(page)
    download = page.get_by_role("link", name="Download")
    expect(download).to_have_attribute("download", "long-7680x4.jpg")
    assert sent[-1].shape[:2] == (2, 3840)


def test_a_file_is_judged_only_once_the_server_has_said_what_it_takes(browser: Browser, settings: Settings) -> None:
    noise = encode(np.random.default_rng(0).integers(0, 255, (600, 700, 3), np.uint8))
    held: list[Route] = []
    with (
        served(with_settings(settings, max_image_mb=1), lambda _: fake_models()) as url,
        visit(browser, url) as page,
    ):
        expect(page.locator("#server")).to_have_text("Ready, on a CPU")
        page.route("**/health", lambda route: held.append(route))
        page.reload()
        pick(page, file(noise, "noise.png", "image/png"))
        expect(tiles(page).locator("img")).to_be_visible()
        expect(button(page, "Upscale")).to_be_disabled()
        until(page, lambda: bool(held))
        held[0].continue_()
        expect(page.locator("#problem")).to_contain_text("the server takes up to 1 MB")


def test_a_file_with_too_many_bytes_is_made_smaller_and_stays_upright(browser: Browser, settings: Settings) -> None:
    picture = np.array(Image.fromarray(sample_crop(480, 300)).resize((2400, 1500), Image.Resampling.BICUBIC)).astype(int)
    noisy = np.clip(picture + np.random.default_rng(0).integers(-6, 7, picture.shape), 0, 255).astype(np.uint8)
    large = encode(noisy, "JPEG", quality=98, exif=TURNED)
    assert len(large) > 2**20
    resolver = FakeResolver()
    sent = watch_pictures(resolver)
    with (
        served(with_settings(settings, max_image_mb=1), lambda _: fake_models(resolver)) as url,
        visit(browser, url) as page,
    ):
        pick(page, file(large, "large.jpg"))
        expect(page.locator("#problem")).to_contain_text("the server takes up to 1 MB")
        button(page, "Make the file smaller first").click()
        expect(page.locator("#draft .facts")).to_contain_text("made smaller from 1500 × 2400")
        size_row(page, "2x").click()
        start(page)
        expect(page.get_by_role("link", name="Download")).to_be_visible()
    height, width = sent[-1].shape[:2]
    assert (width, height) == (1200, 1920)
    expected = Image.fromarray(noisy).rotate(-90, expand=True).resize((width, height), Image.Resampling.LANCZOS)
    assert np.abs(sent[-1].astype(int) - np.array(expected)).mean() < 4
