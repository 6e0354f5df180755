"""What runs pictures, in this process or elsewhere, as the queue sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from core.progress import Progress
from imaging.picture import Picture
from model_utility import Capabilities
from schemas.params import UpscaleParams
from schemas.plan import Plan
from upscale import PipelineOutput
from workers.speed import Speed

Clock = Callable[[], float]
"""Seconds."""


class Worker(Protocol):
    """A device that runs one task at a time. What blocks is called on the thread of its place in the queue alone."""

    @property
    def name(self) -> str:
        """Of a bounded set, for labels: `cpu`, `cuda:0`, `ray:0`."""

    @property
    def capabilities(self) -> Capabilities:
        """What it runs, and on what."""

    @property
    def is_alive(self) -> bool:
        """Whether it can take a task now; any thread may ask."""

    def work(self, plan: Plan, has_alpha: bool, enhance_faces: bool) -> float:
        """FLOPs of all passes and the search for faces, at once and for any thread.

        Raises:
            ModelUnavailable: the plan's model is not there.
        """

    def memory_bytes(self, plan: Plan) -> int:
        """What the largest pass takes at its peak, beside the models; likewise."""

    def prepare(self, clock: Clock) -> Speed:
        """Do what would make first passes slow, and measure how fast it is.

        Raises:
            DeviceLost, WorkerLost: see `run`.
        """

    def measure(self, clock: Clock) -> Speed:
        """How fast it is now; raises what `prepare` does."""

    def run(self, picture: Picture, plan: Plan, params: UpscaleParams, progress: Progress) -> PipelineOutput:
        """Run the plan, as `Upscaler.run` does.

        Raises:
            DeviceLost: this process can use the device no more.
            WorkerLost: it ended, or was silent for too long. The same may succeed on another.
        """

    def allocated_bytes(self) -> int | None:
        """Memory of a GPU that its models hold now; None where that is not known here."""

    def return_freed_memory(self) -> None:
        """Give the system back what this process has freed; any thread may call this, when no pass runs."""
