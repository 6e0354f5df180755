"""GET /metrics over a real socket, and the dashboard that asks for what is on it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from bench.server import ROOT
from core.config import VERSION, Settings
from core.metrics import Metrics, MetricsSnapshot, WorkerGauges
from tests.helpers import FakeResolver, b64, encode, fake_models, ready, sample_crop, serving, until, with_settings

BODY = {"image_b64": b64(encode(sample_crop(60, 40))), "target_resolution": "2k", "output_format": "png"}
DASHBOARD = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
CARD = WorkerGauges("cuda:0", is_up=True, is_running=False, tasks_done=3, retries=0, memory_bytes=7)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx.AsyncClient) -> Samples:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


async def test_an_upscale_is_counted_by_stage_pixels_and_outcome(client: httpx.AsyncClient) -> None:
    for strength in (0.1, 0.2):  # so that it is not the same picture twice
        body = {**BODY, "face_strength": strength}
        assert (await client.post("/upscale", json=body)).status_code == 200
    await client.post("/upscale", json={"image_b64": "?"})
    samples = await scrape(client)
    stages = {
        dict(labels)["stage"]: count for (name, labels), count in samples.items() if name == "upscale_stage_seconds_count"
    }
    assert stages == dict.fromkeys(["queue", "decode", "detect", "pass_1", "pass_2", "pass_3", "encode", "save"], 2)
    assert value(samples, "upscale_pixels_in_total") == 2 * 60 * 40
    assert value(samples, "upscale_pixels_out_total") == 2 * 1920 * 1280
    assert value(samples, "upscale_faces_total") == 0
    assert value(samples, "upscale_cache_hits_total") == 0
    upscales = {"method": "POST", "route": "/upscale"}
    assert value(samples, "upscale_requests_total", **upscales, status="200", code="") == 2
    assert value(samples, "upscale_requests_total", **upscales, status="400", code="invalid_base64") == 1
    assert value(samples, "upscale_request_seconds_count", route="/upscale") == 3
    assert (value(samples, "process_resident_memory_bytes") or 0) > 10e6
    assert value(samples, "upscale_build_info", version=VERSION, device="cpu", precision="fp32") == 1


async def test_a_repeat_is_a_cache_hit_and_no_second_upscale(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert (await client.post("/upscale", json=BODY)).status_code == 200
    samples = await scrape(client)
    assert value(samples, "upscale_cache_hits_total") == 2
    assert value(samples, "upscale_pixels_in_total") == 60 * 40
    assert value(samples, "upscale_stage_seconds_count", stage="decode") == 3


async def test_whatever_clients_send_the_labels_are_few(client: httpx.AsyncClient) -> None:
    for number in range(20):
        await client.request(f"BREW{number}", f"/no-such-place-{number}")
    samples = await scrape(client)
    labels = {"method": "unknown", "route": "unknown", "status": "404", "code": "not_found"}
    assert value(samples, "upscale_requests_total", **labels) == 20
    assert not any("no-such-place" in str(key) or "BREW" in str(key) for key in samples)


async def test_running_and_waiting_are_what_is_so_now(settings: Settings) -> None:
    resolver = FakeResolver()
    async with serving(settings, lambda _: fake_models(resolver)) as (client, service), asyncio.TaskGroup() as clients:
        await ready(client)
        resolver.gate.clear()
        for strength in (0.1, 0.2):
            body = {**BODY, "face_strength": strength}
            clients.create_task(client.post("/upscale", json=body))
        await until(lambda: (service._admission.running, service._admission.waiting) == (1, 1))
        samples = await scrape(client)
        assert value(samples, "upscale_queue_running") == value(samples, "upscale_queue_waiting") == 1
        assert value(samples, "upscale_queue_capacity") == 8
        resolver.gate.set()


def test_what_is_not_there_is_left_out_and_what_is_there_is_given() -> None:
    absent = Metrics(lambda: MetricsSnapshot(0, 0, 8)).page().decode()
    assert "upscale_heartbeat_age_seconds" not in absent
    assert "upscale_device_memory_bytes" not in absent
    present = Metrics(lambda: MetricsSnapshot(0, 0, 8, heartbeat_age_seconds=2.5, workers=(CARD,))).page().decode()
    assert "\nupscale_heartbeat_age_seconds 2.5\n" in present
    assert '\nupscale_device_memory_bytes{device="cuda:0"} 7.0\n' in present


async def test_the_page_needs_a_key_where_one_is_configured(settings: Settings) -> None:
    async with serving(with_settings(settings, api_key="a-key"), lambda _: fake_models()) as (client, _):
        await ready(client)
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer a-key"})).status_code == 200


def queries(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_loads_into_grafanas_own_models_and_loses_nothing() -> None:
    register_default_plugins()  # what a panel and a query of Prometheus are made of
    loaded = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert _kept(DASHBOARD, loaded) == DASHBOARD
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) > 5


def _kept(asked: Any, loaded: Any) -> Any:
    """What is in `loaded` of all that `asked` has: the models add their defaults, and drop what they do not know."""
    if isinstance(asked, dict):
        return {key: _kept(value, loaded[key]) for key, value in asked.items() if key in loaded}
    if isinstance(asked, list):
        return [_kept(*pair) for pair in zip(asked, loaded, strict=True)]
    return loaded


async def test_every_metric_of_the_dashboard_and_of_the_documents_is_on_the_page(client: httpx.AsyncClient) -> None:
    await client.put("/jobs/a-job-of-ours", json=BODY)
    names = {name for name, _ in await scrape(client)}
    gauges = Metrics(lambda: MetricsSnapshot(0, 0, 8, 1.0, workers=(CARD,))).page().decode()
    names |= {family.name for family in text_string_to_metric_families(gauges)}
    for query in queries(DASHBOARD["panels"]):
        asked = set(re.findall(r"\b(?:upscale|process)_\w+", query))
        assert asked
        assert asked <= names, query
    documented = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "operating.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(documented) > 10
    assert all(name in names or f"{name}_count" in names for name in documented)
    own = {name for name in names if name.startswith("upscale_") and not name.endswith(("_bucket", "_sum", "_created"))}
    bases = {name.removesuffix("_count") for name in own} - {"upscale_build", "upscale_requests"}
    assert {name for name in bases if f"{name}_total" not in bases} <= set(documented)
