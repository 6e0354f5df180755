"""The service under a path of a host that others share, behind a real nginx."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from bench.server import free_port
from core.config import Settings
from tests.deploy.balancer import DEPLOY, needs_nginx, nginx
from tests.helpers import HANG_SECONDS, encode, fake_models, ready, sample_crop, serving, until, with_settings

pytestmark = needs_nginx
PATH = "/upscale"
PNG = encode(sample_crop(40, 30))
RAW = {"Content-Type": "image/png"}
STRIPPED = (DEPLOY / "under_path.conf").read_text()
FORWARDED = f"proxy_set_header X-Forwarded-Prefix {PATH};"


def as_it_is(text: str) -> str:
    """A proxy that leaves the path in the request, and says nothing."""
    return text.replace("http://127.0.0.1:10005/;", "http://127.0.0.1:10005;").replace(FORWARDED, "")


@asynccontextmanager
async def proxied(folder: Path, location: str, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """Of an nginx that has this block, in front of the service at that port."""
    assert "127.0.0.1:10005" in location
    own, block = free_port(), location.replace("127.0.0.1:10005", f"127.0.0.1:{port}")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi"))
    server = f"server {{ listen 127.0.0.1:{own}; access_log off; {block} }}"
    path = folder / "nginx.conf"
    path.write_text(f"pid {folder}/nginx.pid; user root; daemon off; events {{}} http {{ {temporary} {server} }}")
    process = await asyncio.create_subprocess_exec(*nginx(folder, "-c", str(path)))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{own}", timeout=HANG_SECONDS) as client:
            await until(lambda: (folder / "nginx.pid").exists() or process.returncode is not None)
            yield client
    finally:
        process.terminate()
        await process.wait()


def test_nginx_takes_the_block(tmp_path: Path) -> None:
    path = tmp_path / "nginx.conf"
    path.write_text(f"pid {tmp_path}/nginx.pid; events {{}} http {{ server {{ {STRIPPED} }} }}")
    subprocess.run(nginx(tmp_path, "-t", "-c", str(path)), check=True, capture_output=True)  # noqa: S603


@pytest.mark.parametrize(
    ("location", "root_path"),
    [
        (STRIPPED, ""),
        (STRIPPED.replace(FORWARDED, ""), PATH),
        (STRIPPED.replace(FORWARDED, "proxy_set_header X-Forwarded-Prefix /other;"), PATH + "/"),
        (as_it_is(STRIPPED), PATH),
    ],
    ids=["stripped and told", "stripped and set", "the setting wins", "as it is"],
)
async def test_all_that_a_client_and_a_browser_need_works_under_a_path(
    tmp_path: Path, settings: Settings, location: str, root_path: str
) -> None:
    settings = with_settings(settings, root_path=Settings(root_path=root_path).root_path)
    async with serving(settings, lambda _: fake_models()) as (direct, _), proxied(tmp_path, location, settings.port) as client:
        await ready(direct)
        assert (await client.get("/health")).status_code == 404
        assert (await client.get(f"{PATH}/health")).json()["status"] == "healthy"

        asynchronous = {**RAW, "Prefer": "respond-async"}
        started = await client.post(f"{PATH}/upscale?target_resolution=2k", content=PNG, headers=asynchronous)
        job = started.json()
        assert started.headers["location"] == job["urls"]["get"] == f"{PATH}/jobs/{job['id']}"
        events = await client.get(job["urls"]["events"])
        assert f'"urls":{{"get":"{PATH}/jobs/' in events.text
        assert f'"url":"{PATH}/files/' in events.text.splitlines()[-2]
        done = (await client.get(started.headers["location"])).json()
        assert (await client.post(done["urls"]["cancel"])).json() == done
        result = await client.get(done["result"]["url"])
        assert (result.status_code, result.headers["content-type"]) == (200, "image/jpeg")
        put = await client.put(f"{PATH}/jobs/my-own-id?target_resolution=2k", files={"image": PNG})
        assert put.json()["urls"]["get"] == f"{PATH}/jobs/my-own-id"

        assert (await client.get(f"{PATH}/openapi.json")).json()["servers"] == [{"url": PATH}]
        for page in (f"{PATH}/docs", f"{PATH}/"):
            await assert_loads_all_its_parts(client, page)
        without_slash = await client.get(PATH)
        assert without_slash.status_code in (301, 308)
        assert str(without_slash.next_request and without_slash.next_request.url).endswith(f"{PATH}/")


async def assert_loads_all_its_parts(client: httpx.AsyncClient, page: str) -> None:
    """All files that the page names are there, seen from where it is."""
    response = await client.get(page)
    parts = re.findall(r'(?:src|href)="([^"#:]+)"', response.text)
    assert response.status_code == 200
    assert len(parts) > 3
    for part in parts:
        found = await client.get(urljoin(page, part))
        assert found.status_code == 200, f"{part} of {page}"
