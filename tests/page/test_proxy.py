"""The page behind a path of a real nginx, whether or not the service hears of it."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from bench.server import free_port
from core.config import Settings
from tests.deploy.balancer import needs_nginx, nginx
from tests.helpers import FakeResolver, fake_models, wait_until
from tests.page.actions import SECOND, button, file, pick
from tests.page.conftest import served, visit

pytestmark = needs_nginx

CONFIGURATION = """
pid {folder}/nginx.pid; user root; daemon off;
events {{}}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi; uwsgi_temp_path {folder}/uwsgi; access_log off; client_max_body_size 16m;
    server {{
        listen 127.0.0.1:{port};
        location /up/ {{ proxy_pass http://127.0.0.1:{service}/; proxy_set_header Host $http_host; {header} }}
    }}
}}
"""


@contextmanager
def proxied(folder: Path, service: int, header: str) -> Iterator[str]:
    """The service's URL at an nginx that gives it the path /up/."""
    port = free_port()
    path = folder / "nginx.conf"
    path.write_text(CONFIGURATION.format(folder=folder, port=port, service=service, header=header))
    process = subprocess.Popen(nginx(folder, "-c", str(path)))  # noqa: S603
    try:
        wait_until(lambda: (folder / "nginx.pid").exists() or process.poll() is not None)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield f"http://127.0.0.1:{port}/up/"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("header", ["", "proxy_set_header X-Forwarded-Prefix /up;"], ids=["unknown", "known"])
def test_the_page_works_behind_a_path(browser: Browser, settings: Settings, tmp_path: Path, header: str) -> None:
    resolver = FakeResolver()
    asked: list[str] = []
    with (
        served(settings, lambda _: fake_models(resolver)),
        proxied(tmp_path, settings.port, header) as url,
        visit(browser, url) as page,
    ):
        page.on("request", lambda request: asked.append(request.url) if request.url.startswith("http") else None)
        page.evaluate("delete window.showSaveFilePicker")
        pick(page, file(), file(SECOND, "second.jpg"))
        resolver.gate.clear()
        button(page, "Upscale all").click()
        expect(page.locator("#doing")).to_have_text("Making it larger")
        resolver.gate.set()
        expect(page.locator("#all p")).to_have_text("2 of 2 done")
        expect(page.get_by_role("slider", name="How much")).to_be_visible()
        with page.expect_download() as download:
            button(page, "Download all").click()
        with zipfile.ZipFile(download.value.path()) as archive:
            assert archive.testzip() is None
        page.reload()
        expect(page.get_by_role("link", name="Download")).to_be_visible()
        assert page.get_by_role("link", name="API").evaluate("link => link.href") == f"{url}docs"
    assert all(each.startswith(url) for each in asked)
    assert any(each.endswith("/events") for each in asked)
