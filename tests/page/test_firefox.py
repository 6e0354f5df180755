"""The main way in Firefox: drop, plan, upscale, compare, download all, and find it all again."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tests.helpers import FakeResolver, wait_until
from tests.page.actions import PHOTOGRAPH, SECOND, kept
from tests.page.firefox import firefox, needs_firefox

pytestmark = needs_firefox

DROP = """
    const data = new DataTransfer();
    const photograph = (bytes, index) => new File([new Uint8Array(bytes)], `${index}.jpg`, { type: "image/jpeg" });
    arguments[0].map(photograph).forEach((file) => data.items.add(file));
    document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
"""


def test_from_dropped_photographs_to_a_zip(site: str, resolver: FakeResolver, tmp_path: Path) -> None:
    with firefox(tmp_path) as page:
        page.command("Navigate", url=site)
        page.run(DROP, [list(PHOTOGRAPH), list(SECOND)])
        page.wait("document.querySelectorAll('#strip [data-state=draft]').length === 2")
        page.wait("document.getElementById('go').disabled === false")
        assert "3840 × 2400" in page.text("#size-4k")
        page.type("#viewer", "p")
        page.wait("document.getElementById('spot-says').innerText === 'This spot at 4k'")
        page.click("#spot-close")
        page.click("#size-2k")
        page.wait("!document.querySelector('[data-do=settings]').hidden")
        page.wait(kept(2, "options.size === '2k'"))
        page.command("Refresh")
        page.wait(
            "document.querySelectorAll('#strip [data-state=draft]').length === 2 && !document.getElementById('go').disabled"
        )

        page.click("#strip li:nth-child(2) button")
        assert page.run("return document.querySelector('#size-2k input').checked;")
        page.click("[data-do=settings]")
        resolver.gate.clear()
        page.click("#all [data-do=start]")
        page.wait("document.getElementById('doing').innerText === 'Making it larger'")
        resolver.gate.set()
        page.wait("document.querySelector('#all p').innerText === '2 of 2 done'")
        page.wait("document.querySelector('.after img').naturalWidth === 1920")
        page.type(".divider", "\ue010")
        assert page.run("return document.querySelector('.divider').getAttribute('aria-valuenow');") == "100"

        page.click("#all [data-do=download]")
        wait_until(lambda: [path.name for path in page.downloads.iterdir()] == ["upscaled.zip"])
        wait_until(lambda: zipfile.is_zipfile(page.downloads / "upscaled.zip"))
        with zipfile.ZipFile(page.downloads / "upscaled.zip") as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["0-1920x1200.jpg", "1-1920x1200.jpg"]
