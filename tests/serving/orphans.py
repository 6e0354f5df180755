"""Jobs whose instance has died, and instances that share their folder."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from bench.server import free_port
from core.config import Settings
from schemas.plan import Size, plan_upscale
from schemas.request import IncomingRequest
from schemas.response import PlanSummary
from storage.job_store import JobRecord, JobStore
from tests.helpers import with_settings
from tests.serving.gated_service import request_fields


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let instances look for each other's news more often."""
    for name in ("jobs.FOREIGN_SECONDS", "jobs.EXCHANGE_SECONDS", "recovery.RECOVERY_SECONDS", "recovery.REFUSED_SECONDS"):
        monkeypatch.setattr(f"serving.jobs.{name}", 0.1)


def another(settings: Settings, **changes: Any) -> Settings:
    """Those of an instance with the same folder."""
    return with_settings(settings, port=free_port(), **changes)


async def an_orphan(settings: Settings, gray: int = 10, job_id: str = "", is_saved: bool = True, **fields: Any) -> str:
    """A job whose instance has died: a record that nobody holds, and a request."""
    job_id = job_id or f"job-of-the-dead-{gray}"
    body = orjson.dumps(request_fields(gray, **fields.pop("request", {})))
    now = time.time()
    record = JobRecord(
        id=job_id,
        request_id="request-of-the-dead",
        fingerprint="fingerprint",
        plan=PlanSummary.of(plan_upscale(Size(20, 20), "2k")),
        created_at=now,
        **{"timeout_seconds": 60.0, "expires_at": now + 60, **fields},
    )
    await asyncio.to_thread(_write_orphan, settings, record, IncomingRequest(body) if is_saved else None)
    return job_id


def _write_orphan(settings: Settings, record: JobRecord, incoming: IncomingRequest | None) -> None:
    store = JobStore(settings.output_dir)
    assert store.create(record)
    if incoming:
        store.unfinished.save_request(record.id, incoming)
    store.close()
