"""A folder of photographs: dropped, given the same settings, made one after another, and downloaded as one file."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import zipfile
from base64 import b64decode
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from core.config import Settings
from tests.helpers import FakeResolver, fake_models, with_settings
from tests.page.actions import box_of, button, file, photograph, pick, tiles, until
from tests.page.conftest import served, visit


def pick_several(page: Page, count: int) -> None:
    pick(page, *[file(photograph(number), f"IMG_{number}.jpg") for number in range(count)])
    expect(tiles(page)).to_have_count(count)
    expect(button(page, "Upscale all")).to_be_visible()


def said(page: Page) -> str:
    return page.locator("#all p").inner_text()


def make_all(page: Page, count: int) -> None:
    pick_several(page, count)
    button(page, "Upscale all").click()
    expect(page.locator("#all p")).to_have_text(f"{count} of {count} done")


def drop(page: Page, *paths: Path) -> None:
    """As from the desk's own windows."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 400, "data": data})


def test_a_folder_is_taken_with_those_in_it_and_what_is_no_picture_is_counted(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    (folder / "day 2" / ".cache").mkdir(parents=True)
    for number, name in enumerate(["IMG_10.jpg", "IMG_9.JPG", "day 2/beach.jpg", "day 2/.cache/thumbnail.jpg"]):
        (folder / name).write_bytes(photograph(number))
    for name in ("notes.txt", "film.mov", "day 2/README"):
        (folder / name).write_text("nothing to see")
    drop(page, folder)
    expect(page.locator("#notice")).to_have_text("3 pictures added, 3 other files left out.")
    names = [tile.get_attribute("title") for tile in tiles(page).all()]
    assert names == ["beach.jpg: not started", "IMG_9.JPG: not started", "IMG_10.jpg: not started"]


def test_a_file_that_the_disk_does_not_give_stops_no_other(page: Page, tmp_path: Path) -> None:
    page.evaluate(
        """(picture) => {
            const second = new File([new Uint8Array(picture)], "2.jpg", { type: "image/jpeg" });
            const entries = [
                { name: "1.jpg", isFile: true, file: (_, failed) => failed(new DOMException("denied", "NotReadableError")) },
                { name: "2.jpg", isFile: true, file: (found) => found(second) },
            ];
            const createReader = () => ({ readEntries: (found) => found(entries.splice(0)) });
            DataTransferItem.prototype.webkitGetAsEntry = () => ({ name: "holiday", isDirectory: true, createReader });
        }""",
        list(photograph(0)),
    )
    drop(page, tmp_path)
    expect(page.locator("#notice")).to_have_text("1 picture added, 1 other file left out.")
    expect(tiles(page)).to_have_count(1)


def test_a_folder_without_pictures_says_so(page: Page, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    drop(page, tmp_path / "texts")
    expect(page.locator("#notice")).to_have_text("The folder is empty.")
    (tmp_path / "texts" / "notes.txt").write_text("nothing to see")
    drop(page, tmp_path / "texts")
    expect(page.locator("#notice")).to_have_text("No picture among 1 file.")
    expect(tiles(page)).to_have_count(0)


def test_all_are_made_with_few_of_them_at_the_server_and_one_that_fails_stops_no_other(
    page: Page, resolver: FakeResolver
) -> None:
    resolver.gate.clear()
    sent: list[str] = []
    refusal = {"success": False, "error": "Not this one.", "code": "invalid_image"}

    def send(route: Route) -> None:
        if route.request.method != "PUT":
            return route.fallback()
        sent.append(route.request.url)
        return route.fulfill(status=400, json=refusal) if len(sent) == 2 else route.fallback()

    page.route("**/jobs/*", send)
    pick_several(page, 7)
    expect(page.locator("#all p")).to_have_text(re.compile("^7 pictures, about "))
    button(page, "Upscale all").click()
    expect(page.locator("#strip [data-state=active]")).to_have_count(6)
    expect(page.locator("#strip [data-state=failed]")).to_have_count(1)
    expect(page.locator("#all p")).to_have_text(re.compile("^0 of 7 done, 1 failed"))
    until(page, lambda: len(sent) >= 4)
    page.wait_for_timeout(3000)
    assert len(sent) == 4, "one that failed, one that runs, and two that wait"
    resolver.gate.set()
    expect(page.locator("#all p")).to_have_text("6 of 7 done, 1 failed")
    assert len(sent) == 7
    expect(page.locator("#announcer")).to_have_text("6 of 7 pictures are done")


def test_a_full_queue_is_asked_again_with_one_picture_and_not_with_all(browser: Browser, settings: Settings) -> None:
    resolver = FakeResolver()
    with served(with_settings(settings, queue_limit=0), lambda _: fake_models(resolver)) as url, visit(browser, url) as page:
        resolver.gate.clear()
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
        pick_several(page, 5)
        button(page, "Upscale all").click()
        until(page, lambda: len(set(sent)) == 2)
        page.wait_for_timeout(5000)
        assert len(set(sent)) == 2
        assert len(sent) <= 4
        resolver.gate.set()
        expect(page.locator("#all p")).to_have_text("5 of 5 done", timeout=60_000)


def test_the_settings_of_one_become_those_of_all(page: Page) -> None:
    pick_several(page, 3)
    expect(button(page, "Settings for all")).to_be_hidden()
    page.locator("#size-2k").click()
    page.locator("label", has_text="WebP").click()
    button(page, "Settings for all").click()
    expect(button(page, "Settings for all")).to_be_hidden()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    button(page, "Upscale all").click()
    expect(page.locator("#all p")).to_have_text("3 of 3 done")
    assert len(sent) == 3
    assert all("output_format=webp" in url and "target_resolution=2k" in url for url in sent)


def test_all_can_be_cancelled_and_what_was_not_sent_is_as_it_was(page: Page, resolver: FakeResolver) -> None:
    resolver.gate.clear()
    pick_several(page, 6)
    button(page, "Upscale all").click()
    expect(tiles(page).nth(2)).to_have_attribute("title", "IMG_2.jpg: waits")
    expect(page.locator("#all p")).to_have_text(re.compile(r"^0 of 6 done, about .* left$"))
    with page.expect_response("**/cancel"):
        button(page, "Cancel all").click()
    resolver.gate.set()
    expect(page.locator("#strip [data-state=active]")).to_have_count(0)
    assert page.locator("#strip [data-state=cancelled]").count() in (1, 2, 3)
    assert page.locator("#strip [data-state=draft]").count() >= 3
    assert page.evaluate("document.activeElement.closest('#all') !== null"), "the focus stays near"


def test_all_results_come_in_one_zip_with_names_of_their_own(page: Page, site: str, tmp_path: Path) -> None:
    page.add_init_script("delete window.showSaveFilePicker")
    page.reload()
    names = ["Grüße aus Köln 😀.jpg", "IMG_1.jpg", "img_1.JPG", "..jpg", "Bad St. Leonhard", f"Zu{'ü' * 200}lang.jpg"]
    pick(page, *[file(photograph(number), name) for number, name in enumerate(names)])
    button(page, "Upscale all").click()
    expect(page.locator("#all p")).to_have_text("6 of 6 done")
    with page.expect_download() as download:
        button(page, "Download all").click()
    assert download.value.suggested_filename == "upscaled.zip"
    path = download.value.path()
    if unzip := shutil.which("unzip"):  # a reader that is not Python's
        subprocess.run([unzip, "-tq", str(path)], check=True, capture_output=True)  # noqa: S603
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        size = r"-\d+x\d+"
        for name, pattern in zip(
            archive.namelist(),
            [
                f"Grüße aus Köln 😀{size}.jpg",
                f"IMG_1{size}.jpg",
                rf"img_1{size} \(2\).jpg",
                f".*{size}.jpg",
                f"Bad St. Leonhard{size}.jpg",
                f"Zuü+lang{size}.jpg",
            ],
            strict=True,
        ):
            assert re.fullmatch(pattern, name)
            assert len(name.encode()) <= 255, "a disk would not take it"
        results = []
        for tile in tiles(page).all():
            tile.click()
            results.append(page.evaluate("document.getElementById('download').href"))
        assert [archive.read(name) for name in archive.namelist()] == [httpx.get(url).content for url in results]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {oct(info.external_attr >> 16) for info in archive.infolist()} == {"0o100644"}


def test_the_zip_goes_straight_onto_the_disk_where_the_browser_lets_it(page: Page) -> None:
    page.evaluate("""() => {
        window.written = new Promise((resolve) => { window.finish = resolve; });
        window.showSaveFilePicker = async ({ suggestedName }) => {
            const folder = await navigator.storage.getDirectory();
            const file = await folder.getFileHandle(suggestedName, { create: true });
            const stream = await file.createWritable();
            const close = async () => (await stream.close(), window.finish(await file.getFile()));
            return { createWritable: async () => ({ write: (part) => stream.write(part), close }) };
        };
    }""")
    make_all(page, 3)
    button(page, "Download all").click()
    data_url: str = page.evaluate("""async () => {
        const reader = new FileReader();
        reader.readAsDataURL(await window.written);
        return new Promise((resolve) => { reader.onload = () => resolve(reader.result); });
    }""")
    with zipfile.ZipFile(io.BytesIO(b64decode(data_url.partition(",")[2]))) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 3


def test_a_result_that_is_gone_is_left_out_of_the_zip_and_said(page: Page) -> None:
    page.evaluate("delete window.showSaveFilePicker")
    make_all(page, 3)
    gone = page.evaluate("document.getElementById('download').href")
    page.route(gone, lambda route: route.fulfill(status=404, json={}))
    with page.expect_download() as download:
        button(page, "Download all").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 2
    expect(page.locator("#all p")).to_have_text("2 of 3 done, 1 failed")
    expect(page.locator("#problem")).to_have_text("The server no longer has this result.")


@pytest.mark.parametrize("problem", ["unreachable", "too large"])
def test_without_a_zip_it_says_why(page: Page, problem: str) -> None:
    make_all(page, 2)
    if problem == "unreachable":
        page.route("**/files/*", lambda route: route.abort())
        words = "There is no zip file. The server cannot be reached."
    else:
        page.route("**/files/*", lambda route: route.fulfill(headers={"Content-Length": str(2**31)}))
        words = "There is no zip file. It would have 4.3 GB, and one takes up to 4 GB: remove some of the pictures."
    button(page, "Download all").click()
    expect(page.locator("#notice")).to_have_text(words)
    expect(button(page, "Download all")).to_be_enabled()


def test_those_that_are_done_can_be_removed_together(page: Page) -> None:
    make_all(page, 2)
    button(page, "Remove done").click()
    expect(tiles(page)).to_have_count(0)
    page.reload()
    expect(page.get_by_text("Make photographs larger")).to_be_visible()


@pytest.mark.parametrize("width", [360, 390, 640, 1024, 1440])
def test_all_buttons_are_in_sight_when_some_are_done_and_others_not_started(browser: Browser, site: str, width: int) -> None:
    with visit(browser, site, viewport={"width": width, "height": 360 if width == 640 else 800}) as page:
        make_all(page, 2)
        pick(page, *[file(photograph(number), f"IMG_{number}.jpg") for number in (2, 3)])
        expect(button(page, "Upscale")).to_be_enabled()
        page.locator("label", has_text="WebP").click()
        for name in ("Settings for all", "Remove done", "Download all", "Upscale all"):
            box = box_of(button(page, name))
            assert box["x"] >= 0
            assert (
                box["x"] + box["width"]
                <= page.locator("#strip").evaluate("(strip) => strip.getBoundingClientRect().right") + 1
            )
        assert box_of(page.locator("#all p"))["height"] < 50, "in words beside each other"


def test_on_a_telephone_the_sizes_stay_in_sight_below_the_bar(browser: Browser, site: str) -> None:
    with visit(browser, site, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:
        pick_several(page, 3)
        page.locator("#size-2x").click()
        expect(button(page, "Settings for all")).to_be_visible()
        page.evaluate("scrollTo(0, 0)")
        rows, actions = page.locator("#sizes .size"), box_of(page.locator("#draft .actions"))
        for row in rows.all():
            box = box_of(row)
            assert box["y"] + box["height"] <= actions["y"]
        assert page.evaluate("document.documentElement.scrollWidth <= 390")
        pick(page, file(name="notes.txt", media_type="text/plain"), file(name="more.txt", media_type="text/plain"))
        notice, go = box_of(page.locator("#notice")), box_of(button(page, "Upscale"))
        middle = [go["x"] + go["width"] / 2, go["y"] + go["height"] / 2]
        assert notice["y"] < middle[1] < notice["y"] + notice["height"]
        assert page.evaluate("([x, y]) => document.elementFromPoint(x, y).id", middle) == "go"
