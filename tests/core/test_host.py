"""The memory limit of cgroups, as containers and services of systemd have them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from core import host


@pytest.mark.parametrize(
    ("of_process", "limits", "expected"),
    [
        ("0::/", {"memory.max": "1000"}, 1000),
        ("0::/", {"memory.max": "max"}, sys.maxsize),
        ("0::/a/b", {"a/memory.max": "1000", "a/b/memory.max": "max"}, 1000),
        ("0::/a/b", {"a/memory.max": "1000", "a/b/memory.max": "3000"}, 1000),
        ("3:cpu:/a\n4:memory:/a\n0::/", {"memory/a/memory.limit_in_bytes": "1000"}, 1000),
        ("4:memory:/docker/1", {"memory/memory.limit_in_bytes": "1000"}, 1000),  # the host's path, which is not there
        ("", {}, sys.maxsize),
    ],
)
def test_the_least_limit_around_the_process_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, of_process: str, limits: dict[str, str], expected: int
) -> None:
    (tmp_path / "cgroup").write_text(of_process)
    for name, limit in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{limit}\n")
    monkeypatch.setattr(host, "_CGROUPS", tmp_path)
    monkeypatch.setattr(host, "_OF_PROCESS", tmp_path / "cgroup")
    assert host.memory_limit_bytes() == expected
