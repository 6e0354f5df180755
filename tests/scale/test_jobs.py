"""Asynchronous jobs of three processes with one folder, one of which is killed or drained."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.server import Server
from tests.helpers import HANG_SECONDS, wait_until
from tests.scale.jobs import Job, ends_in, holding, runs_at, sleeping, submit, wait_for

pytestmark = pytest.mark.scale

JOBS = 30


def three(stack: ExitStack, folder: Path, **settings: str) -> list[Server]:
    return [stack.enter_context(sleeping(folder, **settings)) for _ in range(3)]


def end(server: Server, number: signal.Signals) -> None:
    assert server.process
    server.process.send_signal(number)
    server.process.wait(HANG_SECONDS)


def assert_each_succeeds_once(jobs: list[Job], servers: list[Server], survivors: list[Server]) -> None:
    for number, job in enumerate(jobs):
        wait_for([job], survivors[number % len(survivors)], lambda shown: bool(shown["completed_at"]))
        assert job.is_right_at(survivors[number % len(survivors)]), job.at(survivors[0])
    ends = ends_in(servers)
    assert (len(ends), set(ends.values())) == (len(jobs), {1})


def test_an_instance_is_killed_and_every_job_succeeds_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = three(stack, tmp_path, SLEEP_SECONDS="0.5")
        killed, *survivors = servers
        jobs = [submit(servers[number % 3]) for number in range(JOBS)]
        end(killed, signal.SIGKILL)
        assert_each_succeeds_once(jobs, servers, survivors)
        assert sum(map(runs_at, survivors)) == sum(ends_in(survivors).values()), "none of them ran twice"
        assert sum(ends_in(survivors).values()) > 2 * JOBS // 3, "some were taken up"


def test_an_instance_is_drained_and_leaves_what_it_cannot_finish(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = three(stack, tmp_path, SLEEP_SECONDS="0.5", DRAIN_SECONDS="1")
        drained, *survivors = servers
        jobs = [submit(servers[number % 3]) for number in range(JOBS)]
        end(drained, signal.SIGTERM)
        assert_each_succeeds_once(jobs, servers, survivors)
        assert sum("a job is left to another instance" in line for line in drained.log) > 2


def test_a_job_that_two_instances_die_with_is_interrupted(tmp_path: Path) -> None:
    with ExitStack() as stack:
        (files := tmp_path / "files").mkdir()
        servers = [stack.enter_context(holding(tmp_path / "outputs", files)) for _ in range(3)]
        (files / "hold").touch()
        job = submit(servers[0])
        living = list(servers)
        for _ in range(2):
            wait_until(lambda: any(server.health()["queue"]["running"] for server in living))
            (busy,) = [server for server in living if server.health()["queue"]["running"]]
            end(busy, signal.SIGKILL)
            living.remove(busy)
        wait_for([job], living[0], lambda shown: bool(shown["completed_at"]))
        error = job.at(living[0])["error"]
        assert error["code"] == "interrupted"
        assert ends_in(servers) == {error["request_id"]: 1}
