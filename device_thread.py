"""The one thread that touches the device: an executor whose thread is replaced if it dies.

It knows nothing of what it runs.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from logs import in_this_context

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
_Task = tuple[Future[Any], Callable[[], Any]]


class DeviceThreadDied(RuntimeError):
    """The thread was ended in the middle of a task.

    A plain error: what ends a thread must not end the event loop that hears of it.
    """


class DeviceThread(Executor):
    """Runs what it is given in order, on one thread at a time.

    `ThreadPoolExecutor` takes a dead thread for a busy one: it would start no other, and keep everybody waiting for ever.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: deque[_Task] = deque()  # the first is the one that runs: it stays until it is done
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function after those before it; the future has its result, or DeviceThreadDied."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("The device's thread has been shut down.")
            self._tasks.append((future, in_this_context(partial(function, *args, **kwargs))))
            if self._thread is None:
                self._start()
            self._changed.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take in nothing more, and let the thread end when all is done."""
        with self._changed:
            self._closed = True
            for future, _ in self._tasks if cancel_futures else ():
                future.cancel()
            self._changed.notify()
        if wait and self._thread:
            self._thread.join()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name=self._name)
        self._thread.start()

    def _work(self) -> None:
        try:
            while task := self._next():
                _run(*task)
                self._tasks.popleft()
        except BaseException:
            logger.exception("the thread %r died; another takes its place", self._name)
            self._start()

    def _next(self) -> _Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._closed)
            return self._tasks[0] if self._tasks else None


def _run(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        if future.running():  # on a thread before this one
            raise DeviceThreadDied("The thread that ran this ended.")
        if not future.done() and future.set_running_or_notify_cancel():
            future.set_result(function())
    except BaseException as exc:
        if not future.done():
            future.set_exception(exc if isinstance(exc, Exception) else DeviceThreadDied(f"killed by {exc!r}"))
