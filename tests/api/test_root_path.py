"""ROOT_PATH and X-Forwarded-Prefix: what URLs in responses begin with."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from app import create_app
from core.config import ConfigError, Settings
from tests.helpers import assert_error, encode, fake_models, ready, sample_crop, serving, with_settings

PNG = encode(sample_crop(40, 30))
RAW = {"Content-Type": "image/png"}


async def started(client: httpx.AsyncClient, job_id: str, **headers: str) -> dict[str, str]:
    sent = await client.put(f"/jobs/{job_id}?target_resolution=2k", content=PNG, headers={**RAW, **headers})
    assert sent.status_code == 200
    urls: dict[str, str] = sent.json()["urls"]
    assert sent.json()["result"]["url"].startswith(urls["get"].removesuffix(f"/jobs/{job_id}") + "/files/")
    return urls


async def test_a_forwarded_prefix_counts_if_it_is_a_plain_path(client: httpx.AsyncClient) -> None:
    async def prefix(given: str) -> str:
        response = await client.get("/openapi.json", headers={b"X-Forwarded-Prefix": given.encode()})
        assert response.headers["cache-control"] == "no-store"
        (server,) = response.json()["servers"]
        return str(server["url"])

    for path in ("/up", "/a/b.c_d-e~f/2", "/" + "a" * 199):
        assert await prefix(path) == path
    assert await prefix("/up/") == "/up"
    for elsewhere in ("//evil.example", "http://evil.example", "/\\evil.example", "/up//x", "/..", "/up/../x", "/."):
        assert await prefix(elsewhere) == "/", elsewhere
    for other in ("", "/", "up", "/up, /up", "/a b", "/a%2f", '/"x', "/<x>", "/ä", "/a?b", "/a#b", "/" + "a" * 200):
        assert await prefix(other) == "/", other


async def test_nobody_else_gets_what_one_client_says(client: httpx.AsyncClient, settings: Settings) -> None:
    assert (await started(client, "my-own-id", **{"X-Forwarded-Prefix": "/evil"}))["get"] == "/evil/jobs/my-own-id"
    assert await started(client, "my-own-id") == {
        "get": "/jobs/my-own-id",
        "events": "/jobs/my-own-id/events",
        "cancel": "/jobs/my-own-id/cancel",
    }
    assert (await client.get("/openapi.json")).json()["servers"] == [{"url": "/"}]
    kept = [path.read_bytes() for path in settings.output_dir.rglob("*") if path.is_file()]
    assert kept
    assert not any(b"evil" in each for each in kept)


async def test_the_path_of_the_settings_counts_before_any_header(settings: Settings) -> None:
    async with serving(with_settings(settings, root_path="/up"), lambda _: fake_models()) as (client, _):
        await ready(client)
        async with httpx.AsyncClient(base_url=client.base_url) as other:  # which holds nothing against the document
            assert (await other.get("/up/health")).json()["status"] == "healthy"
            assert (await other.get("/up")).headers["location"] == "/up/"
        urls = await started(client, "my-own-id", **{"X-Forwarded-Prefix": "/other"})
        assert urls["get"] == "/up/jobs/my-own-id"
        for path in ("/upscaled", "/up/up/health", "/other/health"):
            assert_error(await client.get(path), 404, "not_found")


@pytest.mark.parametrize("path", ["/jobs", "/docs", "/plan"])
def test_a_path_of_the_services_own_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="ROOT_PATH must not be a path of the service's own"):
        create_app(Settings(output_dir=tmp_path, root_path=path))
