"""Jobs of several instances with one folder: shown, followed, cancelled and taken up by each other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

from bench.server import free_port
from core.config import Settings
from storage.job_store import JobStore
from tests.helpers import HANG_SECONDS, FakeResolver, assert_error, ready, serving, until, with_settings
from tests.lost_device import accelerator_error, losable_models
from tests.outbound.receiver import receiver
from tests.serving.gated_service import ASYNC, gated_service, request_fields, unfinished
from tests.serving.orphans import an_orphan, another, hurry
from workers.speed import Speed


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances look for each other's news more often."""
    hurry(monkeypatch)


class Gate(threading.Event):
    """Open for so many passes, and from when it is set."""

    passes = 2

    def wait(self, timeout: float | None = None) -> bool:
        self.passes -= 1
        return self.passes >= 0 or super().wait(timeout)


# of an instance that lives


async def test_another_instance_shows_how_far_a_job_is_and_follows_it(settings: Settings) -> None:
    async with gated_service(settings) as h, gated_service(another(settings)) as other:
        h.resolver.gate = gate = Gate()
        job, waiting = await h.submit(10), await h.submit(20)
        events: list[dict[str, Any]] = []
        following = asyncio.create_task(_collect(other.follow(job["id"]), events))
        await until(lambda: gate.passes < 0)  # it stands before the third pass
        own = await h.job(job["id"])
        assert 0 < own["progress"] < 1
        await until(lambda: bool(events) and events[-1]["progress"] == own["progress"])
        assert (events[-1]["status"], events[-1]["started_at"]) == ("processing", own["started_at"])
        assert (await other.job(job["id"]))["progress"] == own["progress"]
        async with asyncio.timeout(HANG_SECONDS):
            while (await other.job(waiting["id"]))["position"] != 1:
                pass
        gate.set()
        await following
        assert events[-1] == await h.job_is(job["id"], "succeeded") == await other.job(job["id"])
        await h.job_is(waiting["id"], "succeeded")
    assert unfinished(settings) == []


async def _collect(events: AsyncIterator[dict[str, Any]], into: list[dict[str, Any]]) -> None:
    async for event in events:
        into.append(event)


async def test_a_put_at_another_instance_is_the_same_job(settings: Settings) -> None:
    async with gated_service(settings) as h, gated_service(another(settings)) as other:
        first = await h.client.put("/jobs/my-own-id_1", json=request_fields(), headers=ASYNC)
        again = await other.client.put("/jobs/my-own-id_1", json=request_fields(), headers=ASYNC)
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["created_at"] == again.json()["created_at"]
        conflict = await other.client.put("/jobs/my-own-id_1", json=request_fields(20), headers=ASYNC)
        assert_error(conflict, 409, "job_conflict")
        waiting = asyncio.create_task(other.client.put("/jobs/my-own-id_1", json=request_fields()))
        h.resolver.gate.set()
        assert (await waiting).json() == await h.job_is("my-own-id_1", "succeeded")
        assert other.resolver.seen == []


async def test_a_job_is_cancelled_from_another_instance(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=1)) as h, gated_service(another(settings)) as other:
        running, waiting = await h.submit(10), await h.submit(20)
        await h.job_is(running["id"], "processing")
        for job in (waiting, running):
            canceled = (await other.client.post(job["urls"]["cancel"])).json()
            assert (canceled["status"], canceled["error"]) == ("canceled", None)
            assert canceled == await h.job(job["id"]) == await other.job(job["id"])
            assert (await other.client.post(job["urls"]["cancel"])).json() == canceled
        h.resolver.gate.set()
        await h.queue_is(running=0, waiting=0)
    assert unfinished(settings) == []


async def test_where_no_mark_can_be_left_another_instances_job_is_not_cancelled(settings: Settings) -> None:
    async with gated_service(settings) as h, gated_service(another(settings)) as other:
        settings.output_dir.joinpath("unfinished").write_bytes(b"a file where the folder should be")
        job = await h.submit()
        assert_error(await other.client.post(job["urls"]["cancel"]), 409, "job_conflict")
        h.resolver.gate.set()
        assert await h.job_is(job["id"], "succeeded") == await other.job(job["id"])


async def test_of_two_instances_one_takes_an_id_and_the_other_says_so(settings: Settings) -> None:
    async with gated_service(settings) as h, gated_service(with_settings(settings, port=free_port())) as other:
        for number in range(40):
            url, fields = f"/jobs/raced-for-{number}", [request_fields(10), request_fields(20 if number % 4 else 10)]
            first, second = await asyncio.gather(
                h.client.put(url, json=fields[0], headers=ASYNC), other.client.put(url, json=fields[1], headers=ASYNC)
            )
            if number % 4 == 0:
                assert [first.status_code, second.status_code] == [202, 202], "the same request is the same job"
                assert first.json()["created_at"] == second.json()["created_at"]
            else:
                assert sorted([first.status_code, second.status_code]) == [202, 409]
                loser = first if first.status_code == 409 else second
                assert_error(loser, 409, "job_conflict")
            winner, canceled = await asyncio.gather(*(one.client.post(f"{url}/cancel") for one in (h, other)))
            assert "canceled" in [winner.json().get("status"), canceled.json().get("status")]
        for one in (h, other):
            one.resolver.gate.set()
            await one.queue_is(running=0, waiting=0)


async def test_those_who_wait_for_another_instances_job_do_not_hold_up_the_end(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job = await h.submit()
        async with gated_service(with_settings(settings, port=free_port())) as other:
            following = asyncio.create_task(_all_of(other.follow(job["id"])))
            waiting = asyncio.create_task(other.client.put(f"/jobs/{job['id']}", json=request_fields()))
            await until(lambda: other.service._open_requests == 2)
            other.service.stop()
            assert [event["status"] for event in await asyncio.wait_for(following, HANG_SECONDS)][-1] in (
                "starting",
                "processing",
            )
            assert_error(await asyncio.wait_for(waiting, HANG_SECONDS), 503, "shutting_down")
        h.resolver.gate.set()


async def _all_of(events: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event async for event in events]


# of one that died


async def test_of_three_instances_one_takes_up_each_job_of_one_that_died(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        instances = [await stack.enter_async_context(gated_service(another(settings))) for _ in range(3)]
        for one in instances:
            one.resolver.gate.set()
        orphans = [await an_orphan(settings, gray) for gray in range(10, 22)]
        for number, job_id in enumerate(orphans):
            await instances[number % 3].job_is(job_id, "succeeded")
        runs = [gray for one in instances for gray, height in one.resolver.seen if height == 20]
        assert sorted(runs) == list(range(10, 22)), "each ran once"
    assert unfinished(settings) == []


async def test_a_job_whose_second_instance_died_is_interrupted_and_its_webhook_says_so(settings: Settings) -> None:
    async with receiver() as hook, gated_service(another(settings, webhook_allow_private=True)) as h:
        job_id = await an_orphan(settings, deaths=1, request={"webhook": hook.url})
        failed = await h.job_is(job_id, "failed")
        assert (failed["error"]["code"], failed["error"]["status_code"]) == ("interrupted", 503)
        assert orjson.loads(await asyncio.wait_for(hook.got.get(), HANG_SECONDS)) == failed
        assert h.resolver.seen == []
    assert unfinished(settings) == []
    assert len(hook.bodies) == 1


async def test_a_job_that_is_taken_up_calls_its_webhook(settings: Settings) -> None:
    async with receiver() as hook, gated_service(another(settings, webhook_allow_private=True)) as h:
        h.resolver.gate.set()
        job_id = await an_orphan(settings, request={"webhook": hook.url})
        assert orjson.loads(await asyncio.wait_for(hook.got.get(), HANG_SECONDS))["status"] == "succeeded"
        await h.job_is(job_id, "succeeded")


async def test_a_job_without_its_request_is_interrupted(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job_id = await an_orphan(settings, is_saved=False)
        failed = await h.job(job_id)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "interrupted")


async def test_a_job_whose_request_is_damaged_is_interrupted(settings: Settings) -> None:
    async with gated_service(another(settings, queue_limit=0)) as h:
        job = await h.submit()
        await h.job_is(job["id"], "processing")  # so that there is no place
        job_id = await an_orphan(settings, 20)
        for request in settings.output_dir.glob("unfinished/*.request"):
            await asyncio.to_thread(request.write_bytes, b"{}")
        h.resolver.gate.set()
        failed = await h.job_is(job_id, "failed")
        assert failed["error"]["code"] == "interrupted"


async def test_a_job_that_nobody_is_at_has_its_deadline_and_can_be_cancelled(settings: Settings) -> None:
    async with gated_service(another(settings, queue_limit=0)) as h:
        await h.job_is((await h.submit())["id"], "processing")  # so that there is no place for another
        late = await an_orphan(settings, 20, expires_at=time.time() + 1)
        unwanted = await an_orphan(settings, 30)
        assert (await h.job(unwanted))["status"] == "starting"
        assert (await h.client.post(f"/jobs/{unwanted}/cancel")).json()["status"] == "canceled"
        assert (await h.job_is(late, "failed"))["error"]["code"] == "deadline_exceeded"
        h.resolver.gate.set()
    assert [gray for gray, _ in h.resolver.seen] == [10, 10, 10]


async def test_a_job_waits_for_a_place_and_is_taken_when_there_is_one(settings: Settings) -> None:
    async with gated_service(another(settings, queue_limit=1)) as h:
        jobs = [(await h.submit(gray))["id"] for gray in (10, 20)]
        orphans = [await an_orphan(settings, gray) for gray in (30, 40)]
        await asyncio.sleep(0.5)  # some looks at them
        assert [(await h.job(job_id))["status"] for job_id in orphans] == ["starting"] * 2
        assert await h.queue() == (1, 1)
        h.resolver.gate.set()
        for job_id in (*jobs, *orphans):
            await h.job_is(job_id, "succeeded")


async def test_a_job_that_the_queue_refuses_is_left_and_tried_again_later(settings: Settings) -> None:
    async with gated_service(another(settings)) as h:
        first = await h.submit()
        await h.job_is(first["id"], "processing")
        h.service._admission.speeds["cpu"] = Speed(seconds_per_flop=0.0005)  # the first takes 55 s, and so does the next
        job_id = await an_orphan(settings, 20)
        record = (await asyncio.to_thread(JobStore(settings.output_dir).orphans))[0]
        async with asyncio.timeout(HANG_SECONDS):
            while not record.is_left:
                record = (await asyncio.to_thread(JobStore(settings.output_dir).orphans) or [record])[0]
        assert record.deaths == 1, "being refused is no death"
        assert (await h.job(job_id))["status"] == "starting"
        h.service._admission.speeds.clear()
        h.resolver.gate.set()
        await h.job_is(job_id, "succeeded")


async def test_what_cannot_be_done_any_more_fails_as_a_request_would(settings: Settings) -> None:
    async with gated_service(another(settings, input_formats="JPEG")) as h:
        job_id = await an_orphan(settings)
        failed = await h.job_is(job_id, "failed")
        assert failed["error"]["code"] == "unsupported_format"


async def test_an_instance_that_drains_takes_nothing(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job = await h.submit()
        await h.job_is(job["id"], "processing")
        h.service.stop()
        await an_orphan(settings, 20)
        events = h.follow(job["id"])
        await anext(events)
        await asyncio.sleep(0.5)  # it would have looked
        h.resolver.gate.set()
        assert [event async for event in events][-1]["status"] == "succeeded"
    assert unfinished(settings) == [".request"]
    (orphan,) = await asyncio.to_thread(JobStore(settings.output_dir).orphans)
    assert (orphan.deaths, orphan.is_left) == (0, False), "nobody has touched it"


async def test_a_request_that_is_kept_is_for_the_service_alone(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job = await h.submit()
        (kept,) = settings.output_dir.glob("unfinished/*.request")
        assert kept.stat().st_mode & 0o777 == 0o600
        for path in (f"unfinished/{kept.name}", kept.name, f"unfinished%2F{kept.name}", f"../unfinished/{kept.name}"):
            assert (await h.client.get(f"/files/{path}")).status_code == 404
        h.resolver.gate.set()
        await h.job_is(job["id"], "succeeded")
        assert unfinished(settings) in ([], [".states"])


async def test_a_full_disk_costs_the_taking_up_and_not_the_job(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with gated_service(settings) as h:
        await asyncio.to_thread(settings.output_dir.joinpath("unfinished").write_bytes, b"a file where the folder should be")
        h.resolver.gate.set()
        await h.job_is((await h.submit())["id"], "succeeded")
    assert "a job's request could not be saved" in caplog.text


async def test_a_job_at_which_a_second_device_is_lost_fails_with_that(settings: Settings) -> None:
    resolver = FakeResolver()
    async with serving(settings, lambda _: losable_models(resolver)) as (client, service):
        await ready(client)
        resolver.error = accelerator_error()
        job_id = await an_orphan(settings)
        await until(lambda: service.device_loss is not None)  # from now on, it closes connections
    record = await asyncio.to_thread(JobStore(settings.output_dir).load, job_id)
    assert record
    assert record.error
    assert (record.status, record.error.code) == ("failed", "device_lost")
