"""A cluster of Ray on this machine, whose nodes can be killed and frozen; on it, workers that sleep, and a gateway."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.server import ROOT, Server, free_port, running_server
from tests.helpers import wait_until

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: scripts/setup.sh --ray")

HEAD, GATEWAY, FIRST_NODE = "127.0.0.2", "127.0.0.3", 3  # the last part of an address; 127.0.0.1 would be replaced
STORE_BYTES = 200_000_000  # of each node


@dataclass
class Node:
    """`ray start --block`, and all that it started."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_up(self) -> None:
        """It has joined the cluster, or is its head."""
        wait_until(lambda: b"This command will now block" in self.log.read_bytes() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def process_ids(self) -> list[int]:
        """Of all its processes."""
        return [self.process.pid, *_descendants(self.process.pid)]

    def send(self, number: signal.Signals) -> None:
        """Send all of them a signal."""
        for process_id in self.process_ids():
            _send(process_id, number)

    def kill(self) -> None:
        """As if its machine had been switched off."""
        self.send(signal.SIGSTOP)  # so that none sees another one go, and starts a new one
        self.send(signal.SIGKILL)
        self.process.wait()

    def replicas(self) -> list[int]:
        """The processes of the workers on it."""
        return [process_id for process_id in self.process_ids() if _command(process_id).startswith("ray::ServeReplica")]


@dataclass
class Cluster:
    """What was started."""

    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    head: Node | None = None
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{HEAD}:{self.port}"

    def start_head(self) -> None:
        """The machine that holds the cluster together; it runs no tasks."""
        self.head = self._start(HEAD, "--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false")
        self.head.wait_until_up()

    def add_nodes(self, *workers: int) -> None:
        """Machines, each for so many workers. The first is the gateway's."""
        nodes = []
        for number, count in enumerate(workers, start=FIRST_NODE + len(self.nodes)):
            nodes.append(self._start(f"127.0.0.{number}", f"--address={self.address}", f"--num-cpus={count}"))
        self.nodes += nodes
        for node in nodes:
            node.wait_until_up()

    def deploy(self, least: int, most: int = 0, program: Sequence[str] = ("-m", "tests.scale.ray_sleepers")) -> None:
        """Deploy workers, or replace them; returns once they are up."""
        arguments = ["--min", str(least), "--max", str(most or least), "--cpus", "1"]
        self._run([sys.executable, *program, *arguments])

    @contextmanager
    def gateway(self, **settings: str) -> Iterator[Server]:
        """The service with DEVICE=ray, on a node of its own."""
        environment = self.environment | {"RAY_ADDRESS": self.address, "DEVICE": "ray"} | settings
        with running_server(self.folder / "outputs", program=("-m", "tests.scale.ray_gateway"), **environment) as server:
            yield server

    def end(self) -> None:
        """Kill every process."""
        for node in (self.head, *self.nodes):
            if node and node.process.poll() is None:
                node.kill()

    def replicas(self) -> list[int]:
        """The processes of all workers."""
        return [process_id for node in self.nodes for process_id in node.replicas()]

    def _start(self, address: str, *options: str) -> Node:
        ray, log = Path(sys.executable).with_name("ray"), self.folder / f"{address}.log"
        command = [str(ray), "start", "--block", f"--node-ip-address={address}", "--num-gpus=0", *options]
        command += [f"--object-store-memory={STORE_BYTES}", f"--temp-dir={self.folder / address}"]
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | self.environment, stdout=out, stderr=out)  # noqa: S603
        return Node(address, process, log)

    def _run(self, command: list[str]) -> None:
        environment = os.environ | self.environment | {"RAY_ADDRESS": self.address}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
        assert done.returncode == 0, done.stderr


@contextmanager
def cluster(nodes: Sequence[int], **environment: str) -> Iterator[Cluster]:
    """A cluster of nodes for so many workers each, and one without any for the gateway; all killed at the end."""
    folder = Path("/tmp") / f"ray-{secrets.token_hex(4)}"  # noqa: S108 - sockets in it, whose paths must be short
    folder.mkdir()
    common = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        made = Cluster(folder, common | environment)
        stack.callback(made.end)
        made.start_head()
        made.add_nodes(0, *nodes)
        yield made


def _descendants(process_id: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{process_id}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:  # it has ended
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


def _command(process_id: int) -> str:
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _send(process_id: int, number: signal.Signals) -> None:
    try:
        os.kill(process_id, number)
    except ProcessLookupError:
        return
