"""The result: compared under the slider, down to single pixels, and made again with other settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, expect

from core.config import Settings
from model_utility import ModelStatus
from tests.helpers import fake_models
from tests.page.actions import box_of, button, tiles, upscale
from tests.page.conftest import served, visit


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
    face = type("Face", (), {"box": (30.0, 15.0, 60.0, 45.0)})
    methods = {"detect": lambda *_: [face], "flops": lambda *_: 0.0, "measure": lambda *_: None}
    detector = type("OneFace", (), {name: staticmethod(method) for name, method in methods.items()})()
    status = {"face_restoration": ModelStatus("restorer.pth")}
    models = replace(fake_models(), face_detector=detector, face_restorer=None, status=status)
    with served(settings, lambda _: models) as url, visit(browser, url) as page:
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
