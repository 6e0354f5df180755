"""For everybody: axe-core's rules in every state, the keyboard, announcements, telephones, light and dark."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.helpers import FakeResolver
from tests.page.actions import WIDE, button, file, pick, size_row, start, tiles
from tests.page.conftest import visit


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_in_any_state(browser: Browser, site: str, resolver: FakeResolver, scheme: str) -> None:
    with visit(browser, site, color_scheme=scheme, reduced_motion="reduce") as page:
        assert violations(page) == []
        pick(page, file(WIDE, "wide.png", "image/png"))
        expect(button(page, "Upscale")).to_be_enabled()
        assert violations(page) == []
        page.locator("#viewer").focus()
        page.keyboard.press("p")
        expect(page.get_by_alt_text("This spot, upscaled")).to_be_visible()
        assert violations(page) == []
        pick(page, file(b"none", "broken.jpg"))
        expect(page.locator("#problem")).to_be_visible()
        assert violations(page) == []
        resolver.gate.clear()
        pick(page)
        start(page)
        expect(button(page, "Cancel")).to_be_visible()
        assert violations(page) == []
        resolver.gate.set()
        expect(page.get_by_role("link", name="Download")).to_be_visible()
        expect(page.get_by_role("slider", name="How much")).to_be_visible()
        assert violations(page) == []


def violations(page: Page) -> list[str]:
    """Which rule, and where."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


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
    expect(size_row(page, "4k").locator("input")).to_be_checked()
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


def test_in_forced_colours_it_is_seen_what_is_chosen_and_how_far_it_is(
    browser: Browser, site: str, resolver: FakeResolver
) -> None:
    with visit(browser, site, forced_colors="active", reduced_motion="reduce") as page:
        pick(page)
        expect(button(page, "Upscale")).to_be_enabled()
        jpeg, faces = page.locator("#draft label", has_text="JPEG"), page.get_by_label("Restore faces")
        for choice in (jpeg, faces):
            before = pixels(choice)
            choice.click()
            page.mouse.move(0, 0)
            assert difference(before, pixels(choice)) > 20
        resolver.gate.clear()
        start(page)
        expect(page.locator("#doing")).to_have_text("Making it larger")  # and not being sent
        expect(page.locator("#percent")).to_have_text("0 %")
        bar = page.locator("#bar")
        empty = pixels(bar)
        bar.locator("i").evaluate("(done) => { done.style.transform = 'none'; }")  # as at 100 %
        assert difference(empty, pixels(bar)) > 20
        resolver.gate.set()


def pixels(locator: Locator) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"))


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Of what both show, on average; a label that is chosen has bolder letters, and may be wider."""
    height, width = np.minimum(one.shape[:2], other.shape[:2])
    return float(np.abs(one[:height, :width].astype(int) - other[:height, :width]).mean())


def test_dark_and_light_follow_the_system(browser: Browser, site: str) -> None:
    light, dark = (brightness(browser, site, scheme) for scheme in ("light", "dark"))
    assert light > 200
    assert dark < 50


def brightness(browser: Browser, site: str, scheme: str) -> int:
    with visit(browser, site, color_scheme=scheme) as page:
        color: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(re.findall(r"\d+", color)[0])
