"""PUT /jobs/{id}: the same job, however often it is asked for."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from core.config import Settings
from tests.helpers import advance_clock, assert_error, until
from tests.serving.gated_service import ASYNC, gated_service, request_fields


async def test_the_same_put_is_the_same_job_in_whatever_state(settings: Settings) -> None:
    async with gated_service(settings) as h:
        first, second = await asyncio.gather(
            *(h.client.put("/jobs/my-own-id_1", json=request_fields(), headers=ASYNC) for _ in range(2))
        )
        assert (first.status_code, second.status_code) == (202, 202)
        assert first.headers["location"] == second.headers["location"] == "/jobs/my-own-id_1"
        assert first.json()["created_at"] == second.json()["created_at"]
        queue = (await h.client.get("/health")).json()["queue"]
        assert queue["running"] + queue["waiting"] == 1
        other_words = dict(reversed([*request_fields(target_resolution="2K", unknown=1).items()]))
        assert (await h.client.put("/jobs/my-own-id_1", json=other_words, headers=ASYNC)).status_code == 202
        conflict = await h.client.put("/jobs/my-own-id_1", json=request_fields(20), headers=ASYNC)
        assert_error(conflict, 409, "job_conflict")
        waiting = asyncio.create_task(h.client.put("/jobs/my-own-id_1", json=request_fields()))
        h.resolver.gate.set()
        response = await waiting
        assert (response.status_code, response.json()["status"]) == (200, "succeeded")
        again = await h.client.put("/jobs/my-own-id_1", json=request_fields(), headers=ASYNC)
        assert (again.status_code, again.json()) == (200, response.json())
        for other in ({"quality": 5}, {"fit": "exact"}, {"webhook": "http://8.8.8.8/"}):
            assert_error(await h.client.put("/jobs/my-own-id_1", json=request_fields(**other)), 409, "job_conflict")
        h.service.stop()
        assert (await h.client.put("/jobs/my-own-id_1", json=request_fields(), headers=ASYNC)).status_code == 200


async def test_a_put_that_waits_too_long_says_so_and_another_requests_job_goes_on(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job = (await h.client.put("/jobs/my-own-id_1", json=request_fields(), headers=ASYNC)).json()
        hurried = {"X-Request-Timeout": "30"}
        waiting = asyncio.create_task(h.client.put("/jobs/my-own-id_1", json=request_fields(), headers=hurried))
        own = asyncio.create_task(h.client.put("/jobs/my-own-id_2", json=request_fields(20), headers=hurried))
        await until(lambda: h.service._open_requests == 4)  # two jobs, and two requests that wait for them
        advance_clock(30)
        assert_error(await waiting, 504, "deadline_exceeded")
        assert_error(await own, 504, "deadline_exceeded")
        failed = await h.job_is("my-own-id_2", "failed")
        assert failed["error"]["code"] == "deadline_exceeded"
        h.resolver.gate.set()
        await h.job_is(job["id"], "succeeded")


async def test_a_number_is_the_same_however_it_is_written_down(settings: Settings) -> None:
    async with gated_service(settings) as h:
        statuses = [
            (await h.client.put("/jobs/my-own-id_1", json=request_fields(**choice), headers=ASYNC)).status_code
            for choice in ({}, {"face_strength": 1}, {"face_strength": 1.0})
        ]
    assert statuses == [202, 202, 202]


@pytest.mark.parametrize("job_id", ["short", "x" * 65, "with.dot.in.it", "with%20space", "%ff%ff%ff%ff%ff%ff%ff%ff"])
async def test_an_id_that_is_none_is_refused(client: httpx.AsyncClient, job_id: str) -> None:
    assert_error(await client.put(f"/jobs/{job_id}", json=request_fields()), 400, "out_of_range")
    assert_error(await client.get(f"/jobs/{job_id}"), 404, "not_found")
