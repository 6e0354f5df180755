"""A worker of this process: the pipeline on one device."""

from __future__ import annotations

from collections.abc import Callable

from core.config import Settings
from core.progress import NullProgress
from model_utility import Models, visible_devices
from upscale import Upscaler
from workers.speed import Speed
from workers.task import DeviceTask
from workers.worker import Clock

WARM_UP_PX = (64, 128, 256, 512)
WARM_UP_SECONDS = 0.2
SMALL_PX = 16  # side of a picture that hardly costs more than none


class LocalWorker:
    """The pipeline on one device."""

    is_alive = True

    def __init__(self, name: str, upscaler: Upscaler) -> None:
        self.name = name
        self.capabilities = upscaler.models.capabilities
        self.work, self.memory_bytes, self.run = upscaler.work, upscaler.memory_bytes, upscaler.run
        self.allocated_bytes = upscaler.models.allocated_bytes
        self.return_freed_memory = upscaler.models.return_freed_memory
        self._upscaler = upscaler

    @classmethod
    def load(cls, load: Callable[[Settings], Models], settings: Settings, name: str = "") -> LocalWorker:
        """Load its models; without a name, it is called as its device.

        Raises:
            ConfigError, WeightsError: as `load_models`.
        """
        models = load(settings)
        return cls(name or models.device.partition(" ")[0], Upscaler(models))

    def prepare(self, clock: Clock) -> Speed:
        """Run everything once, measure passes, then what else there is, by them.

        Raises:
            DeviceLost: this process can use its device no more.
        """
        self._upscaler.run_all_once()
        self._upscaler.warm_up(WARM_UP_PX[0], NullProgress())  # weights are packed
        speed = self.measure(clock)
        self._upscaler.measure_others(1 / speed.seconds_per_flop)
        return speed

    def measure(self, clock: Clock) -> Speed:
        """Passes of growing size, until one takes long enough for its rate to be that of a request.

        Raises:
            DeviceLost: this process can use its device no more.
        """
        small = self._fastest_pass(SMALL_PX, clock)
        for side_px in WARM_UP_PX:
            large = self._fastest_pass(side_px, clock)
            if large.seconds > WARM_UP_SECONDS:
                break
        return Speed.of(small, large)

    def _fastest_pass(self, side_px: int, clock: Clock) -> DeviceTask:
        """Of two: whatever disturbs one makes it slower."""
        tasks = [DeviceTask(0), DeviceTask(0)]
        for task in tasks:
            start = clock()
            self._upscaler.warm_up(side_px, task)
            task.seconds = clock() - start
        return min(tasks, key=lambda task: task.seconds)


def local_devices(settings: Settings) -> list[tuple[str, Settings]]:
    """What `DEVICE` names: the settings that each worker is loaded with, and its name, if the device's own will not do.

    Raises:
        ConfigError: there is none of them here.
    """
    names = visible_devices() if settings.device == "all" else settings.device.split(",")
    if names[0] == "cpu" and len(names) > 1:  # each is loaded as one of so many
        return [(f"cpu:{number}", settings) for number in range(len(names))]
    return [("", settings.model_copy(update={"device": name})) for name in names]
