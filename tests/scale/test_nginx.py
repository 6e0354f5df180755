"""Three instances behind nginx with the configuration of deploy/: full, killed, ended, with large bodies and events."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest

from bench.server import Server, running_server
from core.config import MAX_BODY_BYTES
from tests.deploy.balancer import balanced, needs_nginx
from tests.helpers import FAKE, HANG_SECONDS, b64, encode, wait_until
from tests.scale.crowd import crowd, new_pixels

pytestmark = [pytest.mark.scale, needs_nginx]

SLEEP_SECONDS = "0.4"
PLACES = 27  # of each instance one that runs and eight that wait


@dataclass(frozen=True)
class Balanced:
    """What the tests ask, and what is behind it."""

    url: str
    instances: list[Server]
    log: Path

    def bad_gateways(self) -> int:
        """How many requests no instance answered: nginx itself had to."""
        return sum(line.rsplit("upstream_status=", 1)[1].split(", ")[-1][:3] == "502" for line in self._lines())

    def repeated(self) -> int:
        """How many requests more than one instance got."""
        return sum(", " in line.rsplit("upstream_status=", 1)[1] for line in self._lines())

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines()


@contextmanager
def instances(folder: Path, *names: str) -> Iterator[Balanced]:
    """One for each name, with a folder of results of its own; those without a name share one."""
    with ExitStack() as stack:
        started = [
            running_server(folder / f"outputs{name}", program=FAKE, SLEEP_SECONDS=SLEEP_SECONDS, INSTANCE=name)
            for name in names
        ]
        servers = [stack.enter_context(each) for each in started]
        ports = [httpx.URL(server.url).port or 0 for server in servers]
        url = stack.enter_context(balanced(folder, ports, own_folders=any(names)))
        yield Balanced(url, servers, folder / "access.log")


def three_instances(folder: Path) -> AbstractContextManager[Balanced]:
    """They share the folder of results."""
    return instances(folder, "", "", "")


def signal_at_work(instance: Server, number: signal.Signals) -> None:
    assert instance.process
    wait_until(lambda: bool(instance.health()["queue"]["running"]))
    instance.process.send_signal(number)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    with three_instances(tmp_path_factory.mktemp("nginx")) as balanced_instances:
        yield balanced_instances


def test_sixty_at_once_on_fewer_places(service: Balanced) -> None:
    assert sum(1 + instance.health()["queue"]["capacity"] for instance in service.instances) == PLACES
    report = crowd(service.url, 60, clients=60)
    assert report.faults == []
    assert sum(outcome.refusals for outcome in report.outcomes) > 0, "there was room for all of them"
    assert service.repeated() > 0
    assert service.bad_gateways() == 0


def test_a_large_body_passes_and_a_larger_one_is_refused_as_by_the_service(service: Balanced) -> None:
    start = json.dumps({"image_b64": b64(encode(new_pixels())), "scale": 4}).encode()
    padded = start + b" " * (MAX_BODY_BYTES - len(start))
    with httpx.Client(base_url=service.url, timeout=HANG_SECONDS, headers={"Content-Type": "application/json"}) as client:
        assert client.post("/upscale", content=padded).json()["upscaled_size"] == {"width": 256, "height": 256}
        refused = client.post("/upscale", content=padded + b" ")
        direct = client.post(f"{service.instances[0].url}/upscale", content=padded + b" ")
    assert [(response.status_code, response.json()["code"]) for response in (refused, direct)] == [(413, "body_too_large")] * 2


def test_events_pass_at_once(service: Balanced) -> None:
    with httpx.Client(base_url=service.url, timeout=HANG_SECONDS) as client:
        headers = {"Content-Type": "image/png", "Prefer": "respond-async"}
        job = client.post("/upscale?scale=16", content=encode(new_pixels()), headers=headers).json()
        with client.stream("GET", f"/jobs/{job['id']}/events") as events:
            arrived = [(time.monotonic(), line) for line in events.iter_lines() if line.startswith("event:")]
    assert arrived[-1][1] == "event: succeeded"
    assert arrived[-1][0] - arrived[0][0] > float(SLEEP_SECONDS), "all of them came at the end"


def test_kill_of_one_of_three_loses_nothing(tmp_path: Path) -> None:
    with three_instances(tmp_path) as killed:
        report = crowd(killed.url, 60, clients=8, meanwhile=partial(signal_at_work, killed.instances[0], signal.SIGKILL))
        assert report.faults == []
        assert killed.bad_gateways() == 0
        assert killed.repeated() > 0, "the one that was killed had no request"


def test_the_end_of_one_of_three_loses_nothing(tmp_path: Path) -> None:
    with three_instances(tmp_path) as ended:
        process = ended.instances[0].process
        assert process
        report = crowd(ended.url, 40, clients=8, meanwhile=partial(signal_at_work, ended.instances[0], signal.SIGTERM))
        assert report.faults == []
        assert ended.bad_gateways() == 0
        assert process.wait(HANG_SECONDS) == 0


def test_jobs_and_files_are_found_where_each_instance_has_a_folder_of_its_own(tmp_path: Path) -> None:
    with instances(tmp_path, "a", "b") as own, httpx.Client(base_url=own.url, timeout=HANG_SECONDS) as client:

        def location(method: str, path: str) -> str:
            """Of the job that this starts."""
            headers = {"Content-Type": "image/png", "Prefer": "respond-async"}
            response = client.request(method, path, params={"scale": 4}, content=encode(new_pixels()), headers=headers)
            assert response.status_code == 202, response.text
            return response.headers["Location"]

        chosen = {location("PUT", f"/jobs/order-00{number}") for number in range(6)}
        others = {location("POST", "/upscale") for _ in range(6)}
        assert {path[: len("/jobs/a-")] for path in others} == {"/jobs/a-", "/jobs/b-"}
        for path in chosen | others:
            wait_until(partial(_has_succeeded, client, path))
            assert client.get(client.get(path).json()["result"]["url"]).status_code == 200
            assert client.post(f"{path}/cancel").json()["status"] == "succeeded"


def _has_succeeded(client: httpx.Client, path: str) -> bool:
    return bool(client.get(path).json()["status"] == "succeeded")
