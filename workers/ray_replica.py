"""A worker on another machine: a replica of a deployment of Ray Serve, which has a device for itself."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.config import ConfigError, Settings
from core.errors import DEVICE_LOST_STATUS, DeviceLost, JobCancelled
from core.logs import configure_logging
from imaging.picture import Picture, copied
from model_utility import Capabilities, Models
from schemas.params import UpscaleParams
from schemas.plan import Plan
from upscale import PipelineOutput
from utility import wait_at_most
from workers.costs import Costs
from workers.local import LocalWorker
from workers.speed import Speed

logger = logging.getLogger(__name__)

STEPS_SECONDS = 0.1  # of steps are one message: 400 messages take 167 ms
BEAT_SECONDS = 1.0  # between two messages, even if nothing moves


class OtherIdentity(RuntimeError):
    """The gateway expects another worker's results."""


@dataclass(frozen=True)
class Steps:
    """What a task has done since the last such message, and how much more there is than was known; both zero: a beat."""

    done: float = 0.0
    more: float = 0.0


@dataclass(frozen=True)
class Description:
    """What a gateway must know of its workers before it asks any of them."""

    capabilities: Capabilities
    costs: Costs
    speed: Speed
    most_replicas: int


class Replica:
    """Loads the models and measures the device when it is made; then runs one task at a time."""

    def __init__(self, load: Callable[[Settings], Models], most_replicas: int) -> None:
        """`most_replicas` is how many of these there may be at once.

        Raises:
            ConfigError, WeightsError, DeviceLost: nothing can be run here.
        """
        settings = Settings.from_env()
        configure_logging(settings.log_level, settings.log_format)
        if settings.device == "ray":
            raise ConfigError("DEVICE must be what is in this machine: ray is for the gateway")
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._worker = self._device.submit(LocalWorker.load, load, settings).result()
        speed = self._device.submit(self._worker.prepare, time.perf_counter).result()
        self._description = Description(self._worker.capabilities, Costs.of(self._worker), speed, most_replicas)
        logger.info("ready on %s in %s", self._worker.capabilities.device, self._worker.capabilities.engine)

    def describe(self) -> Description:
        """What a gateway must know."""
        return self._description

    async def run(
        self, identity: str, expected_work: float, picture: Picture, plan: Plan, params: UpscaleParams
    ) -> AsyncIterator[Steps | PipelineOutput]:
        """Run a plan: first, what the gateway's `expected_work` lacks; then steps, and at last what came out.

        A caller that leaves ends the task at its next step.

        Where the device is lost, the process ends: another may find it well.

        Raises:
            OtherIdentity: results from here would differ from those that the gateway expects.
        """
        if identity != (here := self._worker.capabilities.identity):
            logger.error("a task was refused: its gateway expects %s, and this is %s", identity, here)
            raise OtherIdentity(f"expected {identity}, and this is {here}")
        yield Steps(more=self._worker.work(plan, picture.alpha is not None, params.enhance_faces) - expected_work)
        loop, ended, relay = asyncio.get_running_loop(), asyncio.Event(), _Relay()
        own = copied(picture)  # Ray's memory cannot be written to, and torch must not be given it
        result = self._device.submit(self._worker.run, own, plan, params, relay)
        result.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
        try:
            sent = time.monotonic()
            while not result.done():
                await wait_at_most(STEPS_SECONDS, ended)
                steps, now = relay.take(), time.monotonic()
                if steps != Steps() or now - sent > BEAT_SECONDS:
                    yield steps
                    sent = now
            if (steps := relay.take()) != Steps():
                yield steps
            yield result.result()
        except DeviceLost as exc:
            logger.critical("the device is lost, and the worker ends: %s", exc.reason, exc_info=exc.__cause__)
            logging.shutdown()
            os._exit(DEVICE_LOST_STATUS)
        finally:
            relay.is_left = True


class _Relay:
    """The progress of a task, until it is sent."""

    clock = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.is_left = False
        self._steps = Steps()
        self._lock = threading.Lock()

    def advance(self, work: float) -> None:
        """Raises JobCancelled: nobody waits for the result any more."""
        self._add(work, 0.0)
        if self.is_left:
            raise JobCancelled("The task was cancelled.")

    def add_work(self, work: float) -> None:
        self._add(0.0, work)

    def _add(self, done: float, more: float) -> None:
        with self._lock:
            self._steps = Steps(self._steps.done + done, self._steps.more + more)

    def take(self) -> Steps:
        """What has come since the last time."""
        with self._lock:
            steps, self._steps = self._steps, Steps()
        return steps
