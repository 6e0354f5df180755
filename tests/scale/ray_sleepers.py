"""`python -m workers.ray_worker`, of workers that only sleep: `python -m tests.scale.ray_sleepers --max 2 --cpus 1`.

They have the SLEEP_SECONDS and SLEEP_STEPS of this command, and with SLEEP_PLATFORM, results that count as others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from core.config import Settings
from model_utility import Models
from tests.scale.sleeping_server import load
from workers import ray_worker


def load_with(environment: Mapping[str, str], settings: Settings) -> Models:
    """Load the network that sleeps as the environment says."""
    os.environ.update(environment)
    models = load(settings)
    return replace(models, platform=environment.get("SLEEP_PLATFORM", models.platform))


def main() -> int:
    """The exit status."""
    chosen = {name: value for name, value in os.environ.items() if name.startswith("SLEEP_")}
    return ray_worker.main(partial(load_with, chosen))


if __name__ == "__main__":
    from tests.scale.ray_sleepers import main as importable  # the workers cannot import what is called __main__

    sys.exit(importable())
