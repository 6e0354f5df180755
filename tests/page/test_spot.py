"""A spot of a draft, made before the whole, and the zoom of drafts; the fake model repeats pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page, expect

from tests.helpers import FakeResolver, encode, sample_crop
from tests.page.actions import box_of, button, file, pick, size_row, watch_pictures

PICTURE = sample_crop(480, 300)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # is shown a quarter to the right


def viewer(page: Page) -> Locator:
    return page.locator("#viewer")


def made(page: Page) -> Locator:
    return page.get_by_alt_text("This spot, upscaled")


def original(page: Page) -> FloatRect:
    return box_of(page.get_by_alt_text("The original"))


def click(page: Page, x: float, y: float) -> None:
    """In shares of the picture."""
    box = original(page)
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def draft(page: Page, data: bytes | None = None, size: str = "4x") -> None:
    pick(page, file(data or encode(PICTURE), "portrait.png", "image/png"))
    expect(button(page, "Upscale")).to_be_enabled()
    size_row(page, size).click()


def is_upscale(method: str, url: str) -> bool:
    return method == "POST" and "/upscale?" in url


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "turned"])
def test_a_click_has_that_spot_made_and_shown_in_its_place(page: Page, resolver: FakeResolver, turned: bool) -> None:
    sent = watch_pictures(resolver)
    upright = PICTURE.transpose(1, 0, 2)[:, ::-1] if turned else PICTURE
    draft(page, encode(PICTURE, exif=TURNED) if turned else None)
    before = original(page)
    with page.expect_request(lambda request: is_upscale(request.method, request.url)) as asked:
        click(page, 0.5, 0.5)
    expect(page.locator("#spot-says")).to_have_text("This spot at 4×")
    assert "scale=4&" in asked.value.url
    assert "model=photo&" in asked.value.url

    # What was sent: the middle of the original, pixel for pixel, with a margin of 12.
    height, width = upright.shape[:2]
    side = 256
    top, left = (height - side) // 2 - 12, (width - side) // 2 - 12
    assert np.array_equal(sent[0], upright[top : top + 280, left : left + 280])

    # What is seen: the result over just that part, which is larger now, and whose margin is cut off.
    whole, seen = original(page), box_of(page.locator(".spot:not(.frame)"))
    picture = box_of(made(page))
    assert whole["width"] > before["width"]
    assert seen["width"] / whole["width"] == pytest.approx(side / width, abs=0.002)
    assert (seen["x"] - whole["x"]) / whole["width"] == pytest.approx((left + 12) / width, abs=0.002)
    assert picture["width"] / seen["width"] == pytest.approx(280 / 256, abs=0.002)
    divider = box_of(page.get_by_role("slider", name="How much"))
    assert divider["x"] + divider["width"] / 2 == pytest.approx(seen["x"] + seen["width"] / 2, abs=1)
    assert divider["height"] == pytest.approx(seen["height"], abs=1)

    page.keyboard.press("Escape")
    expect(made(page)).to_be_hidden()
    assert original(page) == before


def test_another_spot_and_other_settings_end_what_is_being_made(page: Page, resolver: FakeResolver) -> None:
    draft(page)
    resolver.gate.clear()
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    with page.expect_request("**/upscale?*"):
        click(page, 0.2, 0.5)
    expect(page.locator("#spot-says")).to_contain_text("Making this spot, about a second")
    with page.expect_event("requestfailed"):
        click(page, 0.9, 0.5)
    resolver.gate.set()
    expect(page.locator("#spot-says")).to_have_text("This spot at 4×")
    seen, whole = box_of(page.locator(".spot:not(.frame)")), original(page)
    assert seen["x"] + seen["width"] == pytest.approx(whole["x"] + whole["width"], abs=1)
    size_row(page, "2x").click()
    expect(made(page)).to_be_hidden()
    expect(page.locator("#spot-close")).to_be_hidden()
    assert len(failed) == 1


def test_a_spot_that_fails_says_so_and_the_draft_stays(page: Page, resolver: FakeResolver) -> None:
    draft(page)
    resolver.error = RuntimeError("a defect")
    viewer(page).focus()
    page.keyboard.press("p")
    expect(page.locator("#spot-says")).to_contain_text("request_id")
    page.get_by_role("button", name="Close the preview").click()
    expect(page.locator("#spot-says")).to_be_empty()
    expect(button(page, "Upscale")).to_be_enabled()


def test_a_spot_that_has_to_wait_says_how_long(page: Page, resolver: FakeResolver) -> None:
    page.route("**/plan?*", lambda route: route.fulfill(json={**route.fetch().json(), "queue_seconds": 45}))
    draft(page)
    resolver.gate.clear()
    click(page, 0.5, 0.5)
    expect(page.locator("#spot-says")).to_have_text("Making this spot, about a second, after about 45 s in the queue…")
    resolver.gate.set()


def test_a_picture_that_is_small_can_be_seen_closer_than_the_whole(page: Page) -> None:
    draft(page, encode(sample_crop(60, 40)))
    whole = original(page)
    button(page, "Zoom in").click()
    assert original(page)["width"] == pytest.approx(1.5 * whole["width"], abs=1)


def test_a_drag_a_double_click_and_the_wheel_move_the_draft_and_make_no_spot(page: Page) -> None:
    draft(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    fitted = original(page)
    share = page.locator("#zoom")
    zoom = f"{fitted['width'] / 480:.0%}".replace("%", " %")
    expect(share).to_have_text(zoom)
    page.mouse.move(fitted["x"] + 300, fitted["y"] + 200)
    page.mouse.wheel(0, -200)
    expect(button(page, "Fit")).to_have_attribute("aria-pressed", "false")
    closer = original(page)
    assert closer["width"] > 1.2 * fitted["width"]
    page.mouse.down()
    page.mouse.move(fitted["x"] + 250, fitted["y"] + 180, steps=3)
    page.mouse.up()
    assert original(page)["x"] == pytest.approx(closer["x"] - 50, abs=0.5)
    page.mouse.dblclick(fitted["x"] + 300, fitted["y"] + 200)
    expect(share).to_have_text(zoom)
    button(page, "Zoom in").click()
    assert original(page)["width"] == pytest.approx(1.5 * fitted["width"], abs=1)
    button(page, "Zoom out").click()
    expect(button(page, "Fit")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(400)  # longer than a click waits for a second one
    assert asked == []
