"""A server process that faults are injected into, and the right responses, by the pipeline itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bench.server import Server, running_server
from core.config import Settings
from model_utility import Models, load_models
from tests.e2e.faults import Check, Registry, checked_by, golden_bytes, mounts
from tests.helpers import SMALL_SERVER, WEIGHTS


@pytest.fixture(scope="package")
def models() -> Models:
    return load_models(Settings(weights_dir=WEIGHTS, torch_threads=1))


@pytest.fixture(scope="package")
def golden(models: Models) -> Callable[[bytes], bytes]:
    """The right response's bytes, by the pipeline itself, in this process."""
    return partial(golden_bytes, models)


@pytest.fixture(scope="package")
def right(golden: Callable[[bytes], bytes]) -> Check:
    """Ask for a new picture, and see that the response has the right bytes; returns its fields."""
    return checked_by(golden)


@pytest.fixture(scope="package")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        thread = threading.Thread(target=registry.serve_forever)
        thread.start()
        try:
            yield registry
        finally:
            registry.shutdown()
            thread.join()


@pytest.fixture(scope="package")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 2 MB where we may mount one, else a folder."""
    folder = tmp_path_factory.mktemp("outputs")
    mounted = os.geteuid() == 0 and mounts("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder))
    yield folder
    if mounted:
        subprocess.run([shutil.which("umount") or "umount", "--lazy", folder], check=True)  # noqa: S603


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that may be damaged."""
    folder = tmp_path_factory.mktemp("weights")
    for file in WEIGHTS.glob("*.pth"):
        shutil.copy(file, folder)
    return folder


# A failed beat is followed by the next after hardly any time: the jitter of the delay is random, up to all of it.
IMPATIENCE = "import random; random.random = lambda: 0.01"


@pytest.fixture(scope="package")
def server(registry: Registry, outputs: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    hooks = tmp_path_factory.mktemp("hooks")
    (hooks / "sitecustomize.py").write_text(IMPATIENCE)
    settings = {**SMALL_SERVER, "WEIGHTS_DIR": str(weights), "REGISTRY_URL": registry.url, "HEARTBEAT_SECONDS": "0.2"}
    with running_server(outputs, PYTHONPATH=str(hooks), **settings) as running:
        yield running
