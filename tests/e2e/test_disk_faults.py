"""Faults of the disk and of the weights on it, injected for real, each followed by the right response."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.server import ROOT, Server, free_port
from tests.e2e.faults import Check, assert_kept, assert_not_kept, mounts
from tests.helpers import WEIGHTS, file_size_limit

pytestmark = pytest.mark.xdist_group("faults")  # they share a server

# the disk


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    if not folder.is_mount():
        pytest.skip("only root can mount a small disk")
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        folder.chmod(0o500)
    elif not (folder.is_mount() and mounts("-o", "remount,ro", str(folder))):
        pytest.skip("permissions do not bind root, who cannot mount a disk here either")
    try:
        yield
    finally:
        folder.chmod(0o700) if os.geteuid() != 0 else mounts("-o", "remount,rw", str(folder))


def test_a_full_disk_costs_the_file_and_not_the_response(server: Server, outputs: Path, right: Check) -> None:
    with full_disk(outputs):
        assert_not_kept(right(server))
        assert [path.name for path in outputs.iterdir() if path.stat().st_size == 0] == []
    assert_kept(right(server))


def test_a_quota_costs_the_file_and_not_the_response(server: Server, outputs: Path, right: Check) -> None:
    before = set(outputs.iterdir())
    assert server.process
    with file_size_limit(server.process.pid, 1000):
        assert_not_kept(right(server))
    assert set(outputs.iterdir()) == before, "a half file was left"
    assert_kept(right(server))


def test_a_read_only_folder_costs_the_file_and_not_the_response(server: Server, outputs: Path, right: Check) -> None:
    with read_only(outputs):
        assert_not_kept(right(server))
    assert_kept(right(server))


# the weights on disk


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def replace_with_nonsense(file: Path) -> None:
    file.unlink()
    file.write_bytes(b"nonsense" * 1000)


def flip_one_bit(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))


DAMAGES = [flip_one_bit, truncate, replace_with_nonsense]
X4PLUS = "RealESRGAN_x4plus.pth"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_change_nothing_while_it_runs(
    server: Server, weights: Path, right: Check, damage: Callable[[Path], None]
) -> None:
    damage(weights / X4PLUS)
    try:
        right(server)
    finally:
        shutil.copy(WEIGHTS / X4PLUS, weights)


def test_damaged_weights_are_refused_at_the_next_start(tmp_path: Path) -> None:
    flip_one_bit(Path(shutil.copy(WEIGHTS / X4PLUS, tmp_path)))
    environment = {**os.environ, "WEIGHTS_DIR": str(tmp_path), "HOST": "127.0.0.1", "PORT": str(free_port())}
    command = [sys.executable, "app.py"]
    started = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert started.returncode == 1
    last = started.stderr.splitlines()[-1]
    assert "RealESRGAN_x4plus.pth is not the file of the manifest (wrong SHA-256)" in last
    assert "python -m weights.fetch" in last
    assert "Traceback" not in started.stderr
