"""Progress on a GPU, with a GPU that finishes one step whenever somebody waits for it."""

from __future__ import annotations

import pytest

from core.progress import NullProgress
from models.engines.pace import DEPTH, STEPS, Paced


class FakeGpu:
    """`queued` and `done` count events."""

    def __init__(self) -> None:
        self.queued = self.done = 0

    def record(self) -> FakeEvent:
        self.queued += 1
        return FakeEvent(self, self.queued)


class FakeEvent:
    def __init__(self, gpu: FakeGpu, number: int) -> None:
        self._gpu, self._number = gpu, number

    def query(self) -> bool:
        return self._gpu.done >= self._number

    def synchronize(self) -> None:
        self._gpu.done = max(self._gpu.done, self._number)


class Told(NullProgress):
    """Notes how far the GPU was when it was told of work."""

    def __init__(self, gpu: FakeGpu, most: float = 1e9) -> None:
        self.work, self.ahead = 0.0, 0
        self._gpu, self._most = gpu, most

    def advance(self, work: float) -> None:
        self.work += work
        self.ahead = max(self.ahead, self._gpu.queued - self._gpu.done)
        if self.work >= self._most:
            raise InterruptedError


def test_all_work_is_told_and_none_before_it_is_done() -> None:
    gpu = FakeGpu()
    told = Told(gpu)
    paced = Paced(told, gpu.record, pass_work=350.0)
    for _ in range(350):
        paced.advance(1.0)
        assert told.work <= gpu.done * 4
    paced.drain()
    assert told.work == 350
    assert told.ahead <= DEPTH
    assert gpu.queued <= STEPS + 1, "not an event for each convolution"


def test_a_cancel_leaves_a_few_steps_to_run() -> None:
    gpu = FakeGpu()
    paced = Paced(Told(gpu, most=10.0), gpu.record, pass_work=100.0)
    with pytest.raises(InterruptedError):
        for _ in range(100):
            paced.advance(1.0)
    assert gpu.queued <= 10 + DEPTH


def test_what_a_fast_gpu_has_done_is_told_at_once() -> None:
    gpu = FakeGpu()
    told = Told(gpu)
    paced = Paced(told, gpu.record, pass_work=10.0)
    paced.advance(1.0)
    assert told.work == 0
    gpu.done = 1
    paced.advance(1.0)
    assert told.work == 1
