"""Sizes and models: what is offered, what the page chooses, and what a person does; the plans are the server's."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, Route, expect

from tests.helpers import encode, sample_crop
from tests.page.actions import PHOTOGRAPH, SECOND, WIDE, box_of, button, file, pick, size_row, start, tiles
from tests.page.conftest import visit

SECONDS: dict[str, dict[str, float]] = {"2k": {"photo": 20, "photo_fast": 2}, "4k": {"photo": 300, "photo_fast": 30}}
LARGE = encode(sample_crop(1, 1).repeat(2500, axis=1))


def plan_seconds(page: Page, seconds: dict[str, dict[str, float]], others: float = 9000.0) -> None:
    """Let the server predict these, by target and model, and that many for all others."""

    def answer(route: Route) -> None:
        plan: dict[str, Any] = route.fetch().json()
        for size in plan["sizes"]:
            predicted = size.get("predicted_seconds", {})
            predicted.update({model: seconds.get(size["target_resolution"], {}).get(model, others) for model in predicted})
        route.fulfill(json=plan)

    page.route("**/plan?*", answer)


def test_a_size_that_whole_passes_do_not_reach_is_made_exact_by_itself(page: Page) -> None:
    pick(page, file(WIDE, "wide.png", "image/png"))
    expect(size_row(page, "2k").locator(".result")).to_have_text("2048 × 5")
    size_row(page, "2k").click()
    expect(page.get_by_label("Exact size")).to_be_hidden()
    with page.expect_request(lambda request: request.method == "PUT") as sent:
        start(page)
    assert "target_resolution=2k&fit=exact" in sent.value.url


def test_exact_size_is_a_choice_where_it_makes_a_difference(page: Page) -> None:
    pick(page)
    size_row(page, "4k").click()  # which whole passes reach
    expect(page.get_by_label("Exact size")).to_be_hidden()
    size_row(page, "2k").click()
    expect(page.locator("#exact-note")).to_have_text("2048 × 1280, else 1920 × 1200")
    page.get_by_label("Exact size").check()
    expect(size_row(page, "2k").locator(".result")).to_have_text("2048 × 1280")


def test_an_impossible_size_is_greyed_out_with_the_reason(page: Page) -> None:
    pick(page, file(LARGE, "large.png", "image/png"))
    expect(size_row(page, "2k").locator("small")).to_have_text("The picture is as large already")
    expect(size_row(page, "4x").locator("small")).to_have_text("Too large for the server")
    for size in ("2k", "4x"):
        expect(size_row(page, size).locator("input")).to_be_disabled()
    expect(size_row(page, "2x").locator("input")).to_be_enabled()
    expect(button(page, "Upscale")).to_be_enabled()


def test_a_size_that_would_take_too_long_is_greyed_out_and_the_others_are_not(page: Page) -> None:
    plan_seconds(page, SECONDS, others=3963)
    pick(page)
    expect(size_row(page, "8k").locator("small")).to_have_text("Takes about 1 h 6 min, over the server's 30 min")
    expect(size_row(page, "8k").locator("input")).to_be_disabled()
    expect(button(page, "Upscale")).to_be_enabled()


def test_a_picture_of_which_every_size_would_take_too_long_is_made_smaller_first(page: Page) -> None:
    plan_seconds(page, {}, others=8000)
    pick(page, file(encode(sample_crop(480, 300).repeat(5, axis=1).repeat(5, axis=0), "JPEG")))
    expect(page.locator("#problem")).to_have_text("It would take about 2 h 13 min; the server allows 30 min.")
    page.unroute("**/plan?*")
    button(page, "Make it 960 px wide first").click()  # 2400 px, and 8000 seconds in place of 1800
    expect(page.locator("#draft .facts")).to_contain_text("960 × 600")
    expect(button(page, "Upscale")).to_be_enabled()


def test_a_factor_reaches_the_server_as_a_scale(page: Page) -> None:
    pick(page)
    size_row(page, "4x").click()
    with page.expect_request(lambda request: request.method == "PUT") as sent:
        start(page)
    assert "scale=4" in sent.value.url
    assert "target_resolution" not in sent.value.url
    expect(page.locator("#report")).to_contain_text("480 × 300")


def test_on_a_cpu_the_page_chooses_what_ends_soon_until_a_person_chooses(page: Page) -> None:
    plan_seconds(page, SECONDS)
    pick(page)
    expect(size_row(page, "4k").locator("input")).to_be_checked()
    expect(page.get_by_label("Fast")).to_be_checked()
    expect(page.locator("#best-note")).to_have_text("about 5 min")
    expect(page.locator("#estimate")).to_have_text("Takes about 30 s")
    page.locator("label", has_text="Best").click()
    expect(size_row(page, "2k").locator("input")).to_be_checked()
    expect(page.locator("#estimate")).to_have_text("Takes about 20 s")
    size_row(page, "4k").click()
    expect(page.get_by_label("Best")).to_be_checked()
    expect(page.locator("#estimate")).to_have_text("Takes about 5 min")
    pick(page, file(SECOND, "second.jpg"))
    expect(page.locator("#estimate")).to_have_text("Takes about 5 min")  # what was chosen is kept
    with page.expect_request(lambda request: request.method == "PUT" and "model=photo&" in request.url):
        start(page)


def test_on_a_card_the_page_chooses_the_best(page: Page) -> None:
    def on_card(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | {"device": "cuda:0 (NVIDIA H200)"})

    page.route("**/health", on_card)
    plan_seconds(page, SECONDS)
    page.reload()
    expect(page.locator("#server")).to_have_text("Ready, on a GPU")
    pick(page)
    expect(page.locator("#estimate")).to_have_text("Takes about 5 min")
    expect(page.get_by_label("Best")).to_be_checked()


def test_the_server_is_asked_once_for_pictures_of_one_size(page: Page) -> None:
    plans: list[str] = []
    page.on("request", lambda request: plans.append(request.url) if "/plan?" in request.url else None)
    pick(page, file(PHOTOGRAPH), file(SECOND, "second.jpg"))
    expect(button(page, "Upscale")).to_be_enabled()
    tiles(page).nth(1).click()
    expect(button(page, "Upscale")).to_be_enabled()
    with page.expect_request(lambda request: "enhance_faces=false" in request.url):
        page.get_by_label("Restore faces").uncheck()
    page.get_by_label("Restore faces").check()
    expect(page.locator("#estimate")).to_have_text(re.compile("^Takes"))
    assert [url.partition("?")[2] for url in plans] == [
        f"width=120&height=75&enhance_faces={faces}" for faces in ("true", "false")
    ]


def test_a_picture_with_transparency_is_planned_as_one(page: Page) -> None:
    transparent = np.full((75, 120, 4), 128, np.uint8)
    with page.expect_request(lambda request: "/plan?" in request.url) as asked:
        pick(page, file(encode(transparent), "transparent.png", "image/png"))
    assert "alpha=true" in asked.value.url


def test_a_telephone_shows_all_sizes_and_speaks_of_touch(browser: Browser, site: str) -> None:
    with visit(browser, site, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:
        expect(page.get_by_text("Drop them or")).to_be_hidden()
        pick(page, file(encode(sample_crop(480, 300)), "portrait.png", "image/png"), file(SECOND, "second.jpg"))
        expect(button(page, "Upscale")).to_be_enabled()
        bottom = box_of(page.locator("#draft .actions"))["y"]
        for size in ("2x", "4x", "2k", "4k", "8k"):
            row = box_of(size_row(page, size))
            assert row["height"] >= 44
            assert row["y"] + row["height"] <= bottom
        expect(page.locator("#spot")).to_have_text(re.compile("Tap a spot to preview it"), use_inner_text=True)
        size_row(page, "4x").tap()
        frame = box_of(page.locator("#viewer"))
        page.touchscreen.tap(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
        expect(page.locator("#spot-says")).to_have_text("This spot at 4×")
