"""The screenshots of the documents: `make screenshots` starts a server and uses its page as a person would.

Each is docs/page*.jpg: JPEG, since a photograph is in it.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from bench.browser import launch
from bench.server import ROOT, SAMPLE, running_server

DESK = {"viewport": {"width": 1440, "height": 900}}
TELEPHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "has_touch": True}
RESULT_MS = 600_000
GAP_PX = 24


def main() -> int:
    """Take them all."""
    with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs)) as server, sync_playwright() as playwright:
        browser = launch(playwright)
        with _visit(browser, server.url, **DESK, color_scheme="light") as page:
            _pick(page)
            _upscale(page)
            _keep(_shot(page), "page")
        with _visit(browser, server.url, **DESK, color_scheme="dark") as page:
            _pick(page)
            _keep(_shot(page), "page-dark")
        with _visit(browser, server.url, **TELEPHONE, color_scheme="dark") as page:
            _pick(page)
            page.get_by_label("Restore faces").uncheck()  # else the result is a cache hit
            page.evaluate("scrollTo(0, 0)")
            shots = [_shot(page)]
            _start(page)
            page.locator("#percent", has_text=re.compile(r"[3-9]\d %")).wait_for(timeout=RESULT_MS)
            shots.append(_shot(page))
            _wait(page)
            shots.append(_shot(page))
            _keep(_beside(shots), "page-telephone")
        browser.close()
    return 0


@contextmanager
def _visit(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    context = browser.new_context(reduced_motion="reduce", **options)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def _pick(page: Page) -> None:
    page.set_input_files("#pick", SAMPLE)
    page.locator("#size-2k .result").get_by_text(re.compile(r"\d")).wait_for()
    page.locator("#size-8k .result").get_by_text(re.compile(r"\d")).wait_for()
    page.locator("#size-2k").click()


def _start(page: Page) -> None:
    page.get_by_role("button", name="Upscale", exact=True).click()


def _wait(page: Page) -> None:
    page.get_by_role("link", name="Download").wait_for(timeout=RESULT_MS)
    page.locator("#viewer .divider").wait_for()


def _upscale(page: Page) -> None:
    _start(page)
    _wait(page)


def _shot(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _beside(shots: list[Image.Image]) -> Image.Image:
    width = sum(shot.width for shot in shots) + GAP_PX * (len(shots) - 1)
    together = Image.new("RGB", (width, shots[0].height), "white")
    for index, shot in enumerate(shots):
        together.paste(shot, (index * (shot.width + GAP_PX), 0))
    return together


def _keep(picture: Image.Image, name: str) -> None:
    path = ROOT / "docs" / f"{name}.jpg"
    picture.save(path, quality=88, optimize=True, progressive=True)
    sys.stdout.write(f"{path.relative_to(ROOT)}: {picture.width}×{picture.height}, {path.stat().st_size // 1000} kB\n")


if __name__ == "__main__":
    sys.exit(main())
