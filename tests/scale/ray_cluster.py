"""A cluster of Ray on this machine, whose nodes can be killed and frozen; on it, workers that sleep, and a gateway."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from bench.server import ROOT, START_SECONDS, Server, free_port, running_server

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: scripts/setup.sh --ray")

HEAD, GATEWAY, FIRST_NODE = "127.0.0.2", "127.0.0.3", 3  # the last part of an address; 127.0.0.1 would be replaced
STORE_BYTES = 200_000_000  # of each node


@dataclass
class Node:
    """`ray start --block`, and all that it started."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_up(self) -> bool:
        """It has joined the cluster, or is its head."""
        return b"This command will now block" in self.log.read_bytes()

    def process_ids(self) -> list[int]:
        """Of all its processes."""
        processes = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [process_id for process_id in processes if f"NODE={self.log}".encode() in _read(process_id, "environ")]

    def send(self, number: signal.Signals) -> None:
        """Send all of them a signal."""
        for process_id in self.process_ids():
            send(process_id, number)

    def kill(self) -> None:
        """As if its machine had been switched off."""
        self.send(signal.SIGSTOP)  # so that none sees another one go, and starts a new one
        self.send(signal.SIGKILL)
        self.process.wait()

    def replicas(self) -> list[int]:
        """The processes of the workers on it."""
        return [process for process in self.process_ids() if _read(process, "cmdline").startswith(b"ray::ServeReplica")]


@dataclass
class Cluster:
    """What was started."""

    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    head: Node | None = None
    nodes: list[Node] = field(default_factory=list)
    started: list[Node] = field(default_factory=list)  # in all, and tried

    @property
    def address(self) -> str:
        return f"{HEAD}:{self.port}"

    def start_head(self) -> None:
        """The machine that holds the cluster together; it runs no tasks."""
        (self.folder / HEAD / "ray_current_cluster").unlink(missing_ok=True)  # it would take the other nodes for itself
        self.head = self._start(HEAD, "--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false")

    def add_nodes(self, *workers: int) -> None:
        """Machines, each for so many workers. The first is the gateway's."""

        def start(number: int, count: int) -> Node:
            return self._start(f"127.0.0.{number}", f"--address={self.address}", f"--num-cpus={count}")

        with ThreadPoolExecutor(len(workers)) as threads:
            self.nodes += threads.map(start, itertools.count(FIRST_NODE + len(self.nodes)), workers)

    def deploy(self, least: int, most: int = 0, module: str = "tests.scale.ray_sleepers", **environment: str) -> None:
        """Deploy workers, or replace them; returns once they are up. Those that sleep get the `environment`."""
        command = [sys.executable, "-m", module, "--min", str(least), "--max", str(most or least), "--cpus", "1"]
        environ = os.environ | self.environment | {"RAY_ADDRESS": self.address} | environment
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)  # noqa: S603
        assert done.returncode == 0, done.stderr

    @contextmanager
    def gateway(self, **settings: str) -> Iterator[Server]:
        """The service with DEVICE=ray, on a node of its own."""
        environment = self.environment | {"RAY_ADDRESS": self.address, "DEVICE": "ray"} | settings
        with running_server(self.folder / "outputs", program=("-m", "tests.scale.ray_gateway"), **environment) as server:
            yield server

    def end(self) -> None:
        """Kill every process."""
        for node in self.started:
            node.kill()

    def replicas(self) -> list[int]:
        """The processes of all workers."""
        return [process_id for node in self.nodes for process_id in node.replicas()]

    def _start(self, address: str, *options: str) -> Node:
        ray, log = Path(sys.executable).with_name("ray"), self.folder / f"{address}.log"
        command = [str(ray), "start", "--block", f"--node-ip-address={address}", "--num-gpus=0", *options]
        command += [f"--object-store-memory={STORE_BYTES}", f"--temp-dir={self.folder / address}"]
        for _ in range(3):  # on a busy machine it gives up after 30 s
            with log.open("wb") as out:
                environment = os.environ | self.environment | {"NODE": str(log)}
                process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)  # noqa: S603
            node = Node(process, log)
            self.started.append(node)
            wait_long(lambda: node.is_up or process.poll() is not None)  # noqa: B023 - called in this round alone
            if node.is_up:
                return node
            node.kill()
        raise AssertionError(log.read_text())


@contextmanager
def cluster(*workers: int, **environment: str) -> Iterator[Cluster]:
    """A cluster of nodes for so many workers each, and one without any for the gateway; all killed at the end."""
    folder = Path("/tmp") / f"ray-{secrets.token_hex(4)}"  # noqa: S108 - sockets in it, whose paths must be short
    folder.mkdir()
    common = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # of 15: here, the clients' processors are the workers'
        "PYTHONPATH": str(ROOT),
    }
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        made = Cluster(folder, common | environment)
        stack.callback(made.end)
        made.start_head()
        made.add_nodes(0, *workers)
        yield made


def _read(process_id: int, name: str) -> bytes:
    """A file of /proc; nothing of a process that has ended."""
    try:
        return Path(f"/proc/{process_id}/{name}").read_bytes()
    except OSError:
        return b""


def send(process_id: int, number: signal.Signals) -> None:
    """Send it a signal, unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(process_id, number)


def wait_long(condition: Callable[[], bool]) -> None:
    """Wait for what takes a minute on a machine that has other things to do."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.1)


def workers_up(server: Server) -> int:
    """Of the gateway's places, those that have a worker."""
    return sum(worker["state"] in ("idle", "busy") for worker in server.health()["workers"])


def retries(server: Server) -> float:
    """How many tasks began again."""
    page = httpx.get(f"{server.url}/metrics").text
    return sum(float(value) for value in re.findall(r"^upscale_retries_total\{.*\} (.*)$", page, re.MULTILINE))
