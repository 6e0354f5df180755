"""The signals that stop a process or have it read its keys again, also one that is the first of a container.

The kernel drops a signal for which such a process has no handler, and Python takes a while to install one. A signal that is
blocked it keeps, so whatever starts this process may block both, until `on_stop` takes them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

RELOAD_SIGNAL = signal.SIGHUP


def hold_reload() -> None:
    """Keep RELOAD_SIGNAL, which would end this process, until `on_reload`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [RELOAD_SIGNAL])


def on_reload(handler: Callable[[], object]) -> None:
    """Call this on the event loop that runs, for each RELOAD_SIGNAL until `ignore_reload`, and for one that was held.

    The loop's own `add_signal_handler` would bring the default action back when the loop is closed.
    """
    loop = asyncio.get_running_loop()
    signal.signal(RELOAD_SIGNAL, lambda *_: loop.call_soon_threadsafe(handler))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [RELOAD_SIGNAL])


def ignore_reload() -> None:
    """From now on RELOAD_SIGNAL does nothing: this process ends."""
    signal.signal(RELOAD_SIGNAL, signal.SIG_IGN)


def on_stop(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Call this from now on, for a signal that has come already too."""
    for number in STOP_SIGNALS:
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def end_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    """A handler in place of the default action, which the first process of a container does not have."""
    os._exit(128 + number)  # the status that a shell shows


def become(command: list[str]) -> NoReturn:
    """Run another program as this process. A signal that comes meanwhile waits for its `on_stop`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    os.execvp(command[0], command)  # noqa: S606 - the operator's own
