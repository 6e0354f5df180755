"""Asynchronous jobs of three processes with one folder, of which some are killed or drained."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.server import Server
from tests.helpers import HANG_SECONDS, wait_until
from tests.scale.jobs import Job, ends_in, holding, runs_at, submit, wait_for

pytestmark = pytest.mark.scale

JOBS = 30


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder that holds every network up while there is a file `hold` in it."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def servers(tmp_path: Path, files: Path) -> Iterator[list[Server]]:
    """Three of them, which are ready."""
    settings = {"QUEUE_LIMIT": f"{JOBS // 3}", "DRAIN_SECONDS": "0"}
    with ExitStack() as stack:
        yield [stack.enter_context(holding(tmp_path / "outputs", files, **settings)) for _ in range(3)]


def end(server: Server, number: signal.Signals) -> None:
    assert server.process
    server.process.send_signal(number)
    server.process.wait(HANG_SECONDS)


def assert_all_are_right(jobs: list[Job], servers: list[Server]) -> None:
    for number, job in enumerate(jobs):
        wait_for([job], servers[number % len(servers)], lambda shown: bool(shown["completed_at"]))
        assert job.is_right_at(servers[number % len(servers)]), job.at(servers[0])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
def test_an_instance_ends_and_every_job_succeeds_once(servers: list[Server], files: Path, how: signal.Signals) -> None:
    (files / "hold").touch()
    jobs = [submit(servers[number % 3]) for number in range(JOBS)]
    ended, *living = servers
    end(ended, how)
    (files / "hold").unlink()
    assert_all_are_right(jobs, living)
    assert sorted(ends_in(living).values()) == [1] * JOBS
    assert sum(map(runs_at, living)) == JOBS
    assert not ends_in([ended])
    assert sum("a job is left to another instance" in line for line in ended.log) == (how == signal.SIGTERM) * JOBS // 3


def test_a_job_that_two_instances_die_with_is_interrupted(servers: list[Server], files: Path) -> None:
    (files / "hold").touch()
    job, living = submit(servers[0]), list(servers)
    for _ in range(2):
        wait_until(lambda: any(server.health()["queue"]["running"] for server in living))
        (busy,) = [server for server in living if server.health()["queue"]["running"]]
        end(busy, signal.SIGKILL)
        living.remove(busy)
    wait_for([job], living[0], lambda shown: bool(shown["completed_at"]))
    error = job.at(living[0])["error"]
    assert error["code"] == "interrupted"
    assert ends_in(servers) == {error["request_id"]: 1}
