"""A recording of the page, made of screenshots: from ten dropped photographs to their zip file."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Locator, Page, expect

SCALE = 0.7
QUALITY = 75
LOOK_MS, STEP_MS = 1400, 260  # for which a picture stands: to be read, or one of a movement
RING_PX, RING = 20, "#e0701a"  # where is clicked


class Recording:
    """Frames, and how long each is seen."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.times: list[int] = []

    def frame(self, milliseconds: int, click: Locator | None = None) -> None:
        """What is on the screen, with a ring where is to be clicked."""
        taken = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        box = click.bounding_box() if click else None
        if box:
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            ImageDraw.Draw(taken).ellipse((x - RING_PX, y - RING_PX, x + RING_PX, y + RING_PX), outline=RING, width=5)
        self.frames.append(taken.resize((round(taken.width * SCALE), round(taken.height * SCALE)), Image.Resampling.LANCZOS))
        self.times.append(milliseconds)

    def press(self, name: str) -> None:
        """A button, which is seen before and after."""
        button = self.page.get_by_role("button", name=name, exact=True)
        self.frame(LOOK_MS // 2, click=button)
        button.click()

    def save(self, path: Path) -> None:
        """As an animation that begins again."""
        first, *rest = self.frames
        first.save(
            path, save_all=True, append_images=rest, duration=self.times, loop=0, quality=QUALITY, method=6, minimize_size=True
        )


def record(page: Page, photographs: list[Path], path: Path) -> Path:
    """Drop them, choose a size for all, upscale, compare, download all."""
    recording = Recording(page)
    page.evaluate("delete window.showSaveFilePicker")  # whose window no screenshot shows
    recording.frame(LOOK_MS)
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(photographs[0].parent)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 500, "y": 400, "data": data})
    recording.frame(LOOK_MS // 2)
    session.send("Input.dispatchDragEvent", {"type": "drop", "x": 500, "y": 400, "data": data})
    expect(page.locator("#strip [data-state=draft]")).to_have_count(len(photographs))
    expect(page.get_by_role("button", name="Upscale", exact=True)).to_be_enabled()
    page.wait_for_timeout(1000)
    recording.frame(LOOK_MS)
    page.locator("#size-2x").click()  # so that the next is another, whatever the page has chosen
    size = page.locator("#size-4x")
    recording.frame(LOOK_MS // 2, click=size)
    size.click()
    recording.press("Settings for all")
    recording.press("Upscale all")
    done = page.locator("#strip [data-state=done]")
    while done.count() < len(photographs):
        recording.frame(STEP_MS)
        page.wait_for_timeout(700)
    recording.frame(LOOK_MS)
    tile = page.locator("#strip li:nth-child(5) button")
    recording.frame(LOOK_MS // 2, click=tile)
    tile.click()
    slider = page.locator("#viewer .divider")
    expect(slider).to_be_visible()  # the result is loaded
    slider.focus()
    for key in ["PageUp"] * 3 + ["PageDown"] * 6 + ["PageUp"] * 3:
        page.keyboard.press(key)
        recording.frame(STEP_MS)
    with page.expect_download():
        recording.press("Download all")
    expect(page.locator("#notice")).to_be_visible()
    recording.frame(2 * LOOK_MS)
    recording.save(path)
    return path
