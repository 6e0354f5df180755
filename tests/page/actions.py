"""What a person does with the page, and where it shows what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import FloatRect, Locator, Page, expect

from core.progress import Progress
from tests.helpers import FakeResolver, encode, sample_crop, wait_until

PHOTOGRAPH = encode(sample_crop(120, 75, left=150, top=20), "JPEG", quality=90)
SECOND = encode(sample_crop(120, 75, left=20, top=100), "JPEG", quality=90)  # the same picture twice would be made once
SLOW = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}  # bytes a second
WIDE = encode(np.zeros((4, 1500, 3), np.uint8))


def photograph(number: int) -> bytes:
    """No two are the same, or they would be made once."""
    return encode(sample_crop(60, 40, left=8 * number, top=5 * number), "JPEG", quality=90)


def file(data: bytes = PHOTOGRAPH, name: str = "portrait.jpg", media_type: str = "image/jpeg") -> Any:
    """As a person would pick it."""
    return {"name": name, "mimeType": media_type, "buffer": data}


def pick(page: Page, *files: Any) -> None:
    page.set_input_files("#pick", list(files) or [file()])


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def tiles(page: Page) -> Locator:
    """The pictures in the strip, without the first one, which adds another."""
    return page.locator("#strip li:not(:first-child) button")


def start(page: Page) -> None:
    expect(button(page, "Upscale")).to_be_enabled()
    button(page, "Upscale").click()


def upscale(page: Page) -> None:
    pick(page)
    start(page)
    expect(page.get_by_role("link", name="Download")).to_be_visible()


def size_row(page: Page, target: str) -> Locator:
    return page.locator(f"#size-{target}")


def watch_pictures(resolver: FakeResolver) -> list[NDArray[np.uint8]]:
    """The pixels that the fake model gets from now on."""
    seen: list[NDArray[np.uint8]] = []
    resolve = resolver.super_resolve

    def watch(image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
        seen.append(image)
        return resolve(image, scale, progress)

    resolver.super_resolve = watch  # type: ignore[method-assign]
    return seen


def box_of(locator: Locator) -> FloatRect:
    """Where it is on the screen, in CSS pixels."""
    locator.wait_for()
    box = locator.bounding_box()
    assert box
    return box


def until(page: Page, is_true: Callable[[], bool]) -> None:
    """Wait for what Playwright knows no expectation for, while the browser's events are heard."""
    wait_until(is_true, lambda seconds: page.wait_for_timeout(1000 * seconds))


def until_kept(page: Page, count: int, picture: str = "true") -> None:
    until(page, lambda: page.evaluate(kept(count, picture)))


def kept(count: int, picture: str = "true") -> str:
    """In JavaScript, whether the browser's database has that many pictures, for one of which `picture` is true.

    `picture` may speak of its name, its options, and whether it is queued.
    """
    return f"""(async () => {{
        const request = indexedDB.open("upscale");
        await new Promise((resolve) => {{ request.onsuccess = resolve; }});
        const transaction = request.result.transaction(["pictures", "states"]);
        const [pictures, states] = ["pictures", "states"].map((name) => transaction.objectStore(name).getAll());
        await new Promise((resolve) => {{ transaction.oncomplete = resolve; }});
        request.result.close();
        const stateOf = (id) => states.result.find((state) => state.id === id);
        const all = pictures.result.map(({{ id, name }}) => ({{ name, ...stateOf(id) }}));
        return all.length >= {count} && all.some(({{ name, options, queued }}) => {picture});
    }})()"""
