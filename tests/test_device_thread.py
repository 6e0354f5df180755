"""One thread, always."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from device_thread import DeviceThread, DeviceThreadDied


@pytest.fixture
def thread() -> Iterator[DeviceThread]:
    thread = DeviceThread("test")
    yield thread
    thread.shutdown()


def end() -> None:
    raise SystemExit


def test_tasks_run_in_order_on_one_thread(thread: DeviceThread) -> None:
    def work(number: int) -> tuple[int, int]:
        return number, threading.get_ident()

    futures = [thread.submit(work, number) for number in range(5)]
    results = [future.result(10) for future in futures]
    assert [number for number, _ in results] == [0, 1, 2, 3, 4]
    assert len({ident for _, ident in results} | {threading.get_ident()}) == 2


def test_an_error_is_the_callers_and_what_would_end_the_process_becomes_one(thread: DeviceThread) -> None:
    with pytest.raises(ZeroDivisionError):
        thread.submit(lambda: 1 // 0).result(10)
    with pytest.raises(DeviceThreadDied, match="SystemExit"):
        thread.submit(end).result(10)
    assert thread.submit(int, "7").result(10) == 7


def test_a_cancelled_task_is_not_run(thread: DeviceThread) -> None:
    gate = threading.Event()
    running, cancelled = thread.submit(gate.wait, 10), thread.submit(end)
    assert cancelled.cancel()
    after = thread.submit(int, "7")
    gate.set()
    assert (running.result(10), after.result(10)) == (True, 7)


def test_after_the_shutdown_nothing_is_taken_and_nothing_runs_but_what_runs(thread: DeviceThread) -> None:
    gate = threading.Event()
    running, waiting = thread.submit(gate.wait, 10), thread.submit(end)
    while not running.running():
        pass
    thread.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError, match="shut down"):
        thread.submit(int)
    gate.set()
    assert running.result(10)
    assert waiting.cancelled()
