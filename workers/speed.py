"""What a task takes on a device, by its work: measured once, and learned from then on."""

from __future__ import annotations

from dataclasses import dataclass

from workers.task import DeviceTask

LARGEST_ERROR = 4.0  # of a prediction that a task may show: what stalls once says nothing of the next
LEARNING = 0.5  # the share of an error, as a power, by which a prediction is corrected: one task doubles it at most
LEAST_FIXED_SECONDS = 0.001  # from which the fixed part can grow again


@dataclass
class Speed:
    """What a task takes: seconds for being one, and seconds by its work. All zero: not known.

    Small tasks are slow for their work, in ways of their own (they do not fill the device, and narrow ones are worse), so
    those below `least_work` teach the fixed part alone. A larger one corrects each part by its share of the prediction.
    """

    fixed_seconds: float = 0.0
    seconds_per_flop: float = 0.0
    least_work: float = 0.0

    @classmethod
    def of(cls, small: DeviceTask, large: DeviceTask) -> Speed:
        """That of two tasks that have run. A rate over four times that of the large one alone would be an accident."""
        by_work = max(large.seconds - small.seconds, large.seconds / LARGEST_ERROR) / (large.done - small.done)
        return cls(max(small.seconds - by_work * small.done, 0.0), by_work, large.done)

    def seconds(self, work: float) -> float:
        """Of a task of that work; 0 while nothing is known."""
        return self.fixed_seconds + work * self.seconds_per_flop

    def learn(self, work: float, seconds: float) -> None:
        """Correct what is known by a task that took so long."""
        expected = self.seconds(work)
        if not expected:
            return
        error = min(max(seconds / expected, 1 / LARGEST_ERROR), LARGEST_ERROR)
        of_work = work * self.seconds_per_flop / expected if work >= self.least_work else 0.0
        self.seconds_per_flop *= error ** (LEARNING * of_work)
        self.fixed_seconds = max(self.fixed_seconds, LEAST_FIXED_SECONDS) * error ** (LEARNING * (1 - of_work))
