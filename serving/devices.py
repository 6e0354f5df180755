"""Opens the workers that `DEVICE` names, and knows how fast each is."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from functools import partial

from core.config import Settings
from core.errors import DeviceLost, WorkerLost
from model_utility import Models
from serving.admission import Admission
from serving.workers import SHORT_SHARE, Place, Workers
from utility import IOExecutor
from workers.local import LocalWorker, local_devices
from workers.speed import Speed
from workers.task import DeviceTask
from workers.worker import Clock, Worker

logger = logging.getLogger(__name__)

MEASURE_AGAIN_SECONDS = 10.0  # between two measurements of a speed for which requests were refused


class Devices:
    """The workers, and the admission to them; its methods are called on the event loop."""

    def __init__(self, settings: Settings, load: Callable[[Settings], Models], lost: Callable[[DeviceLost], None]) -> None:
        """`lost` hears of the end of the last device, once."""
        share = 0.0 if settings.device == "ray" else SHORT_SHARE  # a replica takes no other task before it is done
        self.admission = Admission(settings.queue_limit, self._doubt_speed, lambda: self.workers.open_count, share)
        self.workers = Workers(self.admission.measure, lost=lost, short_share=share)
        self._settings = settings
        self._load = load
        self._doubt: asyncio.Task[None] | None = None

    async def open(self, io: IOExecutor) -> None:
        """Load all workers, then measure them, one after the other.

        Raises:
            ConfigError, WeightsError: as `load_models`.
            DeviceLost: none is left.
        """
        for make in await io.run(self._makers):
            self._compare(await self.workers.add(make))
        for place in self.workers.places:  # a device that is lost in this is the last only if no other is there
            if not place.out_of_use:
                await self._prepare(place)

    def close(self) -> None:
        """Let the threads go, once they have finished what they are doing."""
        if self._doubt:
            self._doubt.cancel()
        self.workers.close()

    def _makers(self) -> list[Callable[[], Worker]]:
        """What makes each worker, on its thread."""
        if self._settings.device == "ray":
            from workers.ray_client import connect

            return [partial(_same, worker) for worker in connect()]
        devices = local_devices(self._settings)
        return [partial(LocalWorker.load, self._load, settings, name) for name, settings in devices]

    def _compare(self, place: Place) -> None:
        """Use no worker that gives other bytes than the first."""
        worker, first = place.worker, self.workers.places[0].worker
        if worker.capabilities.identity != first.capabilities.identity:
            place.out_of_use = f"it would give other bytes than {first.name}"
            identities = worker.capabilities.identity, first.capabilities.identity
            logger.error("%s is not used, since %s: it is %s, not %s", worker.name, place.out_of_use, *identities)

    async def _prepare(self, place: Place) -> None:
        """Measure a worker; of several, one whose device is lost already is none."""
        try:
            self.admission.speeds[place.worker.name] = await self._measured(place, place.worker.prepare)
        except WorkerLost:
            if self.workers.open_count == 0:
                raise

    async def _measured(self, place: Place, measure: Callable[[Clock], Speed]) -> Speed:
        return await self.workers.run(DeviceTask(0), lambda _: measure(self.workers.clock), place)

    def _doubt_speed(self) -> None:
        """Measure the speed again, once in a while: what is refused for it is never measured."""
        if self._doubt is None or self._doubt.done():
            context = contextvars.Context()  # its log lines are not the request's
            self._doubt = asyncio.create_task(self._measure_again(), context=context)

    async def _measure_again(self) -> None:
        speeds = self.admission.speeds
        try:
            for place in self.workers.places:
                if place.is_open:
                    measured, known = await self._measured(place, place.worker.measure), speeds[place.worker.name]
                    if measured.seconds(measured.least_work) < known.seconds(measured.least_work):  # else, it was busy
                        speeds[place.worker.name] = measured
        except Exception as exc:  # whatever it is, the next may succeed
            logger.error("a device's speed could not be measured again: %r", exc)
        await asyncio.sleep(MEASURE_AGAIN_SECONDS)


def _same(worker: Worker) -> Worker:
    return worker
