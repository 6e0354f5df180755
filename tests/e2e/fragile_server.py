"""The service on a device that tests can lose: `python -m tests.e2e.fragile_server`, with the settings of `app.py`.

Its network repeats pixels. It waits while the file `$DEVICE_FILES/hold` exists, and from `$DEVICE_FILES/lost` on every pass
raises what torch raises after a failed assertion on a card. A thread of it never ends, as a driver's call may not, unless
there is `$DEVICE_ENDS`; from `$DEVICE_FILES/hang` on it does not even give the interpreter's lock back.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import app
from core.config import Settings
from core.progress import Progress
from model_utility import Models
from tests.helpers import FakeResolver, fake_models

FILES = Path(os.environ["DEVICE_FILES"])


class FragileResolver(FakeResolver):
    def super_resolve(self, image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
        while (FILES / "hold").exists():
            time.sleep(0.01)
        if (FILES / "lost").exists():
            from tests.lost_device import accelerator_error

            raise accelerator_error()
        return super().super_resolve(image, scale, progress)


def hang() -> None:
    while not (FILES / "hang").exists():
        time.sleep(0.01)
    ctypes.PyDLL(None).pause()


def load(_: Settings) -> Models:
    threading.Thread(target=hang, daemon="DEVICE_ENDS" in os.environ).start()
    return replace(fake_models(FragileResolver()), device_lost_reason=lost_reason)


def lost_reason(error: Exception) -> str:
    """Here torch is imported, which takes seconds: when it has something to say, and not at each start."""
    from models.device_faults import device_lost_reason

    return device_lost_reason(error, probe=lambda: None)


if __name__ == "__main__":
    app.LOST_END_SECONDS = float(os.environ.get("LOST_END_SECONDS", app.LOST_END_SECONDS))
    app.create_app = partial(app.create_app, load=load)
    sys.exit(app.main())
