"""The service on a network that only sleeps: `python -m tests.scale.sleeping_server`, with the settings of `app.py`.

A pass takes `$SLEEP_SECONDS`, in `$SLEEP_STEPS` steps, and repeats pixels: so every answer has right pixels of its own, and
many workers fit on one machine.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

import numpy as np
from numpy.typing import NDArray

import app
from core.config import Settings
from core.progress import Progress
from model_utility import Models
from tests.helpers import FakeResolver, fake_models


class SleepingResolver(FakeResolver):
    def super_resolve(self, image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
        seconds, steps = float(os.environ.get("SLEEP_SECONDS", "0")), int(os.environ.get("SLEEP_STEPS", "10"))
        for _ in range(steps):
            time.sleep(seconds / steps)
            progress.advance(self.flops(image.shape[0], image.shape[1], scale) / steps)
        return image.repeat(scale, axis=0).repeat(scale, axis=1)


def load(_: Settings) -> Models:
    return fake_models(SleepingResolver())


if __name__ == "__main__":
    app.create_app = partial(app.create_app, load=load)
    sys.exit(app.main())
