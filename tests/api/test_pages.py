"""The page's files over a real socket; what the page does is seen in a browser, in tests/page."""

from __future__ import annotations

import re

import httpx
import pytest

from api.pages import WEB
from tests.helpers import assert_error


async def test_the_front_door_is_the_page_and_lets_nothing_in_from_elsewhere(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<title>Upscale</title>" in response.text
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert not re.search(r"unsafe|https?:|\*", policy)


async def test_everything_the_page_names_is_there(client: httpx.AsyncClient) -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in WEB.iterdir() if path.is_file()}
    named = {name for text in sources.values() for name in re.findall(r'(?:"\./|"web/)([\w.]+)"', text)}
    assert named == set(sources) - {"index.html"}
    for name in named:
        assert (await client.get(f"/web/{name}")).status_code == 200


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")],
)
async def test_a_file_is_kept_by_browsers_and_asked_after(client: httpx.AsyncClient, name: str, media_type: str) -> None:
    response = await client.get(f"/web/{name}")
    assert (response.content, response.headers["content-type"].removesuffix("; charset=utf-8")) == (
        (WEB / name).read_bytes(),
        media_type,
    )
    assert response.headers["cache-control"] == "no-cache"
    again = await client.get(f"/web/{name}", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["app.py", "..%2Fapp.py", "%2e%2e%2fconfig.py", "page.jss", "%00", "."])
async def test_no_other_file_is_given_out(client: httpx.AsyncClient, name: str) -> None:
    assert_error(await client.get(f"/web/{name}"), 404, "not_found")
