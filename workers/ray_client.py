"""`DEVICE=ray`: workers on other machines, which a cluster of Ray holds together.

Ray is an optional requirement, imported where it is first asked for.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from core.config import ConfigError
from core.errors import WorkerLost
from core.progress import Progress
from imaging.picture import Picture, copied
from schemas.params import UpscaleParams
from schemas.plan import Plan
from upscale import PipelineOutput
from workers.ray_replica import Description, OtherIdentity, Steps
from workers.speed import Speed
from workers.worker import Clock, Worker

logger = logging.getLogger(__name__)

APPLICATION = "upscale"  # of Ray Serve
SILENCE_SECONDS = 5.0  # of a worker with a task, after which it is lost: it says something each second
TRANSFER_SECONDS = 60.0  # in which what it says has come here: 350 MB of pixels at 50 Mbit/s
ROUTE_SECONDS = 20.0  # after which a task that no worker has taken asks for one anew: one that froze may be about to take it
LOOK_SECONDS = 0.1  # between two looks at whether anybody still waits for a task
COUNT_SECONDS = 1.0  # between two counts of the workers that are up
ENVIRONMENT = {  # of Ray, which reads it when it is imported
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # a head that is away ends no process before that
    "RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S": "0",  # each task asks which workers are free, and
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "0.2",  # waits no longer for the answer of one that froze,
    "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "0.2",  # however often: others would get the free ones
}


class RayWorker:
    """A place at the cluster: one task at a time, on whichever replica is free."""

    def __init__(self, number: int, cluster: _Cluster) -> None:
        self.name = f"ray:{number}"
        self.capabilities = cluster.description.capabilities
        self._number = number
        self._cluster = cluster

    @property
    def is_alive(self) -> bool:
        """Whether so many replicas are up."""
        return self._number < self._cluster.replicas_up

    def work(self, plan: Plan, has_alpha: bool, enhance_faces: bool) -> float:
        """About what `Upscaler.work` says there, without asking.

        Raises:
            ModelUnavailable: the plan's model is not there.
        """
        self.capabilities.check(plan.model, plan.denoise)
        return self._cluster.description.costs.work(plan, has_alpha, enhance_faces)

    def memory_bytes(self, plan: Plan) -> int:
        """Likewise."""
        self.capabilities.check(plan.model, plan.denoise)
        return self._cluster.description.costs.memory_bytes(plan)

    def prepare(self, clock: Clock) -> Speed:
        """The speed that the first replica measured when it started."""
        return self.measure(clock)

    def measure(self, clock: Clock) -> Speed:
        """The same."""
        return replace(self._cluster.description.speed)

    def run(self, picture: Picture, plan: Plan, params: UpscaleParams, progress: Progress) -> PipelineOutput:
        """Run the plan on a replica that is free, once there is one.

        Raises:
            WorkerLost: the replica ended, was silent for too long, or gives other results than the first.
        """
        expected = self.work(plan, picture.alpha is not None, params.enhance_faces)
        while True:
            call = _Call(self._cluster.handle, self.capabilities.identity, expected, picture, plan, params)
            try:
                return call.result(progress)
            except BaseException as exc:
                call.end()
                if not isinstance(exc, _NotTaken):
                    raise

    def allocated_bytes(self) -> int | None:
        """Not known here."""

    def return_freed_memory(self) -> None:
        """Nothing: the replicas see to it."""


class _Cluster:
    """The replicas of all places."""

    def __init__(self, handle: Any, description: Description) -> None:
        self.handle = handle.options(stream=True)
        self.description = description
        self.replicas_up = 1
        threading.Thread(target=self._count_replicas, name="ray-count", daemon=True).start()

    def _count_replicas(self) -> None:
        """Again and again; while the head of the cluster is away, the last number holds."""
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        is_away = False
        while True:
            try:
                application = serve.status().applications.get(APPLICATION)
            except (RayError, RayServeException) as exc:
                if not is_away:
                    logger.warning("the head of the Ray cluster does not say which workers are up: %s", _line(exc))
                is_away = True
            else:
                is_away = False
                deployments = application.deployments.values() if application else ()
                states = [each.replica_states for each in deployments]
                self.replicas_up = sum(
                    sum(each.values()) - each.get("STARTING", 0) - each.get("STOPPING", 0) for each in states
                )
            time.sleep(COUNT_SECONDS)


class _Taken:
    """A replica has taken the task: from now on it says something each second."""


class _Arriving:
    """It has said something, which is on its way."""


class _NotTaken(Exception):
    """None has, for a while."""


class _Call:
    """A task on its way to a replica, on it, and back. A thread of its own hears what the replica says."""

    def __init__(self, handle: Any, *arguments: object) -> None:
        self._response = handle.run.remote(*arguments)
        self._said: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._hear, name="ray-call", daemon=True).start()

    def _hear(self) -> None:
        import ray

        try:
            messages = self._response._to_object_ref_gen_sync()
            self._said.put(_Taken())
            for message in messages:
                self._said.put(_Arriving())
                self._said.put(ray.get(message))
        except BaseException as exc:
            self._said.put(exc)

    def result(self, progress: Progress) -> PipelineOutput:
        """What the replica sends at last; `progress` hears of its steps, and may end it.

        Raises:
            WorkerLost: see `RayWorker.run`.
            _NotTaken: no replica was free.
        """
        limit, heard_at = ROUTE_SECONDS, time.monotonic()
        while True:
            try:
                message = self._said.get(timeout=LOOK_SECONDS)
            except Empty:
                progress.advance(0.0)
                silence = time.monotonic() - heard_at
                if silence > limit:
                    lost = WorkerLost(f"it was silent for {silence:.1f} s")
                    raise (_NotTaken if limit == ROUTE_SECONDS else lost) from None
                continue
            if isinstance(message, BaseException):
                raise _own_error(message) from message
            if isinstance(message, PipelineOutput):
                return replace(message, picture=copied(message.picture))  # a kept one would fill Ray's memory
            if isinstance(message, Steps):
                progress.add_work(message.more)
                progress.advance(message.done)
            limit = TRANSFER_SECONDS if isinstance(message, _Arriving) else SILENCE_SECONDS
            heard_at = time.monotonic()

    def end(self) -> None:
        """Let the replica, if any has the task, end it at its next step."""
        self._response.cancel()


def connect() -> list[Worker]:
    """Join the cluster of this machine, and wait for a worker's description of itself: a place for each that there may be.

    Raises:
        ConfigError: Ray is not installed, or does not run here.
    """
    join_cluster()
    from ray import serve
    from ray.serve.exceptions import RayServeException

    log = logging.getLogger("ray.serve")  # whose lines are of a form of their own, and five a second while a worker is frozen
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.ERROR)
    is_told = False
    while True:
        try:
            handle = serve.get_app_handle(APPLICATION)
            break
        except RayServeException as exc:
            if not is_told:
                logger.warning("the Ray cluster has no workers yet; `python -m workers.ray_worker` deploys them: %s", exc)
            is_told = True
            time.sleep(COUNT_SECONDS)
    description = handle.describe.remote().result()
    cluster = _Cluster(handle, description)
    return [RayWorker(number, cluster) for number in range(description.most_replicas)]


def join_cluster(**options: Any) -> None:
    """Let this process be one of the cluster that runs on this machine.

    Raises:
        ConfigError: Ray is not installed, or does not run here.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ConfigError("DEVICE must not be ray where Ray is not installed: scripts/setup.sh --ray installs it") from None
    if not ray.is_initialized():
        try:
            ray.init("auto", configure_logging=False, log_to_driver=False, **options)
        except ConnectionError as exc:
            raise ConfigError(f"DEVICE must not be ray where Ray does not run: `ray start` starts it. {exc}") from None


def _own_error(exc: BaseException) -> BaseException:
    """What a task raised, as itself; what ended the replica, or took it away, as WorkerLost."""
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.exceptions import RayServeException

    if isinstance(exc, RayTaskError):
        exc = exc.cause
        return WorkerLost(str(exc)) if isinstance(exc, OtherIdentity) else exc
    return WorkerLost(_line(exc)) if isinstance(exc, RayError | RayServeException) else exc


def _line(exc: BaseException) -> str:
    """The first line of what Ray says, which goes on for many."""
    return str(exc).partition("\n")[0]
