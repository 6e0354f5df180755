"""The pictures of the page in the documents: `make screenshots` starts a server and uses its page as a person would.

Each state is taken on a desk and on a telephone, light and dark, into build/screenshots/; what is made of them is
docs/page*.jpg, and docs/page.webp is a recording. JPEG and WebP, since photographs are in them.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from bench.browser import launch
from bench.images.recording import record
from bench.server import ROOT, SAMPLE, running_server

DOCS = ROOT / "docs"
SHOTS = ROOT / "build" / "screenshots"
DESK = {"viewport": {"width": 1440, "height": 900}}
TELEPHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "has_touch": True, "is_mobile": True}
SCREENS: dict[str, dict[str, Any]] = {"desk": DESK, "telephone": TELEPHONE}
SCHEMES = ("light", "dark")
STATES = ("empty", "draft", "preview", "folder", "comparison", "error")
WAIT_MS = 300_000
GAP_PX = 24
CROP = (150, 100)  # of the sample: a second each, at 4x on two cores
CROPS = ((150, 10), (280, 0), (0, 60), (160, 70), (20, 168), (140, 168), (280, 80), (280, 168), (0, 0), (90, 40))  # left, top


@dataclass
class Shots:
    """Of one kind of screen, in one scheme, by state."""

    page: Page
    name: str

    def take(self, state: str) -> None:
        """Keep what is on the screen."""
        self.page.screenshot(path=SHOTS / f"{self.name}-{state}.png")


def main() -> int:
    """Take them all."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=WAIT_MS)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder) / "outputs") as server,
        sync_playwright() as playwright,
    ):
        browser = launch(playwright)
        for shift, (screen, scheme) in enumerate(product(SCREENS, SCHEMES)):
            with visit(browser, server.url, **SCREENS[screen], color_scheme=scheme) as page:
                take_states(Shots(page, f"{screen}-{scheme}"), write_folder(Path(folder) / screen / scheme, shift))
        photographs = write_folder(Path(folder) / "photographs", len(SCREENS) * len(SCHEMES))
        with visit(browser, server.url, viewport={"width": 1200, "height": 750}) as page:
            said(record(page, photographs, DOCS / "page.webp"))
        browser.close()
    for scheme in SCHEMES:
        keep(
            sheet([shot("desk", scheme, state).resize((720, 450), Image.Resampling.LANCZOS) for state in STATES], 2),
            f"page-states-{scheme}",
        )
        keep(
            sheet([shot("telephone", scheme, state) for state in STATES], 6).resize((1764, 608), Image.Resampling.LANCZOS),
            f"page-telephones-{scheme}",
        )
    keep(shot("desk", "light", "comparison"), "page")
    keep(shot("desk", "dark", "folder"), "page-dark")
    keep(sheet([shot("telephone", "dark", state) for state in ("draft", "folder", "comparison")], 3), "page-telephone")
    return 0


def write_folder(folder: Path, shift: int) -> list[Path]:
    """Ten photographs; with another shift, none is what the server has made before."""
    folder.mkdir(parents=True)
    whole = Image.open(SAMPLE)
    paths = [folder / f"IMG_{2041 + number}.jpg" for number in range(len(CROPS))]
    for path, (left, top) in zip(paths, CROPS, strict=True):
        whole.crop((left + shift, top, left + shift + CROP[0], top + CROP[1])).save(path, quality=92)
    return paths


@contextmanager
def visit(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    """The page in a window of its own, where nothing moves."""
    context = browser.new_context(reduced_motion="reduce", **options)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#server")).to_contain_text("Ready")
    yield page
    context.close()


def take_states(shots: Shots, photographs: list[Path]) -> None:
    """From the empty page to a comparison, and an error."""
    page = shots.page
    shots.take("empty")
    page.set_input_files("#pick", SAMPLE)
    expect(page.get_by_role("button", name="Upscale", exact=True)).to_be_enabled()
    page.wait_for_timeout(500)
    shots.take("draft")
    viewer = page.locator("#viewer")
    box = viewer.bounding_box() or {"width": 0.0, "height": 0.0}
    viewer.click(position={"x": box["width"] * 0.55, "y": box["height"] * 0.4})
    expect(page.locator("#spot-says")).to_contain_text("This spot at")
    shots.take("preview")
    page.locator("#size-4x").click()
    page.locator("#size-2k").click()
    page.get_by_role("button", name="Upscale", exact=True).click()
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    expect(page.locator("#viewer .divider")).to_be_visible()
    shots.take("comparison")

    page.set_input_files("#pick", photographs)
    page.locator("#size-2x").click()
    page.locator("#size-4x").click()
    page.get_by_role("button", name="Settings for all").click()
    page.locator("#strip li:last-child button").click()
    page.get_by_role("button", name="Upscale all").click()
    expect(page.locator("#strip [data-state=done]")).to_have_count(4)
    page.set_input_files("#pick", {"name": "scan.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    expect(page.locator("#problem")).to_be_visible()
    shots.take("error")
    page.locator("#strip [data-state=active]").nth(1).click()  # the first may be done by then
    expect(page.locator("#doing")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    shots.take("folder")
    page.get_by_role("button", name="Cancel all").click()
    expect(page.locator("#strip [data-state=active]")).to_have_count(0)


def shot(screen: str, scheme: str, state: str) -> Image.Image:
    """That state, as it was taken."""
    return Image.open(io.BytesIO((SHOTS / f"{screen}-{scheme}-{state}.png").read_bytes())).convert("RGB")


def sheet(shots: list[Image.Image], columns: int) -> Image.Image:
    """Beside and below each other."""
    width, height = shots[0].size
    rows = -(-len(shots) // columns)
    together = Image.new("RGB", (columns * (width + GAP_PX) - GAP_PX, rows * (height + GAP_PX) - GAP_PX), "#888")
    for index, each in enumerate(shots):
        together.paste(each, (index % columns * (width + GAP_PX), index // columns * (height + GAP_PX)))
    return together


def keep(picture: Image.Image, name: str) -> None:
    """As a picture of the documents."""
    path = DOCS / f"{name}.jpg"
    picture.save(path, quality=84, optimize=True, progressive=True)
    said(path)


def said(path: Path) -> None:
    """What has been written."""
    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
