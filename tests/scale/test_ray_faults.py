"""Workers, machines and the head of a Ray cluster that go without notice: every picture is right, and soon there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.server import Server, free_port
from tests.scale.crowd import Report, crowd
from tests.scale.ray_cluster import Cluster, cluster, needs_ray, retries, send, wait_long, workers_up

pytestmark = [pytest.mark.scale, needs_ray]

HEAD_AWAY_SECONDS = 90


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """The address of a database of our own, on loopback."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("redis")
    with redis(folder) as address, cluster(1, 1, RAY_REDIS_ADDRESS=address) as made:
        made.deploy(2, SLEEP_SECONDS="0.5")
        yield made


@pytest.fixture
def server(machines: Cluster) -> Iterator[Server]:
    with machines.gateway() as server:
        wait_long(lambda: workers_up(server) == 2)
        yield server


def struck(server: Server, pictures: int, strike: Callable[[], object]) -> Report:
    """What becomes of so many pictures, if that happens in their midst."""

    def in_their_midst() -> None:
        time.sleep(2)
        strike()

    report = crowd(server.url, pictures, meanwhile=in_their_midst)
    right = pictures - len(report.faults)
    sys.stdout.write(f"\n{right}/{pictures} right, {retries(server):g} retries, p99 {report.percentile(99):.1f} s\n")
    return report


def test_a_worker_that_is_killed_costs_one_repetition(machines: Cluster, server: Server) -> None:
    report = struck(server, 60, lambda: send(machines.replicas()[0], signal.SIGKILL))

    assert report.faults == []
    assert retries(server) <= 1


def test_all_workers_that_are_killed_cost_one_repetition_each(machines: Cluster, server: Server) -> None:
    def strike() -> None:
        for process in machines.replicas():
            send(process, signal.SIGKILL)

    report = struck(server, 40, strike)

    assert report.faults == []
    assert retries(server) <= 2


def test_a_machine_that_freezes_holds_nothing_up_for_long(machines: Cluster, server: Server) -> None:
    report = struck(server, 40, lambda: machines.nodes[1].send(signal.SIGSTOP))
    machines.nodes[1].send(signal.SIGCONT)

    assert report.faults == []
    assert retries(server) <= 1
    assert report.percentile(99) <= 10


def test_a_head_that_is_away_is_not_missed(machines: Cluster, server: Server) -> None:
    before = set(machines.replicas())

    def strike() -> None:
        assert machines.head
        machines.head.kill()
        time.sleep(HEAD_AWAY_SECONDS)
        send(machines.replicas()[0], signal.SIGKILL)  # which the head alone can replace
        machines.start_head()
        back = time.monotonic()
        wait_long(lambda: len(machines.replicas()) == 2 and not before >= set(machines.replicas()))
        seconds.append(time.monotonic() - back)

    seconds: list[float] = []
    report = struck(server, 300, strike)
    wait_long(lambda: workers_up(server) == 2)

    assert report.faults == []
    assert retries(server) <= 1
    assert len(before & set(machines.replicas())) == 1
    assert seconds[0] <= 30
    assert crowd(server.url, 20).faults == []


def test_a_machine_that_is_lost_costs_one_repetition(machines: Cluster, server: Server) -> None:
    report = struck(server, 40, machines.nodes[2].kill)

    assert report.faults == []
    assert retries(server) <= 1
    machines.add_nodes(1)
    wait_long(lambda: workers_up(server) == 2 and len(machines.replicas()) == 2)
